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
_OWN = f"{_ANTONIOU}, own run"
_TABLE_1 = f"{_ANTONIOU}, Table 1"
_TABLE_2 = f"{_ANTONIOU}, Table 2"
_RERUNS = "reruns in the LibFewShot and MeTAL repositories"

# By data set, way, shot, method and inner steps.
ACCURACY: dict[tuple[str, int, int, str, int], tuple[Published, ...]] = {
    ("omniglot", 20, 1, "maml", 5): (
        Published("95.8 ± 0.3", _FINN),
        Published("91.27 ± 1.07", f"{_TABLE_1}, own run"),
    ),
    ("omniglot", 20, 1, "maml+msl", 5): (Published("91.53 ± 0.69", _TABLE_1),),
    ("omniglot", 20, 1, "maml+da", 5): (Published("92.3 ± 0.55", _TABLE_1),),
    ("omniglot", 20, 1, "maml+bnrs+bnwb", 5): (Published("95.35 ± 0.23", _TABLE_1),),
    ("omniglot", 20, 1, "maml+lslr", 5): (Published("95.77 ± 0.38", _TABLE_1),),
    ("omniglot", 20, 1, "maml+ca", 5): (Published("93.03 ± 0.44", _TABLE_1),),
    ("omniglot", 20, 1, "maml++", 5): (
        Published("97.65 ± 0.05", _TABLE_1),
        Published("97.76", f"{_ANTONIOU}, text"),
        Published("96.65 ± 0.06", "users' reruns of the released code"),
    ),
    ("omniglot", 20, 5, "maml", 5): (
        Published("98.9 ± 0.2", _FINN),
        Published("98.78", _OWN),
    ),
    ("omniglot", 20, 5, "maml++", 5): (Published("99.33 ± 0.03", _ANTONIOU),),
    ("omniglot", 5, 1, "maml", 5): (
        Published("98.7 ± 0.4", _FINN),
        Published("98.57", _OWN),
    ),
    ("omniglot", 5, 5, "maml", 5): (
        Published("99.9 ± 0.1", _FINN),
        Published("99.82", _OWN),
    ),
    ("omniglot", 5, 1, "maml++", 5): (Published("99.47", _ANTONIOU),),
    ("omniglot", 5, 5, "maml++", 5): (Published("99.93", _ANTONIOU),),
    ("mini_imagenet", 5, 1, "maml", 5): (
        Published("48.70", _FINN),
        Published("48.25 ± 0.62", f"{_TABLE_2}, own run"),
        Published("47.4 to 49.6", _RERUNS),
    ),
    ("mini_imagenet", 5, 5, "maml", 5): (
        Published("63.11", _FINN),
        Published("64.39 ± 0.31", f"{_TABLE_2}, own run"),
        Published("65.0 to 65.2", _RERUNS),
    ),
    ("mini_imagenet", 5, 1, "maml++", 1): (Published("51.05 ± 0.31", _TABLE_2),),
    ("mini_imagenet", 5, 1, "maml++", 2): (Published("51.49 ± 0.25", _TABLE_2),),
    ("mini_imagenet", 5, 1, "maml++", 3): (Published("51.11 ± 0.11", _TABLE_2),),
    ("mini_imagenet", 5, 1, "maml++", 4): (Published("51.65 ± 0.34", _TABLE_2),),
    ("mini_imagenet", 5, 1, "maml++", 5): (Published("52.15 ± 0.26", _TABLE_2),),
    ("mini_imagenet", 5, 5, "maml++", 5): (Published("68.32 ± 0.44", _TABLE_2),),
}


def published_text(data: str, way: int, shot: int, method: str, steps: int) -> str:
    """The cell of a table: every known number with its source, or "unknown"."""
    numbers = ACCURACY.get((data, way, shot, method, steps), ())
    return "; ".join(f"{percent} ({source})" for percent, source in numbers) or "unknown"
