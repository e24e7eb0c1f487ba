"""Classifies images with an exported model: JAX, NumPy, Pillow and flatbuffers suffice.

    python experiments/run_exported.py MODEL IMAGE ...

MODEL is a file written by `FewShotClassifier.export`; or by `export_adaptation`, when the first way * shot images are
the ones to learn from, the first class's first. The images are dark writing on light paper, for a model of writing; a
model of photographs takes RGB as it is.
"""

import sys

import jax.export
import numpy as np
from PIL import Image, ImageOps

with open(sys.argv[1], "rb") as file:
    model = jax.export.deserialize(bytearray(file.read()))
number, height, width, channels = model.in_avals[0].shape
images = []
for path in sys.argv[2:]:
    image = Image.open(path).convert("L" if channels == 1 else "RGB")
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    images.append(ImageOps.invert(image) if channels == 1 else image)
batch = np.stack([np.asarray(image) for image in images]).reshape(-1, height, width, channels)
support = number if len(model.in_avals) == 2 else 0
inputs = [batch[:support], batch[support:]] if support else [batch]
for path, row in zip(sys.argv[2 + support :], np.asarray(model.call(*inputs)), strict=True):
    print(path, *(f"{probability:.6f}" for probability in row), sep="\t")
