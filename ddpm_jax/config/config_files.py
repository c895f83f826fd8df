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
from ddpm_jax.config import defaults, earlier, own_code
from ddpm_jax.config.checks import image_shape
from ddpm_jax.errors import UserError, suggest
from ddpm_jax.runtime import files

# Fields that name a part, which may be the user's own.
CHOICES = (
    "data.name",
    "model.name",
    "diffusion.schedule",
    "diffusion.loss",
    "diffusion.weighting",
    "diffusion.time_draw",
    "optim.name",
    "sample.sampler",
    "sample.grid",
)
# Fields of config.model that the built-in networks read, and one of the user's own does not.
BUILT_IN_NETWORKS = (
    "channels",
    "num_blocks",
    "num_heads",
    "dropout",
    "channel_multipliers",
    "attention_resolutions",
    "head_dim",
    "num_groups",
    "scale_shift_norm",
    "resample_blocks",
    "residual_scale",
    "pipeline",
    "lora_rank",
    "lora_alpha",
    "lora_targets",
    "fourier_features",
    "patch_size",
    "text_tower",
    "text_channels",
    "text_blocks",
    "text_heads",
)
# Of data.tokenizer, what is no path.
LEARNED_TOKENIZERS = ("bytes", "words")
# The fields that name files and folders.
PATHS = (
    "data.data_dir",
    "data.clip",
    "data.codec",
    "data.options.captions_file",
    "data.options.labels_file",
    "data.tokenizer",
    "objective.perceptual",
    "train.inception_weights",
    "train.init_from",
)

# Of those, the ones that a run keeps as absolute paths, whatever folder it is started from.
ABSOLUTE = ("data.data_dir", "data.clip", "data.codec", "objective.perceptual", "train.init_from")

# What a config.json that no run wrote raises where it is read.
BROKEN = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)


def read(workdir: str | Path) -> ConfigDict | None:
    """The config that a run left in its workdir, or None. Raises UserError if it is damaged."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        return None
    try:
        content = _tuples(files.read_json(path))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        ConfigDict(content)  # refuses keys that no config has
        return ConfigDict(_completed(content))
    # Keys that are names of its methods are what ConfigDict raises KeyError and others for.
    except (*BROKEN, UserError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is not a config: {reason}; name another workdir") from error


def write(workdir: str | Path, config: ConfigDict) -> None:
    """Write DIR/config.json, whole or not at all. Raises UserError where it cannot be written."""
    files.must_write_json(Path(workdir) / "config.json", config.to_dict())


def sha256(content: Any) -> str:
    """The sha256 of a config, or of what else JSON can hold: keys sorted, tuples as lists."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def override(config: ConfigDict, groups: dict[str, dict[str, Any]]) -> ConfigDict:
    """A copy of the config with some fields changed. Raises UserError for one that is not there."""
    config = ConfigDict(config.to_dict())
    for group, fields in groups.items():
        for name, value in fields.items():
            if name not in config.get(group, {}):
                names = [f"{group}.{key}" for key in config.get(group, {})]
                hint = suggest(f"{group}.{name}", names)
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
        for a folder that is not a path, gs://bucket/images.
    """
    for name, value in _flatten(config.to_dict()):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{name}={value}: need a finite number")
        if name in PATHS:
            cli.refuse_elsewhere(f"config.{name}", value)
    config = without_unread(config)
    groups: dict[str, dict[str, Any]] = {"data": {"image_size": image_shape(config)[:2]}}
    for field in ABSOLUTE:
        group, _, name = field.partition(".")
        if path := config.get(group, {}).get(name):
            groups.setdefault(group, {})[name] = os.path.abspath(path)
    if (path := config.data.get("tokenizer")) and path not in LEARNED_TOKENIZERS:
        groups["data"]["tokenizer"] = os.path.abspath(os.path.expanduser(path))
    return override(config, groups)


def own_names(config: ConfigDict) -> dict[str, str]:
    """{field: "package.module:name"} of the choices that are the user's own."""
    names = {field: str(fields(config).get(field, "")) for field in CHOICES}
    return {field: name for field, name in names.items() if own_code.is_own(name)}


def without_unread(config: ConfigDict) -> ConfigDict:
    """A copy without the fields of built-in networks, where the network is the user's own."""
    content = config.to_dict()
    if own_code.is_own(str(content["model"]["name"])):
        content["model"] = {k: v for k, v in content["model"].items() if k not in BUILT_IN_NETWORKS}
    return ConfigDict(content)


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
    """As this version has it: fields that moved, and the default of each that came later."""
    earlier_kind = "kind" not in content
    content = earlier.translated(content)
    usual = defaults.get_config(content.get("kind", "denoiser")).to_dict()
    if earlier_kind:  # every kind had all fields then, and left alone what was not its own
        content = {group: fields for group, fields in content.items() if group in usual}
    for group, fields in usual.items():
        stored = content.get(group)
        if isinstance(fields, dict) and isinstance(stored, dict):
            if earlier_kind:
                stored = {name: value for name, value in stored.items() if name in fields}
            if group == "model" and own_code.is_own(str(stored.get("name", ""))):
                fields = {n: v for n, v in fields.items() if n not in BUILT_IN_NETWORKS}
            content[group] = fields | stored
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
