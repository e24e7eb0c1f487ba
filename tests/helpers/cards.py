"""Reads model cards."""

import yaml


def front_matter(card):
    """What a model hub reads of a card."""
    before, text, _ = card.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(text)
