"""A run repeated from its manifest: what differs around it, and whether it ends the same."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax.build import begun, kept, optimizers, texts
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files, own_code
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment, build, drift, recorded
from ddpm_jax.measures import manifest
from ddpm_jax.measures.manifest import Entry
from ddpm_jax.runtime import environment, files
from ddpm_jax.runtime.digests import digests
from ddpm_jax.training.checkpoints import Checkpoints

# What a workdir holds that a reproduction began, so that no other run is taken for one.
MARK = "reproduces.json"


def reproduce(
    path: str | Path,
    workdir: str | Path,
    default: ConfigDict | None = None,
    *,
    data_dir: str | None = None,
    code: Sequence[str] = (),
) -> tuple[dict[str, Any], int]:
    """Train a manifest's config again, and compare.

    The last attempt that finished is repeated, from step 0. If none finished, the config is
    trained up to the newest checkpoint of the last attempts, as if a signal had stopped it there
    (its train.num_steps stays: a cosine's length is that), and the state there is compared.

    Args:
      path: the manifest; only read, as JSON.
      workdir: new, or what an earlier call with this manifest began, which is resumed.
      default: a config with every field of this version; None for that of the run's kind.
      data_dir: where the data lie here; None: where they lay.
      code: modules that hold the run's own parts, "package.module".

    Returns:
      {"equal", "differences": lines, "expected": digests, "got": digests or None} and the exit
      code: 0 equal, 1 different, 75 stopped by a signal: the same call goes on.

    Raises:
      UserError: for no manifest, one that no single config can repeat, a field that this version
        does not know, other data, or another workdir.
    """
    attempts = manifest.read(path)
    target, expected = _target(attempts, path)
    lineage = _lineage(attempts, target, path)
    entry = attempts[target]
    trees = [name for name in entry["frozen"] if name not in kept.TREES]
    if changed := [*entry["changed_in_python"], *trees]:
        raise UserError(
            f"{path}: {', '.join(changed)} of this run came from Python and not from its config: "
            "repeat it with the program that made it, experiment.train(run, workdir)"
        )
    for group in (attempt["group"] for attempt in lineage if attempt["group"]):
        raise UserError(
            f"{path}: this run was trained in one program with {', '.join(group['members'])}, and "
            "a run alone has other bits: train that group again in another --workdir, and compare "
            "the final.json of each"
        )
    config, filled = recorded.config_of(entry, path, default, data_dir)
    if entry["final"]:
        config.train.num_steps = expected["step"]
    _check_workdir(Path(workdir), Path(path), config)
    own = own_code.from_modules(code, config_files.own_names(config).values())
    experiment = build(config, own=own)
    recorded.weights_of(experiment, lineage, path)
    _check_data(experiment, entry, path)
    around = recorded.noted(_around(entry, lineage, experiment.mesh), config)
    differences = [*filled, *around]
    for line in differences:
        print(line, file=sys.stderr)
    _mark(Path(workdir), config)
    exit_code = train.train(config, workdir, until=expected["step"], own=own)
    got = _got(Path(workdir), experiment, expected)
    if got is None:
        result = {"equal": False, "differences": differences, "expected": expected, "got": None}
        return result, exit_code or 1
    equal = got == expected
    parts = ", ".join(
        f"{name.removesuffix('_sha256')} {'equal' if got[name] == value else 'different'}"
        for name, value in expected.items()
        if name != "step"
    )
    print(f"step {expected['step']:,}: {parts}", file=sys.stderr)
    result = {"equal": equal, "differences": differences, "expected": expected, "got": got}
    return result, 0 if equal else 1


def _target(attempts: Sequence[Entry], path: str | Path) -> tuple[int, dict[str, Any]]:
    """Which attempt is repeated, and the digests that it should end with."""
    for number in reversed(range(len(attempts))):
        if final := attempts[number]["final"]:
            digests = ("params_sha256", "ema_sha256", "state_sha256")
            if not isinstance(final.get("step"), int) or not all(
                isinstance(final.get(name), str) for name in digests
            ):
                raise UserError(f"{path} is not a manifest: final of its attempt {number + 1}")
            return number, {"step": final["step"], **{name: final[name] for name in digests}}
    first = _first(attempts, len(attempts) - 1)
    saved = [
        (int(step), k) for k in range(first, len(attempts)) for step in attempts[k]["checkpoints"]
    ]
    if not saved:
        raise UserError(
            f"{path} has nothing to compare with: no attempt finished or wrote a checkpoint"
        )
    step, number = max(saved)
    return number, {"step": step, "state_sha256": attempts[number]["checkpoints"][str(step)]}


def _first(attempts: Sequence[Entry], last: int) -> int:
    """The attempt that began what attempt `last` went on with."""
    return next((k for k in range(last, -1, -1) if attempts[k]["start"] == 0), 0)


def _lineage(attempts: Sequence[Entry], target: int, path: str | Path) -> Sequence[Entry]:
    """The attempts that led to one. Raises UserError if they had more than one config or data."""
    lineage = attempts[_first(attempts, target) : target + 1]
    last = lineage[-1]
    fields = set()
    for entry in lineage[:-1]:
        old, new = (recorded.parsed(e["config"], path) for e in (entry, last))
        differing = config_files.differences(old, new)
        fields |= {name for name, *_ in drift.not_free(differing)}
        fields |= {name for name, *_ in differing if name in drift.ROUNDING}
        if optimizers.is_laid_out(new.optim.get("decay")):
            fields |= {name for name, *_ in differing if name == "train.num_steps"}
        if entry["data"].get("train") != last["data"].get("train"):
            fields.add(drift.DATA)
    if fields:
        raise UserError(
            f"{path}: its attempts differ in {', '.join(sorted(fields))}, so that no single config "
            "leads to where they led: repeat them by hand, one by one, with --allow_drift"
        )
    return lineage


def _check_workdir(workdir: Path, path: Path, config: ConfigDict) -> None:
    """Refuse a workdir in which something else lives. Raises UserError."""
    if not workdir.exists() or (workdir.is_dir() and not any(workdir.iterdir())):
        return
    try:
        mark = files.read_json(workdir / MARK)
    except (OSError, ValueError):
        mark = None
    # Its own workdir would be equal to itself.
    if mark != _content(config) or workdir.resolve() == path.resolve().parent:
        raise UserError(
            f"--workdir={workdir} is neither new nor a reproduction of {path}: name another"
        )


def _mark(workdir: Path, config: ConfigDict) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        files.write_json(workdir / MARK, _content(config))
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot write there ({error.strerror})") from error


def _content(config: ConfigDict) -> dict[str, str]:
    plain = config.to_dict()
    plain["data"]["data_dir"] = ""
    return {"config_sha256": config_files.sha256(plain)}


def _check_data(experiment: Experiment, entry: Entry, path: str | Path) -> None:
    validates = bool(experiment.config.train.validate_every)
    train = experiment.source("train")
    here = manifest.fingerprints(train, experiment.source("validation") if validates else None)
    for split, sha256 in here.items():
        if (stored := entry["data"].get(split)) not in (None, sha256) and sha256 is not None:
            raise UserError(
                f"the data are not those of {path}: the fingerprint of {split} is "
                f"{stored} there, {sha256} here; name the right ones with --data_dir"
            )
    _check_begun(begun.with_made(experiment, train), entry, path)


def _check_begun(experiment: Experiment, entry: Entry, path: str | Path) -> None:
    """What the run begins with here, a tokenizer and networks of others, is what it began with."""
    stored = entry["data"].get("tokenizer")
    made = texts.described(experiment.tokenizer)
    if made.get("tokenizer") != stored:
        raise UserError(
            f"the tokenizer is not that of {path}: its sha256 is {stored} there, "
            f"{made.get('tokenizer')} here; name the same files or data"
        )
    here = manifest.parts_of(experiment)["frozen"]
    for name, field in kept.TREES.items():
        if (stored := entry["frozen"].get(name)) not in (None, here.get(name)):
            value = config_files.fields(experiment.config)[field]
            raise UserError(
                f"{path}: the run began with another {name} than config.{field}={value} gives here "
                f"(sha256 {stored} there, {here.get(name)} here): put that back"
            )


def _around(entry: Entry, lineage: Sequence[Entry], mesh: Mesh) -> list[str]:
    """A line for each thing beside config and data that is not what it was."""
    here = {**environment.describe(), **recorded.processes_of(mesh)}
    lines = recorded.differences(entry, here, "here")
    if lineage[0]["start"]:
        first = lineage[0]["start"]
        lines.append(f"start: step {first:,} there, in the first attempt on record, 0 here")
    for before in lineage[:-1]:
        began = f"in the attempt of {entry['started_at']}"
        lines += [
            f"{line} (that of {before['started_at']})"
            for line in recorded.differences(before, entry, began)
        ]
    return lines


def _got(workdir: Path, experiment: Experiment, expected: dict[str, Any]) -> dict[str, Any] | None:
    """The digests of what the workdir holds at the step compared; None if it did not get there."""
    step = expected["step"]
    with Checkpoints(workdir, read_only=True) as saved:
        if step not in saved.steps():
            return None
        result = {"step": step, **digests(saved.restore(step, experiment.state_shapes()))}
    return {name: result[name] for name in expected}
