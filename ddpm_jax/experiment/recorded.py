"""An attempt as a manifest holds it: its config with this version's fields, what surrounded it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.build.starting_weights import StartingWeights
from ddpm_jax.config import config_files, earlier
from ddpm_jax.config.defaults import get_config
from ddpm_jax.errors import UserError
from ddpm_jax.measures.manifest import Entry

# Of an entry: what surrounds an attempt, group by group.
COMPARED = ("git", "versions", "jax", "variables", "machine", "devices", "mesh", "process_count")

# Of those, what no bit of a strict run depends on.
PLACES = ("mesh.", "process_count")


def config_of(
    entry: Entry,
    path: str | Path,
    default: ConfigDict | None = None,
    data_dir: str | None = None,
) -> tuple[ConfigDict, list[str]]:
    """The attempt's config with the fields of this version, and what had to be filled in.

    Args:
      entry: the attempt.
      path: of its manifest, for errors.
      default: a config with every field of this version; None for that of the run's kind.
      data_dir: where the data lie here; None: where they lay.

    Returns:
      The config, resolved, and a line for each field that the attempt did not know.

    Raises:
      UserError: for a config that cannot be read, or a field that this version does not know.
    """
    content = parsed(entry["config"], path)
    default = get_config(content.get("kind")) if default is None else default
    saved = config_files.fields(content)
    if content.get("model"):
        default = config_files.override(default, {"model": {"name": content.model.get("name")}})
    default = config_files.without_unread(default)
    fields = config_files.fields(default)
    for name in saved:
        if name not in fields and not name.rpartition(".")[0].endswith("options"):
            raise UserError(
                f"{path}: its config has the field {name}, which this version does not know: check "
                f"out {entry['git'].get('commit') or 'the version that wrote it'}"
            )
    if saved.get("seed") != entry["seed"]:
        raise UserError(f"{path} is not a manifest: its seed is not its config's")
    filled = [
        f"config.{name}: unknown there, {value!r} here"
        for name, value in fields.items()
        if name not in saved
    ]
    if config_files.sha256(entry["config"]) != entry["config_sha256"]:
        filled.append("config_sha256: the config was changed after the run took it down")
    plain = content.to_dict()
    groups = {name: value for name, value in plain.items() if isinstance(value, dict)}
    config = config_files.override(default, groups)
    config.update({name: value for name, value in plain.items() if name not in groups})
    if data_dir is not None:
        config.data.data_dir = data_dir
    return config_files.resolve(config), filled


def parsed(content: dict[str, Any], path: str | Path) -> ConfigDict:
    """The config that an attempt holds, as it is. Raises UserError if it cannot be read."""
    try:
        return config_files.of_json(earlier.translated(content))
    except Exception as error:  # whatever ConfigDict makes of keys that nobody should write
        raise UserError(f"{path} is not a manifest: a config cannot be read: {error}") from error


def weights_of(
    experiment: Experiment, attempts: Sequence[Entry], path: str | Path
) -> StartingWeights | None:
    """The weights that a run began with, read again; None for none.

    Args:
      experiment: that its config describes.
      attempts: at the run, oldest first.
      path: of their manifest, for errors.

    Raises:
      UserError: for weights that cannot be read any more, or are others now.
    """
    weights = experiment.starting_weights()
    began = next((entry for entry in reversed(attempts) if entry["start"] == 0), None)
    stored = began["init_from"].get("sha256") if began else None
    if weights and stored not in (None, now := weights.record["sha256"]):
        raise UserError(
            f"{path}: the run began with other weights than {weights.record['source']} has now "
            f"(sha256 {stored} there, {now} here): put those back"
        )
    return weights


def processes_of(mesh: Mesh) -> Entry:
    """How many devices and processes train here, as an entry has it."""
    return {"mesh": dict(mesh.shape), "process_count": jax.process_count()}


def differences(
    there: Entry,
    here: Entry,
    where: str,
    groups: Sequence[str] = COMPARED,
    there_is: str = "there",
) -> list[str]:
    """A line for each thing that two attempts differ in: `jax: 0.9 there, 0.10 here`.

    Args:
      there, here: entries, or as much of them as `groups` names.
      where: what the second one is called: "here".
      groups: of an entry.
      there_is: what the first one is called.
    """
    left, right = _flat(there, groups), _flat(here, groups)
    return [
        f"{name}: {_value(left.get(name))} {there_is}, {_value(right.get(name))} {where}"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]


def noted(lines: Sequence[str], config: ConfigDict) -> list[str]:
    """Lines of `differences`; those of devices say so where config.mesh.strict keeps the bits."""
    if not config.mesh.strict:
        return [*lines]
    return [
        f"{line} (the same bits, by mesh.strict)" if line.startswith(PLACES) else line
        for line in lines
    ]


def _flat(entry: Entry, groups: Sequence[str]) -> dict[str, Any]:
    """{name: value} of what is compared; packages go by their bare names."""
    flat: dict[str, Any] = {}
    for group in groups:
        value = entry[group]
        if not isinstance(value, dict):
            flat[group] = value
            continue
        prefix = "" if group == "versions" else f"{group}."
        flat |= {prefix + name: item for name, item in value.items()}
    return flat


def _value(value: Any) -> str:
    return "nothing" if value is None else str(value)
