"""config.data: the one place where its name is looked up."""

from typing import Any

from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.config.checks import image_shape


def dataset(c: ConfigDict) -> data.Dataset:
    """The data set of config.data.name, without reading it."""
    return data.lookup(c.data.name)


def source(c: ConfigDict, split: str, **options: Any) -> data.Source:
    """The data of "train" or "validation"; reads them.

    Args:
      c: the config.
      split: "train" or "validation".
      **options: of the data set, in place of config.data's.

    Raises:
      UserError: as `data.build_source`.
    """
    d = c.data
    stated = {
        "data_dir": d.data_dir or None,
        "holdout": d.holdout,
        "labels_file": d.labels_file or None,
        "on_error": d.on_error,
        "train_split": d.train_split,
        "validation_split": d.validation_split,
        "max_objects": d.max_objects,
        "held_out": d.held_out,
    }
    size = {"image_size": image_shape(c)[:2], "channels": d.channels}
    return data.build_source(d.name, split, **size, **stated | options)
