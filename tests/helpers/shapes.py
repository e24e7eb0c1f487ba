"""Five simple shapes, drawn as a user might: black lines on white, never twice in the same place."""

import numpy as np
from PIL import Image, ImageDraw

SIDE, JITTER, _LINE = 96, 5, 5
# Closed lines through these points; of the cross two lines.
_LINES = {
    "circle": [[(48 + 30 * np.cos(a), 48 + 30 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 33)]],
    "cross": [[(48, 18), (48, 78)], [(18, 48), (78, 48)]],
    "square": [[(20, 20), (76, 20), (76, 76), (20, 76), (20, 20)]],
    "triangle": [[(48, 18), (78, 74), (18, 74), (48, 18)]],
    "zigzag": [[(18, 28), (76, 28), (20, 70), (78, 70)]],
}
NAMES = tuple(_LINES)


def draw(name, rng):
    """The shape as a grey Pillow image, moved by up to `JITTER` pixels in each direction."""
    image = Image.new("L", (SIDE, SIDE), 255)
    shift = rng.integers(-JITTER, JITTER + 1, 2)
    for points in _LINES[name]:
        moved = [tuple(np.asarray(point) + shift) for point in points]
        ImageDraw.Draw(image).line(moved, fill=0, width=_LINE, joint="curve")
    return image


def write_shapes(folder, queries=6, seed=0):
    """Writes `support/<shape>/0.png`, one of each, and `query/<shape>-<number>.png`."""
    rng = np.random.default_rng(seed)
    (folder / "query").mkdir(parents=True)
    for name in NAMES:
        (folder / "support" / name).mkdir(parents=True)
        draw(name, rng).save(folder / "support" / name / "0.png")
        for number in range(queries):
            draw(name, rng).save(folder / "query" / f"{name}-{number}.png")
