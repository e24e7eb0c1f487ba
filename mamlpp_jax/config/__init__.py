"""Configurations: every field with its default, the methods of the paper, and validation.

A configuration file calls `default_config`, changes what its experiment needs and picks a method:

    config = default_config()
    config.task.way = 20
    apply_method(config, "maml++")

Where to look:

    fields      all fields, with defaults, allowed values and meaning
    methods     MAML, MAML++ and the components between them
    parts       backbones, inner optimizers and outer gradients, with the fields they take
    protocols   the paper's protocol, the released code's, and a short one
    validation  what makes a configuration invalid
    stored      configurations of files that an earlier version may have written
    identity    which fields tell runs apart, and values that follow from fields
    arguments   the argument of a configuration file, `--config=FILE:way=20`
    rules       the choices and ranges that fields use

Nothing here imports JAX.
"""

from mamlpp_jax.config.arguments import parse_argument as parse_argument
from mamlpp_jax.config.fields import default_config as default_config, flatten as flatten
from mamlpp_jax.config.identity import (
    config_hash as config_hash,
    data_label as data_label,
    differences as differences,
    eval_statistics as eval_statistics,
    serves_any_way as serves_any_way,
    total_steps as total_steps,
    with_default_compute as with_default_compute,
    without_folders as without_folders,
)
from mamlpp_jax.config.methods import apply_method as apply_method
from mamlpp_jax.config.photographs import photograph_config as photograph_config
from mamlpp_jax.config.protocols import apply_protocol as apply_protocol
from mamlpp_jax.config.stored import check_field as check_field, complete as complete
from mamlpp_jax.config.validation import (
    FEW_CLASSES as FEW_CLASSES,
    check_channels as check_channels,
    check_chunk as check_chunk,
    check_class_sizes as check_class_sizes,
    check_classes as check_classes,
    check_types as check_types,
    check_value as check_value,
    check_values as check_values,
    from_dict as from_dict,
    parse_fractions as parse_fractions,
    validate as validate,
)
