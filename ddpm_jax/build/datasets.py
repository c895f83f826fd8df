"""config.data: the one place where its name is looked up."""

from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.code import Own, checked, is_own

NO_OWN: Own = MappingProxyType({})


def dataset(c: ConfigDict, own: Own = NO_OWN) -> data.Dataset:
    """The data set of config.data.name, without reading it.

    Args:
      c: the config.
      own: data sets of one's own by "package.module:name": a function or a `data.Dataset`.

    Raises:
      UserError: for a name of one's own that is not among them, or names no data set.
    """
    return data.lookup(c.data.name, _own(c, own))


def source(c: ConfigDict, split: str, own: Own = NO_OWN, **options: Any) -> data.Source:
    """The data of "train" or "validation"; reads them.

    Args:
      c: the config.
      split: "train" or "validation".
      own: as of `dataset`.
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
    return data.build_source(d.name, split, own=_own(c, own), **size, **stated | options)


def _own(c: ConfigDict, own: Own) -> Any:
    """What the name stands for if it is of one's own, else None."""
    name = c.data.name
    return checked("config.data.name", name, own) if is_own(name) else None
