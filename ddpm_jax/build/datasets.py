"""config.data: the one place where its name is looked up."""

from typing import Any

from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.choose import keywords
from ddpm_jax.config.own_code import NONE, Own, checked, is_own


def dataset(c: ConfigDict, own: Own = NONE) -> data.Dataset:
    """The data set of config.data.name, without reading it.

    Args:
      c: the config.
      own: data sets of one's own by "package.module:name": a function or a `data.Dataset`.

    Raises:
      UserError: for a name of one's own that is not among them, or names no data set.
    """
    return data.lookup(c.data.name, _own(c, own))


def source(c: ConfigDict, split: str, own: Own = NONE, **options: Any) -> data.Source:
    """The data of "train" or "validation"; reads them.

    Args:
      c: the config.
      split: "train" or "validation".
      own: as of `dataset`.
      **options: of the data set, in place of config.data's.

    Raises:
      UserError: as `data.build_source`.
    """
    size = {"image_size": image_shape(c)[:2], "channels": c.data.channels}
    stated = {"data_dir": c.data.data_dir or None, **c.data.options.to_dict()}
    return data.build_source(c.data.name, split, own=_own(c, own), **size, **stated | options)


def check(c: ConfigDict, own: Own = NONE) -> None:
    """config.data.options fit the data set, which is not read. Raises UserError for one that not.

    Of one's own, it can be called as `build(split, **options)`.
    """
    row = dataset(c, own)
    keywords(
        "data.options",
        c.data.options,
        row.build,
        name=f"data set {c.data.name}",
        positional=("split",),
        provided=dict.fromkeys(("image_size", "channels", "data_dir")),
        choices={name: one.build for name, one in data.DATASETS.items()},
    )


def _own(c: ConfigDict, own: Own) -> Any:
    """What the name stands for if it is of one's own, else None."""
    name = c.data.name
    return checked("config.data.name", name, own) if is_own(name) else None
