"""Does training on one's own images pay? Draws small folders of photographs, trains on them and compares.

    python -m experiments.own_images --output=experiments/results/own_images/own_images.json

A draw has 18 classes of 12 images to train on, and five other classes of which four images are shown and ten are
classified: by the model trained on the folder and by the one that it started from, each image alone. An image is a
coloured figure with a texture before a noisy background, in another place, size, light, file format and number of
pixels each time. A draw that is in the file is not made again.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from absl import flags, logging
from PIL import Image, ImageDraw, ImageFilter

from experiments.command_line import run_main
from mamlpp_jax.artifacts.provenance import provenance
from mamlpp_jax.errors import MamlppError
from mamlpp_jax.inference.classifier import FewShotClassifier
from mamlpp_jax.utils.files import exists, read_json, write_json

CLASSES, IMAGES, NEW_CLASSES, SHOWN, ASKED = 18, 12, 5, 4, 10
_FORMATS = ("png", "jpg", "webp", "bmp")
_START = "photos"


class Figure(NamedTuple):
    """What images of a class have in common."""

    corners: int  # of the star
    depth: float  # of its notches, 0 for a polygon
    colours: np.ndarray  # [2, 3], of the texture's stripes, 0..255
    waves: np.ndarray  # [2], of the texture, in periods


def draw_class(rng: np.random.Generator) -> Figure:
    """A class at random."""
    colours = rng.uniform(30, 255, (2, 3))
    return Figure(int(rng.integers(3, 8)), rng.uniform(0, 0.6), colours, rng.normal(0, 4, 2))


def draw_image(figure: Figure, rng: np.random.Generator) -> Image.Image:
    """An image of a class, of 64 to 200 pixels in each direction."""
    width, height = (int(n) for n in rng.integers(64, 200, 2))
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    share = 0.5 + 0.5 * np.sin(
        2 * np.pi * (figure.waves[0] * x + figure.waves[1] * y + rng.random())
    )
    texture = share[..., None] * figure.colours[0] + (1 - share[..., None]) * figure.colours[1]
    slope = rng.uniform(-60, 60, 2)
    ground = rng.uniform(40, 215, 3) + (slope[0] * x + slope[1] * y)[..., None]
    mask = np.asarray(_star(figure, width, height, rng), np.float32)[..., None] / 255
    light = rng.uniform(0.6, 1.3)
    pixels = light * (mask * texture + (1 - mask) * ground) + rng.normal(0, 18, ground.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _star(figure: Figure, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """The figure's mask at a random place, size and angle."""
    radius = rng.uniform(0.25, 0.45) * min(width, height)
    centre = rng.uniform(0.4, 0.6, 2) * (width, height)
    angles = rng.uniform(0, 2 * np.pi) + np.pi * np.arange(2 * figure.corners) / figure.corners
    lengths = radius * np.where(np.arange(2 * figure.corners) % 2, 1 - figure.depth, 1)
    points = centre + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in points], fill=255)
    return mask.filter(ImageFilter.GaussianBlur(1))


def measure(draw: int, folder: pathlib.Path, minutes: int) -> dict[str, Any]:
    """Draws, trains and compares; the random numbers depend on `draw` alone."""
    rng = np.random.default_rng(draw)
    figures = [draw_class(rng) for _ in range(CLASSES + NEW_CLASSES)]
    images = folder / "images"
    for number, figure in enumerate(figures[:CLASSES]):
        (images / f"class{number:02}").mkdir(parents=True, exist_ok=True)
        for index in range(IMAGES):
            name = f"class{number:02}/{index}.{rng.choice(_FORMATS)}"
            draw_image(figure, rng).save(images / name)
    new = figures[CLASSES:]
    shown, asked = (
        [(draw_image(figure, rng), label) for label, figure in enumerate(new) for _ in range(each)]
        for each in (SHOWN, ASKED)
    )
    workdir, began = folder / "run", time.monotonic()
    argument = f"dir={images},minutes={minutes}"
    command = [sys.executable, "-m", "mamlpp_jax.main", f"--config=own_images:{argument}"]
    done = subprocess.run([*command, f"--workdir={workdir}"], check=False)
    if done.returncode:
        raise MamlppError(f"draw {draw}: training ended with exit code {done.returncode}.")
    row: dict[str, Any] = {"draw": draw, "seconds": round(time.monotonic() - began)}
    for name, model in (("trained", workdir), (_START, _START)):
        clf = FewShotClassifier.from_pretrained(model)
        clf.fit([image for image, _ in shown], [label for _, label in shown])
        score = clf.score([image for image, _ in asked], [label for _, label in asked])
        row[name] = round(score, 4)
    return row


def _main() -> None:
    given = flags.FLAGS
    path = pathlib.Path(given.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    command = f"python -m experiments.own_images --draws={given.draws} --minutes={given.minutes}"
    new: dict[str, Any] = {"command": command, "rows": []}
    content = read_json(path) if exists(path) else new
    for draw in range(given.draws):
        if any(row["draw"] == draw for row in content["rows"]):
            continue
        folder = pathlib.Path(given.folder) / f"draw{draw}"
        content["rows"].append(measure(draw, folder, given.minutes) | provenance(1))
        write_json(path, content)
        logging.info("%s", content["rows"][-1])


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    flags.DEFINE_string("folder", "runs/own_images", "Folder of the drawn images and the runs.")
    flags.DEFINE_integer("draws", 5, "How many folders.", lower_bound=1)
    flags.DEFINE_integer("minutes", 10, "Of training, as the configuration's argument.", 1)
    run_main(_main)
