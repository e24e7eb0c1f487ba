"""The content of a figure, through matplotlib's public interface."""

import io

import numpy as np
from PIL import Image


def pixels(figure):
    """The figure as uint8 [H, W, 3]; checks that something is drawn."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as image:
        image_pixels = np.asarray(image.convert("RGB"))
    assert (image_pixels != 255).any(axis=-1).mean() > 0.01
    return image_pixels


def texts(axes):
    """Text to its position (x, y); texts that occur twice keep the last."""
    return {text.get_text(): text.get_position() for text in axes.texts}


def boxes(axes):
    """(left, top, right, bottom) of every image, in the order drawn; y grows downwards."""
    extents = (image.get_extent() for image in axes.images)
    return [(left, top, right, bottom) for left, right, bottom, top in extents]


def check_layout(axes):
    """Checks that images are within the figure and do not overlap; returns the share they cover."""
    places = np.array(boxes(axes))
    right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    assert (places >= 0).all()
    assert (places <= (right, bottom, right, bottom)).all()
    apart = (
        places[:, None, :2] >= places[None, :, 2:]
    )  # left or top beyond the other's right or bottom
    overlapping = ~(apart | apart.swapaxes(0, 1)).any(axis=-1)
    assert overlapping.sum() == len(places)  # each with itself
    sides = places[:, 2:] - places[:, :2]
    return float(sides.prod(axis=1).sum() / (right * bottom))
