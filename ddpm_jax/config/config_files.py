"""Configs as files and as differences: read, written, overridden, compared. Never executed."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ddpm_jax import cli
from ddpm_jax.config import defaults
from ddpm_jax.config.checks import image_shape
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files

# The fields that name files and folders.
PATHS = ("data.data_dir", "data.labels_file", "train.inception_weights")


def read(workdir: str | Path) -> ConfigDict | None:
    """The config that a run left in its workdir, or None. Raises UserError if it is damaged."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        return None
    try:
        content = _tuples(files.read_json(path))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        return ConfigDict(_completed(content))
    # Keys that are names of its methods are what ConfigDict raises KeyError and others for.
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is not a config: {reason}; name another --workdir") from error


def write(workdir: str | Path, config: ConfigDict) -> None:
    """Write DIR/config.json, whole or not at all. Raises UserError where it cannot be written."""
    files.must_write_json(Path(workdir) / "config.json", config.to_dict())


def sha256(config: Mapping[str, Any]) -> str:
    """The sha256 of a config as JSON: keys sorted, no spaces, tuples as lists."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def override(config: ConfigDict, groups: dict[str, dict[str, Any]]) -> ConfigDict:
    """A copy of the config with some fields changed. Raises UserError for one that is not there."""
    config = ConfigDict(config.to_dict())
    for group, fields in groups.items():
        for name, value in fields.items():
            if name not in config[group]:
                known = [f"{group}.{key}" for key in config[group]]
                hint = cli.suggest(f"{group}.{name}", known)
                raise UserError(f"no such config field {group}.{name}{hint}")
            try:
                config[group][name] = value
            except TypeError as error:
                raise UserError(f"config.{group}.{name}={value!r}: {error}") from error
    return config


def resolve(config: ConfigDict) -> ConfigDict:
    """The config as a run keeps it: folders absolute, image sizes as (height, width).

    So a run is found to be the same wherever it is started from, and can be evaluated there.

    Raises:
      UserError: for a number that is not finite: JSON has none, so the run could not be read again;
        for a folder that is no path, gs://bucket/images.
    """
    for name, value in _flatten(config.to_dict()):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{name}={value}: need a finite number")
        if name in PATHS:
            cli.refuse_elsewhere(f"config.{name}", value)
    paths = {k: os.path.abspath(config.data[k]) for k in ("data_dir",) if config.data[k]}
    size = image_shape(config)[:2]
    return override(config, {"data": {**paths, "image_size": size}})


def of_json(content: Mapping[str, Any]) -> ConfigDict:
    """The config that JSON holds, which has lists where configs have tuples.

    Raises:
      ValueError, TypeError, or another of ConfigDict's errors: for what it cannot hold.
    """
    return ConfigDict(_tuples(dict(content)))


def fields(config: ConfigDict) -> dict[str, Any]:
    """{dotted name: value} of every field."""
    return dict(_flatten(config.to_dict()))


def differences(old: ConfigDict, new: ConfigDict) -> list[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of every field that differs; None where there is none."""
    left, right = fields(old), fields(new)
    names = sorted(left.keys() | right.keys())
    return [(n, left.get(n), right.get(n)) for n in names if left.get(n) != right.get(n)]


def _completed(content: dict[str, Any]) -> dict[str, Any]:
    """With the default of each field that there was not yet when the run was written."""
    usual = defaults.get_config().to_dict()
    for group, fields in usual.items():
        if isinstance(fields, dict) and isinstance(content.get(group), dict):
            content[group] = fields | content[group]
    return content


def _tuples(value: Any) -> Any:
    """JSON has lists where configs have tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
