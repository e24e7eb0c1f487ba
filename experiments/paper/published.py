"""Published numbers with their sources; what is not here is unknown to the report.

Numbers of one table are comparable only roughly: backbones have 32 to 512 filters, and most papers test on 600 tasks.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A published test accuracy."""

    percent: str  # as printed, perhaps a range over several sources or with its spread
    source: str  # who printed it


_FINN = "Finn et al. 2017"
_ANTONIOU = "Antoniou et al. 2019"

# By data set, way, shot, method and inner steps.
ACCURACY: dict[tuple[str, int, int, str, int], tuple[Published, ...]] = {
    ("omniglot", 20, 1, "maml", 5): (Published("95.8", _FINN),),
    ("omniglot", 20, 5, "maml", 5): (Published("98.9", _FINN),),
    ("omniglot", 20, 1, "maml++", 5): (
        Published("97.65", f"{_ANTONIOU}, Table 1"),
        Published("97.76", f"{_ANTONIOU}, text"),
        Published("96.65 ± 0.06", "users' reruns of the released code"),
    ),
    ("omniglot", 20, 5, "maml++", 5): (Published("99.33", _ANTONIOU),),
    ("omniglot", 5, 1, "maml", 5): (Published("98.57", f"{_ANTONIOU}, own run"),),
    ("omniglot", 5, 5, "maml", 5): (Published("99.82", f"{_ANTONIOU}, own run"),),
    ("omniglot", 5, 1, "maml++", 5): (Published("99.47", _ANTONIOU),),
    ("omniglot", 5, 5, "maml++", 5): (Published("99.93", _ANTONIOU),),
    ("mini_imagenet", 5, 1, "maml", 5): (
        Published("48.70", _FINN),
        Published("47.4 to 49.6", "reruns in the LibFewShot and MeTAL repositories"),
    ),
    ("mini_imagenet", 5, 5, "maml", 5): (
        Published("63.11", _FINN),
        Published("65.0 to 65.2", "reruns in the LibFewShot and MeTAL repositories"),
    ),
    ("mini_imagenet", 5, 1, "maml++", 5): (Published("52.15", _ANTONIOU),),
    ("mini_imagenet", 5, 5, "maml++", 5): (Published("68.32", _ANTONIOU),),
}


def published_text(data: str, way: int, shot: int, method: str, steps: int) -> str:
    """The cell of a table: every known number with its source, or "unknown"."""
    numbers = ACCURACY.get((data, way, shot, method, steps), ())
    return "; ".join(f"{percent} ({source})" for percent, source in numbers) or "unknown"
