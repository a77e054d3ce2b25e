"""Some lines of Python that ask an exported file about an image; they need no Densely, but for safetensors."""

from __future__ import annotations

from densely.export.description import FILE, Description
from densely.model_file import KEY

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def lines(format: str, file: str, description: Description) -> str:
    """The lines.

    Args:
        format: as in `export`.
        file: its name.
        description: what is in it.
    """
    imports, asked = {
        "onnx": (
            ["import json, onnxruntime"],
            [
                f'session = onnxruntime.InferenceSession("{file}")',
                f'names = json.loads(session.get_modelmeta().custom_metadata_map["{KEY}"])["class_names"]',
                'p = session.run(["probabilities"], {"image": image})[0][0]',
            ],
        ),
        "keras": (
            ["import json, keras, zipfile"],
            [
                f'model = keras.saving.load_model("{file}")',
                f'names = json.loads(zipfile.ZipFile("{file}").read("{FILE}"))["class_names"]',
                "p = model.predict(image, verbose=0)[0]",
            ],
        ),
        "torch": (
            ["import json, torch"],
            [
                f'extra = {{"{FILE}": ""}}',
                f'model = torch.export.load("{file}", extra_files=extra).module()',
                f'names = json.loads(extra["{FILE}"])["class_names"]',
                "p = model(torch.tensor(image))[0].numpy()",
            ],
        ),
        "safetensors": (
            ["import densely"],
            [
                f'file = densely.ModelFile.open("{file}")',
                "names = file.inputs.class_names",
                "p = file.model().predict(image, verbose=0)[0]",
            ],
        ),
    }[format]
    height, width, channels = description.input_shape
    if channels in _MODES:
        imports = [*imports, "import numpy as np", "from PIL import Image, ImageOps"]
        last = ", ..., None" if channels == 1 else ""
        opened = f'Image.open("photo.png").convert("{_MODES[channels]}")'
        # As training fitted its images: scaled until they just cover the size, the overhang cut off.
        fitted = f"ImageOps.fit({opened}, ({width}, {height}), Image.Resampling.BICUBIC)"
        image = [f"image = np.asarray({fitted})[None{last}]"]
    else:
        imports = [*imports, "import numpy as np"]
        image = [f'image = np.load("image.npy")[None]  # uint8, ({height}, {width}, {channels})']
    if not description.with_preprocessing:
        image.append(f"image = np.float32({formula(description, 'image')})")
    if description.batch not in ("dynamic", 1):
        image.append(f"image = np.repeat(image, {description.batch}, axis=0)")
    if description.multi_label:
        answer = "print({name: v for name, v in zip(names, p) if v >= 0.5})"
    else:
        answer = "print(names[p.argmax()], p.max())"
    return "\n".join([*imports, "", *image, *asked, answer])


def formula(description: Description, pixels: str) -> str:
    """The preprocessing, as NumPy would write it."""
    if description.preprocessing["kind"] == "unit":
        return f"{pixels} / 255"
    mean, std = ([float(f"{value:.7g}") for value in description.preprocessing[name]] for name in ("mean", "std"))
    return f"({pixels} / 255 - {mean}) / {std}"
