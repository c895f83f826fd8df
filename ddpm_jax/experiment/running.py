"""A training run from its experiment and workdir: start, resume, watch, finish."""

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import jax
from ml_collections import ConfigDict

from ddpm_jax import cli
from ddpm_jax.build import kept, latent_cache, text_cache
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.config import config_files
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import beginning, drift, profiling
from ddpm_jax.experiment.attempt import Attempt
from ddpm_jax.experiment.run_data import read_data
from ddpm_jax.experiment.settling import Forecaster
from ddpm_jax.measures import training_evaluation
from ddpm_jax.measures.manifest import Manifest, parts_of
from ddpm_jax.reporting import writers
from ddpm_jax.reporting.progress import Progress
from ddpm_jax.runtime import files, processes
from ddpm_jax.runtime.ledger import Ledger
from ddpm_jax.runtime.peers import ALONE, Peers
from ddpm_jax.training import loop
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import reseeded
from ddpm_jax.training.watchdog import Watchdog

# EX_TEMPFAIL: run the same command again.
EXIT_STOPPED = 75


def train(
    experiment: Experiment,
    workdir: str | Path,
    *,
    until: int | None = None,
    allow_drift: Sequence[str] = (),
    lock_wait: float = files.PROBED,
) -> int:
    """Train an experiment in `workdir`, or go on with what is there; returns the exit code.

    What `scripts/train.py` does for a config, for an experiment that was changed in Python:

      run = experiment.build(config)
      run = dataclasses.replace(run, objective=my_objective)
      experiment.train(run, "runs/mine")

    The manifest says which parts are not what the config says, with a digest of their source and
    of what they were made with, and a run goes on only with the same. Sampling and evaluation read
    the config alone, so a network that was replaced can be loaded by nobody else.

    Args:
      experiment: of `build`, changed with `dataclasses.replace` or not.
      workdir: where the run lives.
      until: stop and save at this step, as a signal would; None for config.train.num_steps.
      allow_drift: what may differ from what is there: fields of the config, "data.fingerprint",
        "changed_in_python.objective", "frozen.NAME".
      lock_wait: seconds to wait for another process that has the workdir and may be ending.

    Returns:
      0 when the run is complete (or was already), 75 when a SIGINT or SIGTERM stopped it: the state
      is then saved, and the same call goes on from it, to the same final state bit for bit.

    Raises:
      UserError: for a workdir or data set that does not fit: nothing is written then. For data
        that cannot be read on the way, and for too many skipped steps in a row: the run is then
        saved at the step that it reached, and the same call goes on from there.
    """
    return start(
        experiment.config,
        lambda: experiment,
        workdir,
        own=experiment.own,
        until=until,
        allow_drift=allow_drift,
        lock_wait=lock_wait,
    )


def start(
    config: ConfigDict,
    build: Callable[[], Experiment],
    workdir: str | Path,
    *,
    own: Own = NONE,
    until: int | None = None,
    allow_drift: Sequence[str] = (),
    overrides: Sequence[str] = (),
    lock_wait: float = files.PROBED,
    profile: str = "",
    began: float | None = None,
    peers: Peers = ALONE,
) -> int:
    """As `train`, of an experiment that is built only where there is something to do.

    Args:
      config: the experiment's.
      build: () -> the experiment.
      workdir, until, allow_drift, lock_wait: as of `train`.
      own: the user's own parts of it.
      overrides: what the command line changed in the config, for the manifest.
      profile: START:STOP, the steps to trace; "" for none.
      began: when the attempt began, as `time.monotonic` tells it; None for now.
      peers: the other processes of the run.
    """
    ledger = Ledger(began)
    cli.refuse_elsewhere("--workdir", str(workdir))
    if config.train.replicas != 1:
        raise UserError(
            f"config.train.replicas={config.train.replicas}: an experiment from Python trains one "
            "run; set 1, or use scripts/train.py"
        )
    with loop.StopSignal() as stop:
        manifest = Manifest(workdir, overrides, ledger)
        return _train(
            config_files.resolve(config),
            build,
            own,
            Path(workdir),
            until,
            allow_drift,
            manifest,
            stop,
            lock_wait,
            ledger,
            profile,
            peers,
        )


def _train(
    config: ConfigDict,
    build: Callable[[], Experiment],
    own: Own,
    workdir: Path,
    until: int | None,
    allow_drift: Sequence[str],
    manifest: Manifest,
    stop: loop.StopSignal,
    lock_wait: float,
    ledger: Ledger,
    profile: str,
    peers: Peers,
) -> int:
    drift.check_workdir(workdir, config, allow_drift, own)
    if (finished := finished_step(workdir)) and finished >= config.train.num_steps:
        print(
            f"{workdir} has finished its {finished:,} steps; "
            "a larger --config.train.num_steps goes on from there",
            file=sys.stderr,
        )
        return 0
    profiled = profiling.of_workdir(profile, config.train.num_steps, workdir)
    writers.check(config.train.writers)
    experiment = build()
    _ = experiment.parts  # refuses what cannot be shown in parts, before data are read
    training_evaluation.check(config)
    weights = beginning.weights_before_data(experiment, [workdir])
    text_cache.check(experiment)
    latent_cache.check(experiment)
    data = read_data(experiment, drift.resumed([workdir]))
    text_cache.check_sources(experiment, [data.train, data.validation])
    latent_cache.check_sources(experiment, [data.train, data.validation])
    parts = parts_of(data.experiment)
    config = config_files.override(config, {"data": {"class_names": data.class_names}})
    experiment = dataclasses.replace(data.experiment, config=config)
    drift.check(workdir, config, data.prints, parts, allow_drift, own)
    beginning.make_writable(workdir)

    with (
        alone(workdir, lock_wait),
        _shown(workdir) as (folder, stream),
        manifest,
        Checkpoints(
            workdir, keep=config.train.keep_checkpoints, deadline=config.train.save_deadline
        ) as checkpoints,
        Watchdog(config.train.step_deadline, manifest.stuck) as watchdog,
    ):
        peers.before_end(manifest.lost)
        # Again: another process may have just let go of it.
        drifted = drift.check(workdir, config, data.prints, parts, allow_drift, own)
        state, start, begun_with = beginning.state(experiment, checkpoints, weights, say)
        del weights  # which would stay on the devices as long as the run does
        for line in drift.stretched(config, drifted, start) if processes.is_first() else ():
            say(line)
        beginning.discard_later(workdir, start, say)
        state = reseeded(state, config.seed)  # the key of another seed, where that was allowed
        manifest.begin(
            config,
            experiment.mesh.shape,
            data.described,
            start,
            drifted,
            parts,
            init_from=begun_with,
        )
        if processes.is_first():
            config_files.write(workdir, config)
            kept.keep(experiment, workdir)
        sources = [data.train, data.validation]
        experiment = text_cache.with_states(experiment, state.params, sources)
        train, validation = latent_cache.sources(experiment, sources)
        assert train is not None
        num_steps = max(config.train.num_steps, start)
        forecaster = Forecaster(experiment, ledger, [manifest], workdir, start)
        attempt = Attempt(
            experiment,
            train,
            validation,
            checkpoints,
            manifest,
            folder,
            ledger,
            profiled,
            forecaster.action,
        )
        with forecaster, Progress(start, num_steps, config.data.batch_size, stream) as progress:
            progress.say(_opening(experiment, workdir, start, len(data.train)))
            if changed := ", ".join(parts["changed_in_python"]):
                progress.say(f"changed in Python: {changed}")
            state, reached = attempt.run(
                state, start, num_steps, until, progress, watchdog, lambda: stop.requested
            )
        if reached < num_steps:
            print(
                f"stopped and saved at step {reached:,} of {num_steps:,}; "
                "run the same command again to go on",
                file=stream,
            )
            return manifest.end(EXIT_STOPPED)
        with ledger.phase("checkpoint"):
            final = {"step": reached, **checkpoints.digests(reached, state)}
            if processes.is_first():
                files.must_write_json(workdir / "final.json", final)
        if line := forecaster.settle(reached):
            print(line, file=stream)
        manifest.end(0, final)
    if not processes.is_first():
        return 0
    use = experiment.kind.next(config).format(workdir=workdir)
    print(
        f"done: {reached:,} steps in {workdir}; next: python -m ddpm_jax {use}",
        file=sys.stderr,
    )
    return 0


@contextlib.contextmanager
def alone(workdir: Path, wait: float = files.PROBED) -> Iterator[None]:
    """The workdir for this run alone: the first process has it for all."""
    with contextlib.ExitStack() as held:

        def take() -> None:
            if processes.is_first():
                held.enter_context(files.alone(workdir, wait))

        processes.all_or_none(take, f"--workdir={workdir} is not free")
        yield


@contextlib.contextmanager
def _shown(workdir: Path) -> Iterator[tuple[Path, TextIO]]:
    """Where this process writes figures and lines: the first one's are seen, others' nowhere."""
    if processes.is_first():
        yield workdir, sys.stderr
        return
    with tempfile.TemporaryDirectory() as unseen, open(os.devnull, "w") as nobody:
        yield Path(unseen), nobody


def say(line: str) -> None:
    """A line for the user, at once."""
    print(line, file=sys.stderr, flush=True)


def _opening(experiment: Experiment, workdir: Path, start: int, examples: int) -> str:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(experiment.state_shapes().params))
    verb = f"resuming at step {start:,}" if start else "training"
    devices = experiment.mesh.devices.flat[0].platform
    return (
        f"{verb}: {parameters:,} parameters, {examples:,} images of {experiment.config.data.name}, "
        f"{experiment.mesh.size} {devices} device(s), workdir {workdir}"
    )


def finished_step(workdir: Path) -> int:
    """The step of final.json, or 0."""
    try:
        return int(files.read_json(workdir / "final.json")["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
