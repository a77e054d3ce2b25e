"""What is asked and what is answered, over HTTP, from a real server."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import NAMES, Served, coloured, encoded, expected, served, write_model

from densely.explain import overlay

RNG = np.random.default_rng(0)
PNG = {"Content-Type": "image/png"}
SMALL = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def test_one_image_as_it_is(server: Served) -> None:
    for kind, options in (("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})):
        for type_ in (f"image/{kind.lower()}", "application/octet-stream", "IMAGE/X-ANYTHING; charset=utf-8"):
            found = server.client.post(
                "predict", content=encoded(SMALL, kind, **options), headers={"Content-Type": type_}
            )
            assert found.status_code == 200, found.text
            (one,) = found.json()["images"]
            p = expected(SMALL)
            assert [t["class"] for t in one["top"]] == [NAMES[i] for i in np.argsort(-p)]
            np.testing.assert_allclose([t["probability"] for t in one["top"]], np.sort(p)[::-1], atol=2e-6)
            assert one.keys() == {"top"}


def test_top_is_how_many(server: Served) -> None:
    for top, count in ((1, 1), (2, 2), (3, 3), (1000, 3)):
        found = server.client.post(f"predict?top={top}", content=encoded(SMALL), headers=PNG).json()
        assert len(found["images"][0]["top"]) == count
    for wrong in ("top=0", "top=1001", "top=x", "maps=perhaps"):
        found = server.client.post(f"predict?{wrong}", content=encoded(SMALL), headers=PNG)
        assert found.status_code == 422
        assert found.json()["error"].startswith(f"{wrong}: ")
    found = server.client.post("predict?tpo=2", content=encoded(SMALL), headers=PNG)
    assert found.status_code == 422
    assert found.json()["error"] == "There is no parameter tpo: there are top and maps."


def test_maps_are_those_of_each_class(server: Served) -> None:
    found = server.client.post("predict?maps=true", content=encoded(SMALL), headers=PNG).json()["images"][0]
    blocks = SMALL.reshape(2, 4, 2, 4, 3).mean(axis=(1, 3)) * (10 / 255)
    for one in found["top"]:
        values = blocks[..., NAMES.index(one["class"])]
        np.testing.assert_allclose(one["map"]["values"], values, atol=1e-4)
        head, _, data = one["map"]["overlay"].partition(",")
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            off = np.abs(np.asarray(image).astype(int) - overlay(values.astype(np.float32)))
        assert off.max() <= 1  # of rounding


def test_many_images_in_order_and_a_bad_one_spoils_no_other(server: Served) -> None:
    images = RNG.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    files = [("any", (f"{i}.png", encoded(image))) for i, image in enumerate(images)]
    files[3] = ("another", ("damaged.png", encoded(images[3])[:90]))
    files[5] = ("one more", ("letter.png", b"Dear all,"))
    found = server.client.post("predict", files=files, data={"a field": "that is no file"})
    assert found.status_code == 200
    told = found.json()["images"]
    assert [one["name"] for one in told] == [name for _, (name, _) in files]
    assert told[3]["error"].startswith("The image cannot be read as an image")
    assert told[5]["error"] == "The image is not a PNG, JPEG, WebP or BMP image: convert or remove it."
    for i in (0, 1, 2, 4, 6, 7, 8):
        assert told[i]["top"][0]["class"] == NAMES[expected(images[i]).argmax()]


def test_images_are_brought_to_the_size_as_in_training(server: Served) -> None:
    wide = np.zeros((30, 90, 3), np.uint8)
    wide[:, :30], wide[:, 30:60], wide[:, 60:] = (250, 0, 0), (0, 0, 250), (250, 0, 0)
    found = server.client.post("predict", content=encoded(wide), headers=PNG).json()
    assert found["images"][0]["top"][0]["class"] == "blue"  # the middle is seen


JPEG = encoded(np.zeros((64, 64), np.uint8), "JPEG", progressive=True)
LAST = JPEG[JPEG.rindex(b"\xff\xda") : JPEG.rindex(b"\xff\xd9")]
SCANS = JPEG[:-2] + 200 * LAST + JPEG[-2:]
RUN_LENGTH = bytearray(encoded(np.zeros((8, 8), np.uint8), "BMP"))
RUN_LENGTH[30] = 1


@pytest.mark.parametrize(
    ("body", "kind", "status", "said"),
    [
        (b"", "image/png", 400, "The body is empty"),
        (b"Dear all,", "image/png", 415, "is not a PNG, JPEG, WebP or BMP image"),
        (b"GIF89a" + bytes(50), "image/gif", 415, "is not a PNG"),
        (encoded(SMALL), "text/plain", 415, "not as text/plain."),
        (encoded(SMALL), "application/x-www-form-urlencoded", 415, "(curl: -H 'Content-Type: image/png')"),
        (encoded(SMALL), "", 415, "not as nothing in particular"),
        (encoded(SMALL)[:90], "image/png", 422, "cannot be read as an image"),
        (encoded(SMALL, "JPEG")[:300], "image/jpeg", 422, "cannot be read as an image"),
        (encoded(Image.new("1", (4100, 4100))), "image/png", 413, "has 16,810,000 pixels, above the limit"),
        (encoded(Image.new("1", (20_000, 20_000))), "image/png", 413, "pixels"),
        (SCANS, "image/jpeg", 422, "more than 100 scans"),
        (bytes(RUN_LENGTH), "image/bmp", 422, "run-length encoded"),
        (b"no form", "multipart/form-data", 400, "The form cannot be read: Missing boundary"),
        (b"no form", "multipart/form-data; boundary=x", 400, "The form"),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400, "The form has no file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_wrong_body_has_its_status_and_sentence(
    server: Served, body: bytes, kind: str, status: int, said: str
) -> None:
    found = server.client.post("predict", content=body, headers={"Content-Type": kind} if kind else {})
    assert found.status_code == status, found.text
    assert said in found.json()["error"]
    # It goes on.
    assert server.client.post("predict", content=coloured(250, 0, 0), headers=PNG).status_code == 200


def test_a_form_of_bad_images_only_has_the_first_one_s_status(server: Served) -> None:
    files = [("a", ("1.png", encoded(SMALL)[:90])), ("a", ("2.png", b"x"))]
    found = server.client.post("predict", files=files)
    assert found.status_code == 422
    told = found.json()
    assert [one["name"] for one in told["images"]] == ["1.png", "2.png"]
    assert told["error"] == told["images"][0]["error"]


def test_too_many_images_are_refused_whole(server: Served) -> None:
    for count, status in ((64, 200), (65, 413), (80, 413)):
        found = server.client.post("predict", files=[("a", (f"{i}.png", encoded(SMALL))) for i in range(count)])
        assert found.status_code == status
    assert found.json()["error"] == "A request may have 64 images: send the others in another."


def test_several_labels_an_image_and_numbers_that_are_none(tmp_path: Path) -> None:
    with served(write_model(tmp_path / "m.onnx", multi_label=True)) as several:
        for colour, labels in (((250, 0, 200), ["red", "blue"]), ((0, 0, 0), []), ((0, 200, 0), [NAMES[1]])):
            found = several.client.post("predict", content=coloured(*colour), headers=PNG).json()["images"][0]
            assert found["labels"] == labels
            p = np.sort(expected(np.full((8, 8, 3), colour, np.uint8), multi_label=True))[::-1]
            np.testing.assert_allclose([t["probability"] for t in found["top"]], p, atol=2e-6)


def test_the_interface_describes_itself_and_asks_nobody(server: Served) -> None:
    told = server.client.get("openapi.json").json()
    assert set(told["paths"]) == {"/predict", "/health", "/metrics", "/model"}
    predict = told["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {"image/*", "application/octet-stream", "multipart/form-data"}
    assert {"200", "400", "408", "413", "415", "422", "503"} <= set(predict["responses"])
    answer = told["components"]["schemas"]["Likely"]["properties"]
    assert {"class", "probability", "map"} == set(answer)
    for path in ("docs", "redoc"):
        assert server.client.get(path).status_code == 404
    page = server.client.get("").text
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page


def test_health_model_and_samples(server: Served) -> None:
    assert server.client.get("health").json()["status"] == "ok"
    told = server.client.get("model").json()
    assert told["class_names"] == list(NAMES)
    assert told["input_shape"] == [8, 8, 3]
    assert told["samples"] == ["a red one", "b blue one"]
    assert server.client.get("samples/1").content == coloured(10, 40, 220)
    for nothing in ("samples/2", "samples/-1", "samples/x", "samples/../model.onnx", "nothing"):
        assert server.client.get(nothing).status_code in (404, 422), nothing
    assert server.client.get("predict").status_code == 405
    assert server.client.delete("model").status_code == 405


def test_every_answer_bears_the_headers_of_a_careful_server(server: Served) -> None:
    answers = [server.client.get(path) for path in ("", "health", "metrics", "nothing", "openapi.json", "samples/0")]
    answers += [server.client.post("predict", content=body, headers=PNG) for body in (encoded(SMALL), b"x", b"")]
    for found in answers:
        assert found.headers["X-Content-Type-Options"] == "nosniff"
        assert found.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert found.headers["Server"] == "densely"
        assert found.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in found.headers


def test_what_happened_is_counted(server: Served) -> None:
    names = {
        'densely_requests_total{path="/predict",status="200"}': 3,
        'densely_requests_total{path="/predict",status="415"}': 1,
        'densely_requests_total{path="other",status="404"}': 2,
        'densely_images_total{result="right"}': 4,
        'densely_images_total{result="refused"}': 2,
        'densely_errors_total{kind="not_an_image"}': 2,
        "densely_request_seconds_count": 4,
        "densely_batch_size_sum": 4,
        "densely_network_seconds_count": 3,
    }
    before = {name: server.metric(name) for name in names}
    for body in (encoded(SMALL), encoded(SMALL), b"x"):
        server.client.post("predict", content=body, headers=PNG)
    files = [("a", ("1", encoded(SMALL))), ("a", ("2", b"x")), ("a", ("3", encoded(SMALL)))]
    server.client.post("predict", files=files)
    server.client.get("a")
    server.client.get("b")
    grown = {name: server.metric(name) - before[name] for name in names}
    # Two images of one request may go to the network together, or one after the other.
    grown["densely_network_seconds_count"] = min(3, grown["densely_network_seconds_count"])
    assert grown == names
    assert server.metric("densely_queue_images") == 0
    assert server.metric("densely_requests_in_flight") == 0
    assert server.metric("process_resident_memory_bytes") > 10e6


def test_json_is_json(server: Served) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    found = server.client.post("predict?maps=true", content=coloured(0, 0, 0), headers=PNG)
    json.loads(found.text, parse_constant=refuse)
