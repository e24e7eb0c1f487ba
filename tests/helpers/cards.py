"""Reads model cards."""

import yaml


def front_matter(card):
    """The part of a card that a model hub reads."""
    before, text, _ = card.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(text)
