"""K runs that differ in their seed and a few numbers, trained in one program."""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax import cli
from ddpm_jax.build import replicas, texts
from ddpm_jax.config import config_files
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import beginning, drift, profiling, running
from ddpm_jax.experiment.group_attempt import GroupAttempt
from ddpm_jax.experiment.group_resume import resume
from ddpm_jax.experiment.member import Member
from ddpm_jax.experiment.run_data import RunData, read_data
from ddpm_jax.experiment.settling import Forecaster
from ddpm_jax.measures import training_evaluation
from ddpm_jax.measures.manifest import Manifest, parts_of
from ddpm_jax.reporting import writers
from ddpm_jax.reporting.progress import Progress
from ddpm_jax.runtime import files
from ddpm_jax.runtime.digests import digests
from ddpm_jax.runtime.ledger import Ledger
from ddpm_jax.trained.program import build
from ddpm_jax.training import loop, replicated
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.watchdog import Watchdog

# A run that is saved while another is not must not lose the step that both have.
LEAST_KEPT = 2


def train_replicas(
    config: ConfigDict,
    workdir: str | Path,
    *,
    own: Own = NONE,
    until: int | None = None,
    allow_drift: Sequence[str] = (),
    overrides: Sequence[str] = (),
    profile: str = "",
    began: float | None = None,
) -> int:
    """Train config.train.replicas seeds, from config.seed on, in DIR/replicas/seed=S.

    A profile, as of `running.start`, is in the first one's workdir.

    Args, Returns, Raises: as `train_group`; also UserError for a workdir that holds a run itself.
    """
    num, first = config.train.replicas, config.seed
    if num < 1:
        raise UserError(f"config.train.replicas={num}: need at least 1")
    if first + num > 2**32:
        raise UserError(
            f"config.train.replicas={num}: the seeds from config.seed={first} on go beyond "
            "2**32 - 1; take a smaller one"
        )
    if (Path(workdir) / "checkpoints").exists():
        raise UserError(
            f"--workdir={workdir} holds a run, and config.train.replicas={num} makes runs in "
            "replicas/ of a folder: name another, or set 1"
        )
    config = config_files.override(config, {"train": {"replicas": 1}})
    seeds = range(first, first + num)
    configs = [config_files.resolve(config) for _ in seeds]
    for one, seed in zip(configs, seeds, strict=True):
        one.seed = seed
    workdirs = [Path(workdir) / "replicas" / f"seed={seed}" for seed in seeds]
    return train_group(
        configs,
        workdirs,
        own=own,
        until=until,
        allow_drift=allow_drift,
        overrides=overrides,
        profile=profile,
        began=began,
    )


def train_group(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[str | Path],
    *,
    own: Own = NONE,
    until: int | None = None,
    allow_drift: Sequence[str] = (),
    overrides: Sequence[str] = (),
    lock_wait: float = files.PROBED,
    profile: str = "",
    began: float | None = None,
) -> int:
    """Train K configs in one program, each in a workdir of its own, or go on with what is there.

    Each member's workdir is that of a run: it can be sampled, evaluated and, once the group is done
    with it, trained on alone. Its losses are those of its run alone up to rounding. The bits depend
    on K, so the manifest names the group, and a group goes on only as itself, from the newest step
    that all of its members have.

    A member that skips config.train.max_skipped steps in a row is frozen: its state stays at that
    step, its manifest says why, and the others go on.

    Args:
      configs: they differ in their seed and in fields of `replicas.TRACED` alone.
      workdirs: one each; their names are the members' names in lines and manifests.
      own: the user's own parts of the configs.
      until, allow_drift, overrides, lock_wait, profile, began: as of `running.start`; a profile
        lies in the first one's workdir.

    Returns:
      0 when all are complete, 75 when a SIGINT or SIGTERM stopped them: they are then saved, and
      the same call goes on, to the same final states bit for bit.

    Raises:
      UserError: as `experiment.train`; for configs that do not go together; when the others are
        complete, for a member that was frozen.
    """
    ledger = Ledger(began)
    folders = [Path(workdir) for workdir in workdirs]
    for folder in folders:
        cli.refuse_elsewhere("--workdir", str(folder))
    configs = [beginning.resolved(*one) for one in zip(configs, folders, strict=True)]
    _check(configs, folders)
    with loop.StopSignal() as stop:
        return _train(
            configs, folders, own, until, allow_drift, overrides, stop, lock_wait, ledger, profile
        )


def _check(configs: Sequence[ConfigDict], folders: Sequence[Path]) -> None:
    """Raises UserError for configs that no one program can train."""
    if jax.process_count() > 1:
        raise UserError(
            f"config.train.replicas={len(configs)}: a group trains in one process, not in "
            f"{jax.process_count()}; leave out --coordinator"
        )
    replicas.check(configs[0], len(configs))
    if len({folder.name for folder in folders}) < len(configs):
        raise UserError("the members of a group need a workdir each, of different names")
    for config, folder in zip(configs, folders, strict=True):
        if apart := replicas.keeping_apart(configs[0], config):
            raise UserError(
                f"{folder.name} and {folders[0].name} differ in {', '.join(apart)}, so no one "
                "program can train both; the members of a group may differ in their seed and in "
                f"{', '.join(replicas.TRACED)}"
            )


def _train(
    configs: Sequence[ConfigDict],
    folders: Sequence[Path],
    own: Own,
    until: int | None,
    allow_drift: Sequence[str],
    overrides: Sequence[str],
    stop: loop.StopSignal,
    lock_wait: float,
    ledger: Ledger,
    profile: str,
) -> int:
    num, shared = len(configs), configs[0].train
    for config, folder in zip(configs, folders, strict=True):
        drift.check_workdir(folder, config, allow_drift, own)
    if min(map(running.finished_step, folders)) >= shared.num_steps:
        running.say(f"the {num} runs of {folders[0].parent} have finished their steps")
        return 0
    profiled = profiling.of_workdir(profile, shared.num_steps, folders[0])
    writers.check(shared.writers)
    experiments = [build(config, own=own) for config in configs]
    training_evaluation.check(configs[0])
    weights = beginning.weights_before_data(experiments[0], folders)
    parts = parts_of(experiments[0])
    data = read_data(experiments[0], drift.resumed(folders))
    names = {"data": {"class_names": data.class_names}}
    configs = [config_files.override(config, names) for config in configs]
    for config, folder in zip(configs, folders, strict=True):
        drift.check(folder, config, data.prints, parts, allow_drift, own)
        beginning.make_writable(folder)
    # One set of parts for all: what they have of TRACED is the first one's, and not trained with.
    shared_parts = data.experiment
    experiments = [dataclasses.replace(shared_parts, config=config) for config in configs]

    with contextlib.ExitStack() as held:
        members = []
        for experiment, folder in zip(experiments, folders, strict=True):
            held.enter_context(running.alone(folder, lock_wait))
            manifest = held.enter_context(Manifest(folder, overrides, ledger))
            keep = max(shared.keep_checkpoints, LEAST_KEPT)
            checkpoints = Checkpoints(folder, keep=keep, deadline=shared.save_deadline)
            held.enter_context(checkpoints)
            members.append(Member(experiment, folder, manifest, checkpoints))

        def stuck() -> None:
            for _, member in _moving(members):  # a frozen one has ended already
                member.manifest.stuck()

        watchdog = held.enter_context(Watchdog(shared.step_deadline, stuck))
        group = {"replicas": num, "members": [folder.name for folder in folders]}
        states, start = resume(members, group, running.say, weights)
        if start or not _moving(members):
            weights = None
        elif weights is None:
            weights = experiments[0].starting_weights()
        begun_with = beginning.tell(weights, running.say)
        del weights  # which would stay on the devices as long as the group does
        for member in members:
            if member.left:
                running.say(f"{member.workdir.name}: left as it is, {member.left}")
                continue
            config, mesh = member.experiment.config, member.experiment.mesh.shape
            # Again: another process may have just let go of it.
            drifted = drift.check(member.workdir, config, data.prints, parts, allow_drift, own)
            for line in drift.stretched(config, drifted, start):
                running.say(line)
            beginning.discard_later(member.workdir, start, running.say)
            member.manifest.begin(
                config, mesh, data.described, start, drifted, parts, group, begun_with
            )
            config_files.write(member.workdir, config)
            texts.keep(member.experiment, member.workdir)
        if _moving(members):
            forecaster = Forecaster(
                experiments[0],
                ledger,
                [member.manifest for _, member in _moving(members)],
                folders[0].parent.parent,  # DIR of DIR/replicas/seed=S
                start,
                num,
            )
            code = _attempt(
                members, data, states, start, until, watchdog, stop, ledger, profiled, forecaster
            )
            if code:
                return code
    if failed := [f"{m.workdir.name} is {m.failed}" for m in members if m.failed]:
        raise UserError(f"{len(failed)} of {num} runs did not finish: {'; '.join(failed)}")
    print(f"done: {num} runs in {folders[0].parent}", file=sys.stderr)
    return 0


def _attempt(
    members: Sequence[Member],
    data: RunData,
    states: Sequence[TrainState],
    start: int,
    until: int | None,
    watchdog: Watchdog,
    stop: loop.StopSignal,
    ledger: Ledger,
    profiled: range,
    forecaster: Forecaster,
) -> int:
    """Train those that move, from step `start`, and say how each ended; returns the exit code."""
    experiment, num, folder = members[0].experiment, len(members), members[0].workdir.parent
    config = experiment.config
    num_steps = max(config.train.num_steps, start)
    with forecaster, Progress(start, num_steps, num * config.data.batch_size) as progress:
        verb = f"resuming at step {start:,}" if start else "training"
        progress.say(
            f"{verb}: a group of {num} in one program, {len(data.train):,} images of "
            f"{config.data.name}, {experiment.mesh.size} device(s), in {folder}"
        )
        attempt = GroupAttempt(
            members, data, progress, start, num_steps, ledger, profiled, forecaster.action
        )
        together = replicated.stacked(states, experiment.mesh)
        together, reached = attempt.run(together, until, watchdog, lambda: stop.requested)
    finals: list[tuple[Member, dict[str, Any]]] = []
    for k, member in _moving(members):
        if reached < num_steps:
            member.manifest.end(running.EXIT_STOPPED)
            continue
        with ledger.phase("checkpoint"):
            final = {"step": reached, **digests(attempt.member_state(together, k))}
            files.must_write_json(member.workdir / "final.json", final)
        finals.append((member, final))
    if finals and (line := forecaster.settle(reached)):
        running.say(line)
    for member, final in finals:
        member.manifest.end(0, final)
    if reached == num_steps or not _moving(members):
        return 0
    running.say(
        f"stopped and saved at step {reached:,} of {num_steps:,}; "
        "run the same command again to go on"
    )
    return running.EXIT_STOPPED


def _moving(members: Sequence[Member]) -> list[tuple[int, Member]]:
    return [(k, m) for k, m in enumerate(members) if m.moves]
