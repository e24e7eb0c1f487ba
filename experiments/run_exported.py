"""Classifies images with a file written by `FewShotClassifier.export`: JAX, NumPy, Pillow and flatbuffers suffice.

    python experiments/run_exported.py MODEL IMAGE ...

The images are dark writing on light paper, for a model of writing; a model of photographs takes RGB as it is.
"""

import sys

import jax.export
import numpy as np
from PIL import Image, ImageOps

with open(sys.argv[1], "rb") as file:
    model = jax.export.deserialize(bytearray(file.read()))
_, height, width, channels = model.in_avals[0].shape
images = []
for path in sys.argv[2:]:
    image = Image.open(path).convert("L" if channels == 1 else "RGB")
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    images.append(ImageOps.invert(image) if channels == 1 else image)
batch = np.stack([np.asarray(image) for image in images]).reshape(-1, height, width, channels)
for path, row in zip(sys.argv[2:], np.asarray(model.call(batch)), strict=True):
    print(path, *(f"{probability:.6f}" for probability in row), sep="\t")
