"use strict";
const body = document.body;
const seen = document.querySelector("#heat");
if (seen) seen.addEventListener("change", () => body.classList.toggle("plain", !seen.checked));

const only = document.querySelector("#only");
if (only) only.addEventListener("change", () => {
  let count = 0;
  for (const item of document.querySelectorAll("#mistakes-list > li")) {
    item.hidden = only.value !== "" && !JSON.parse(item.dataset.classes).includes(only.value);
    count += !item.hidden;
  }
  document.querySelector("#only-count").textContent = count + (count === 1 ? " image" : " images");
});

const dialog = document.querySelector("dialog");
let shown = null;
const put = (tag, words, inside, name) => {
  const made = document.createElement(tag);
  made.textContent = words;
  if (name) made.className = name;
  inside.append(made);
  return made;
};
const show = (button) => {
  shown = button;
  const told = JSON.parse(button.dataset.told);
  const views = dialog.querySelector(".views");
  views.replaceChildren();
  const view = (caption, nodes) => {
    const figure = put("figure", "", views);
    const shot = put("span", "", figure, "shot");
    for (const node of nodes) {
      const copy = node.cloneNode();
      copy.removeAttribute("loading");
      shot.append(copy);
    }
    put("figcaption", caption, figure);
  };
  const image = button.querySelector(".image"), heat = button.querySelector(".heat");
  view("as it is", [image]);
  if (heat) view("what speaks for " + told.of, [image, heat]);
  const beside = button.querySelector(".beside");
  if (beside) view("training image", [beside]);
  dialog.querySelector("h3").textContent = told.title;
  dialog.querySelector(".note").textContent = told.note;
  const bars = dialog.querySelector(".bars");
  bars.replaceChildren();
  for (const [name, share] of told.top) {
    put("span", name, bars);
    put("b", "", put("i", "", bars)).style.width = 100 * share + "%";
    put("span", (100 * share).toFixed(1) + " %", bars, "n");
  }
  if (!dialog.open) dialog.showModal();
};
const step = (by) => {
  const all = [...shown.closest("ul").querySelectorAll("li:not([hidden]) button")];
  show(all[(all.indexOf(shown) + by + all.length) % all.length]);
};
for (const button of document.querySelectorAll(".gallery button")) button.addEventListener("click", () => show(button));
if (dialog) {
  dialog.querySelector(".previous").addEventListener("click", () => step(-1));
  dialog.querySelector(".next").addEventListener("click", () => step(1));
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => shown && shown.focus());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  });
}
// On paper nothing can be opened.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((item) => { item.open = true; }));
