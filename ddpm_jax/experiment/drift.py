"""Whether a workdir holds this experiment, and which fields may differ."""

import functools
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.build import optimizers
from ddpm_jax.config import config_files
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.errors import UserError, suggest
from ddpm_jax.measures import manifest
from ddpm_jax.runtime import processes
from ddpm_jax.trained import program

# What may change between two starts of one run; everything else makes it another experiment.
FREE_FIELDS = (
    "train.",
    "sample.",
    "mesh.",
    "model.remat",
    "data.data_dir",
    "data.clip",  # the run keeps a copy, whose digest is among PARTS
    "data.codec",  # likewise
    "objective.perceptual",
    "data.num_threads",
    "data.cache_text",
    "data.cache_latents",
    "data.options.on_error",
    "ema.snapshots_every",
)
# Of those, what decides the initial state.
NOT_FREE = ("train.init_from", "train.init_strict")
# Free, but sums come in another order: the same run up to rounding, and not to the bit. So it is of
# other devices, but for a strict run.
ROUNDING = (
    "train.accumulate",
    "model.remat",
    "data.cache_text",
    "data.cache_latents",
    "mesh.strict",
    "mesh.strict_shards",
)
# What a workdir holds that is an average of another one's run, and no run.
AVERAGE = "average.json"
# Not of the config: the examples themselves.
DATA = "data.fingerprint"
# Kept in the workdir, and not made again.
TOKENIZER = "data.tokenizer"
CLASS_NAMES = "data.class_names"
# Free, but told: a learning rate that decays is laid out over all steps.
NUM_STEPS = "train.num_steps"
# Nor these: parts that were replaced in Python, trees of other runs, sources of own parts.
PARTS = ("changed_in_python", "frozen", "own_parts")

Difference = tuple[str, Any, Any]


def check_workdir(
    workdir: Path, config: ConfigDict, allowed: Sequence[str] = (), own: Own = NONE
) -> list[Difference]:
    """Refuse a workdir that holds another experiment.

    Without a checkpoint there is nothing to lose: a run that died at its first steps (of too large
    a batch, say) can be tried again there with other settings.

    Args:
      workdir: the run's.
      config: resolved.
      allowed: fields that may differ, dotted; `data.fingerprint` stands for the data.
      own: the user's own parts.

    Returns:
      (field, value there, value here) of what differs, is not free, and is allowed to; and of
      train.num_steps, where a decaying learning rate hangs on it.

    Raises:
      UserError: listing what differs, or for a field in `allowed` that is unknown, or that no
        state survives.
    """
    if (workdir / AVERAGE).exists():
        raise UserError(
            f"{workdir} holds an average that checkpoint.py made, which cannot be trained on: name "
            "another --workdir"
        )
    saved = config_files.read(workdir) if has_checkpoints(workdir) else None
    _check_names(allowed, [c for c in (config, saved) if c is not None])
    if not has_checkpoints(workdir):
        return []
    if saved is None:
        raise UserError(
            f"{workdir} holds checkpoints but no config.json, so nobody can tell what they are: "
            "start elsewhere with --workdir=NEW"
        )
    differing = not_free(config_files.differences(saved, config))
    refuse(workdir, [d for d in differing if d[0] not in allowed])
    if differing:
        _check_shapes(config, differing, own)
    stored, here = saved.train.num_steps, config.train.num_steps
    laid_out = all(optimizers.is_laid_out(c.optim.decay) for c in (saved, config))
    return differing + [(NUM_STEPS, stored, here)] * (laid_out and stored != here)


def stretched(config: ConfigDict, differing: Sequence[Difference], start: int) -> list[str]:
    """A line on how the learning rate goes on, where a run is continued to another length.

    Args:
      config: resolved.
      differing: what `check` returned.
      start: the step that the run goes on from; at 0, nothing was trained by another rate.
    """
    lines = []
    for name, stored, here in differing if start else ():
        if name == NUM_STEPS:
            before = config_files.override(config, {"train": {"num_steps": stored}})
            old, new = (float(optimizers.learning_rate(c)(start)) for c in (before, config))
            lines.append(
                f"optim.decay={config.optim.decay} was laid out over {stored:,} steps and is over "
                f"{here:,} from here on: the learning rate goes on at {new:.3g}, not {old:.3g}; a "
                f"run of {here:,} steps from its start would be another one"
            )
    return lines


def check(
    workdir: Path,
    config: ConfigDict,
    data: Mapping[str, str | None],
    parts: Mapping[str, Mapping[str, str]],
    allowed: Sequence[str] = (),
    own: Own = NONE,
) -> list[Difference]:
    """`check_workdir`, `check_data` and `check_parts`, the last two with the newest attempt's."""
    differing = check_workdir(workdir, config, allowed, own)
    entry = manifest.last(workdir)
    if entry is None:
        return differing
    differing += check_data(workdir, entry["data"], data, allowed)
    return differing + check_parts(workdir, entry, parts, allowed)


def check_data(
    workdir: Path,
    stored: Mapping[str, Any],
    here: Mapping[str, str | None],
    allowed: Sequence[str] = (),
) -> list[Difference]:
    """The same for the training data: fingerprints as the manifest has them; {} for none.

    Raises:
      UserError: also for a tokenizer that is not the run's, whatever is allowed.
    """
    if not has_checkpoints(workdir):
        return []
    known, now = stored.get("tokenizer"), here.get("tokenizer")
    if known and now and known != now:
        raise UserError(
            f"{workdir}: its tokenizer.json is not the one that the run began with (sha256 {known} "
            f"by its manifest, {now} here): put that file back, or start elsewhere with "
            "--workdir=NEW"
        )
    if stored.get("train") in (None, here["train"]):
        return []
    differing = [(DATA, stored["train"], here["train"])]
    refuse(workdir, [d for d in differing if d[0] not in allowed])
    return differing


def check_parts(
    workdir: Path,
    stored: Mapping[str, Mapping[str, str]],
    here: Mapping[str, Mapping[str, str]],
    allowed: Sequence[str] = (),
) -> list[Difference]:
    """The same for what no config says, by digest: `PARTS`.

    They are named `changed_in_python.objective`, `frozen.teacher` and `own_parts.module:name`.
    """
    if not has_checkpoints(workdir):
        return []
    before, now = (
        {
            f"{group}.{name}": digest
            for group in PARTS
            for name, digest in side.get(group, {}).items()
        }
        for side in (stored, here)
    )
    # A part of one's own that another one replaced is reported as a field of the config.
    replaced = {name for name in before.keys() ^ now.keys() if name.startswith("own_parts.")}
    names = sorted((before.keys() | now.keys()) - replaced)
    differing = [(n, before.get(n), now.get(n)) for n in names if before.get(n) != now.get(n)]
    refuse(workdir, [d for d in differing if d[0] not in allowed])
    return differing


def not_free(differences: Sequence[Difference]) -> list[Difference]:
    """Those of the differences that make it another experiment."""
    return [d for d in differences if not _free(d[0]) and not _unnamed(d)]


def _free(name: str) -> bool:
    return name.startswith(FREE_FIELDS) and name not in NOT_FREE


def _unnamed(difference: Difference) -> bool:
    """Whether one side does not say how its classes are named: before it has read its data."""
    name, stored, here = difference
    return name == CLASS_NAMES and not (stored and here)


def described(difference: Difference) -> str:
    """`optim.learning_rate: 0.001 (float) there, 0.01 (float) here`."""
    name, stored, here = difference
    return f"{name}: {_typed(stored)} there, {_typed(here)} here"


def refuse(workdir: Path, differing: Sequence[Difference]) -> None:
    """Raises UserError with each of the differences, and with what to do, if there are any."""
    if not differing:
        return
    lines = [described(d) for d in differing[:10]]
    if len(differing) > 10:
        lines.append(f"and {len(differing) - 10} more")
    names = [name for name, *_ in differing]
    remedy = "Start this one elsewhere with --workdir=NEW"
    if not any(name.startswith("model.") for name in names):
        remedy += f", or say that it is meant with --allow_drift={','.join(names)}"
    raise UserError(f"{workdir} holds another experiment: {'; '.join(lines)}. {remedy}")


def _check_names(allowed: Sequence[str], sides: Sequence[ConfigDict]) -> None:
    allowed = [name for name in allowed if not name.startswith(tuple(f"{p}." for p in PARTS))]
    fields = sorted({DATA, *(name for side in sides for name in config_files.fields(side))})
    for name in allowed:
        if name not in fields:
            hint = suggest(name, fields)
            raise UserError(f"--allow_drift={name}: no such config field{hint}")
        if name.startswith("model."):
            raise UserError(
                f"--allow_drift={name}: another network needs another workdir: --workdir=NEW"
            )
        if name == TOKENIZER:
            raise UserError(
                f"--allow_drift={name}: a run keeps the tokenizer that it began with; another one "
                "needs another workdir: --workdir=NEW"
            )


def _check_shapes(config: ConfigDict, differing: Sequence[Difference], own: Own) -> None:
    """Refuse what changes the state's shapes: a checkpoint then cannot be carried over."""
    before = config.to_dict()
    for name, stored, _ in differing:
        *groups, field = name.split(".")
        place = functools.reduce(operator.getitem, groups, before)
        if stored is None and field not in place:
            continue
        place[field] = stored
        if stored is None and groups[-1:] and groups[-1].endswith("options"):
            del place[field]  # an option that was not set
    stored, here = (_arrays(c, own) for c in (ConfigDict(before), config))
    if stored != here:
        names = ",".join(name for name, *_ in differing)
        raise UserError(
            f"--allow_drift={names}: the state of a run has other arrays with this, and its "
            "checkpoints do not fit: start elsewhere with --workdir=NEW"
        )


def _arrays(config: ConfigDict, own: Own) -> list[tuple[str, Any, Any]]:
    shapes = program.build(config, own=own).state_shapes()
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    return [(jax.tree_util.keystr(path), leaf.shape, leaf.dtype) for path, leaf in leaves]


def resumed(workdirs: Sequence[Path]) -> Path | None:
    """The first of some workdirs that holds checkpoints, as the first process sees them; or None.

    What a run keeps beside its checkpoints is read there, and made again nowhere.
    """
    found = next((k for k, one in enumerate(workdirs) if has_checkpoints(one)), -1)
    found = processes.of_first(found)
    return None if found < 0 else workdirs[found]


def has_checkpoints(workdir: Path) -> bool:
    """Whether anything of a run was saved there, whole or not."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(folder.iterdir())


def _typed(value: Any) -> str:
    return "None" if value is None else f"{value!r} ({type(value).__name__})"
