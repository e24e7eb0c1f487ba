"""The model card of a saved model: Markdown behind the front matter that model hubs read."""

from __future__ import annotations

from mamlpp_jax import config as config_lib
from mamlpp_jax.config.parts import INNER_LOSSES
from mamlpp_jax.inference.model import FewShotModel

_CARD = """\
---
library_name: mamlpp_jax
pipeline_tag: image-classification
{front}tags:
- few-shot-learning
- meta-learning
- maml
- jax
---

# {title}

A few-shot image classifier, trained with {method} by mamlpp_jax ("How to train your MAML", Antoniou, Edwards, Storkey,
ICLR 2019). It learns new classes from a few images of each.

```python
from mamlpp_jax import FewShotClassifier

clf = FewShotClassifier.from_pretrained("{name}")
clf.fit(images, labels)
clf.predict(more_images)
```

| | |
|---|---|
| trained on | {data} |
| tasks in training | {way}-way {shot}-shot, {inner_steps} inner steps, `{train_statistics}` statistics |
| outer steps | {steps} |
| seed | {seed} |
| images | {inputs} |
| used with | {used_steps} inner steps, `{statistics}` statistics |

{body}
"""
_OF_EACH_CLASS = """\
More classes than {way} are possible and cost much accuracy: the outputs beyond those trained start as their mean."""
_ANY = "No output belongs to a class, so that there may be any number of them."
_AT_MOST = "It learns at most {way} classes: its inner loss has learned of as many outputs."
_TRANSDUCTIVE = """\
Its inner loop reads the unlabelled queries of a task: it is for `--mode=evaluate`; the classifier above refuses it."""
_BODY = """\
{ways}
Images that differ much from the training data are not what it is for: photographs, say, for a model of writing."""


def model_card(
    model: FewShotModel, *, name: str = "FOLDER", licence: str = "", body: str = ""
) -> str:
    """The card of a model that `from_pretrained(name)` loads, with a licence such as "mit", or "" for none.

    `body` is the Markdown below the table; "" for two sentences on the model's limits.
    """
    config, image = model.config, model.image_format
    loss = INNER_LOSSES[config.inner.loss]
    ways = _ANY if config_lib.serves_any_way(config) else _OF_EACH_CLASS
    ways = _AT_MOST if loss.of_outputs else ways
    ways = f"{ways}\n{_TRANSDUCTIVE}" if loss.transductive else ways
    ink = ", ink on empty paper of either polarity" if image.polarity else ""
    return _CARD.format(
        front=f"license: {licence}\n" if licence else "",
        title=f"{config.data.name}, {model.way}-way {config.task.shot}-shot",
        method=config.method,
        name=name,
        data=config.data.name,
        way=model.way,
        shot=config.task.shot,
        inner_steps=config.train.inner_steps,
        train_statistics=config.norm.train_statistics,
        steps=", ".join(map(str, model.steps)),
        seed=config.seed,
        inputs=f"{image.size} x {image.size}, {'grey' if image.channels == 1 else 'colour'}{ink}"
        if model.takes_images
        else "no images; see `adapt_and_predict`",
        used_steps=model.inner_steps,
        statistics=model.statistics,
        body=body or _BODY.format(ways=ways.format(way=model.way)),
    )
