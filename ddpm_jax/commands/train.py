"""A training run from its config and workdir: start, resume, watch, finish."""

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import config as configs
from ddpm_jax import experiment as experiments
from ddpm_jax import files
from ddpm_jax.commands import drift
from ddpm_jax.commands.manifest import Manifest, fingerprints
from ddpm_jax.commands.skipped import SkippedSteps
from ddpm_jax.commands.watch import Watch
from ddpm_jax.data import Batches, Source
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment
from ddpm_jax.parts import conditions
from ddpm_jax.reporting.progress import Progress
from ddpm_jax.reporting.writers import MetricWriter
from ddpm_jax.training import loop, processes, sharding
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.digests import digests
from ddpm_jax.training.state import TrainState, reseeded
from ddpm_jax.training.watchdog import Watchdog

# EX_TEMPFAIL: run the same command again.
EXIT_STOPPED = 75


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    until: int | None = None,
    allow_drift: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> int:
    """Train in `workdir`, or go on with what is there; returns the exit code.

    0 when the run is complete (or was already), 75 when a SIGINT or SIGTERM stopped it: the state
    is then saved, and the same call goes on from it, to the same final state bit for bit.

    Args:
      config: the experiment.
      workdir: where the run lives.
      until: stop and save at this step, as a signal would; None for train.num_steps.
      allow_drift: fields in which the config may differ from that of what is there.
      overrides: what the command line changed in the config, for the manifest.

    Raises:
      UserError: for a config, workdir or data set that does not fit: nothing is written then. For
        data that cannot be read on the way, and for too many skipped steps in a row: the run is
        then saved at the step that it reached, and the same call goes on from there.
    """
    with loop.StopSignal() as stop:
        manifest = Manifest(workdir, overrides)
        return _train(configs.resolve(config), Path(workdir), until, allow_drift, manifest, stop)


def _train(
    config: ConfigDict,
    workdir: Path,
    until: int | None,
    allow_drift: Sequence[str],
    manifest: Manifest,
    stop: loop.StopSignal,
) -> int:
    drift.check_workdir(workdir, config, allow_drift)
    if _finished(workdir) >= config.train.num_steps:
        print(
            f"{workdir} has finished its {_finished(workdir):,} steps; "
            "a larger --config.train.num_steps goes on from there",
            file=sys.stderr,
        )
        return 0
    experiment = experiments.build(config)
    train_data = experiment.source("train")
    validation_data = experiment.source("validation") if config.train.validate_every else None
    batches = training_batches(experiment, train_data)
    prints = fingerprints(train_data, validation_data)
    drift.check(workdir, config, prints, allow_drift)
    _make_writable(workdir)

    failures: list[UserError] = []
    with (
        _alone(workdir),
        _shown(workdir) as (own, stream),
        manifest,
        Checkpoints(
            workdir, keep=config.train.keep_checkpoints, deadline=config.train.save_deadline
        ) as checkpoints,
        Watchdog(config.train.step_deadline, manifest.stuck) as watchdog,
    ):
        # Again: another process may have just let go of it.
        drifted = drift.check(workdir, config, prints, allow_drift)
        resumed = checkpoints.restore_newest(experiment.state_shapes(), _say)
        state, start = resumed or (experiment.init_state(), 0)
        state = reseeded(state, config.seed)  # the key of another seed, where that was allowed
        manifest.begin(config, experiment.mesh.shape, prints, start, drifted)
        if processes.is_first():
            configs.write(workdir, config)
        num_steps = max(config.train.num_steps, start)
        with Progress(start, num_steps, config.data.batch_size, stream) as progress:
            writer = MetricWriter(own, start, progress.say)
            progress.say(_opening(experiment, workdir, start, len(train_data)))
            watch = Watch(experiment, validation_data, writer, progress, own)
            skipped = SkippedSteps(
                own, start, progress, batches.example_ids, config.train.max_skipped
            )

            def save(step: int, state: TrainState) -> None:
                skipped.look()  # a run that goes on from here does not come by this step again
                watch.save(checkpoints, step, state)

            period = config.train
            every = functools.partial(loop.every, last=num_steps)
            state, reached = loop.train(
                state,
                experiment.train_step(),
                placed(
                    batches.iterate(start, num_threads=config.data.num_threads),
                    experiment,
                    failures,
                ),
                start=start,
                num_steps=num_steps if until is None else min(num_steps, max(until, start)),
                actions=[
                    skipped.action,
                    watch.metrics(num_steps, start),
                    every(period.validate_every, act=watch.validate),
                    every(period.sample_every * experiment.draws_images, act=watch.sample),
                    # Last: what a checkpoint's step shows is on disk before the checkpoint is.
                    every(period.checkpoint_every, act=save),
                    every(period.checkpoint_every, act=manifest.follow(checkpoints)),
                    _looked_after(checkpoints, watchdog, progress),
                ],
                stop=processes.agreed_stop(
                    experiment.mesh, lambda: stop.requested or bool(skipped.too_many)
                ),
            )
            save(reached, state)
            processes.all_or_none(checkpoints.wait, "the last state could not be saved")
            manifest.reached(reached, checkpoints.records())
            if broken := sum(s.skipped for s in (train_data, validation_data) if s):
                progress.say(f"broken images skipped: {broken}")
        if failed := skipped.too_many or "".join(map(str, failures[:1])):
            raise UserError(f"{failed} (saved at step {reached:,}, to go on from there)")
        if reached < num_steps:
            print(
                f"stopped and saved at step {reached:,} of {num_steps:,}; "
                "run the same command again to go on",
                file=stream,
            )
            return manifest.end(EXIT_STOPPED)
        final = {"step": reached, **digests(state)}
        if processes.is_first():
            files.must_write_json(workdir / "final.json", final)
        manifest.end(0, final)
    if not processes.is_first():
        return 0
    use = "workdir" if experiment.draws_images else "classifier_workdir"
    use = "workdir=SMALLER --upsampler_workdir" if config.diffusion.low_resolution else use
    print(
        f"done: {reached:,} steps in {workdir}; next: python scripts/sample.py --{use}={workdir} "
        "--num_samples=100 --out=samples.npz",
        file=sys.stderr,
    )
    return 0


def dry_run(config: ConfigDict) -> dict[str, Any]:
    """What a run would cost: parameters, FLOP and bytes per step, shapes. Reads no data."""
    experiment = experiments.build(config)
    shapes = experiment.state_shapes()
    lowered = experiment.train_step().lower(shapes, experiment.batch_shapes())
    # Before the compiler: it hides the operations of library calls from the count.
    cost: Any = lowered.cost_analysis() or {}
    memory: Any = lowered.compile().memory_analysis()

    def size(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    batch = experiment.batch_shapes()
    return {
        "parameters": size(shapes.params),
        "flop_per_step": int(cost.get("flops", 0)),
        "state_bytes": int(memory.argument_size_in_bytes),
        "workspace_bytes": int(memory.temp_size_in_bytes),
        "devices": experiment.mesh.size,
        "batch": {name: f"{s.dtype}{list(s.shape)}" for name, s in batch.items()},
        "num_steps": config.train.num_steps,
    }


def training_batches(experiment: Experiment, source: Source) -> Batches:
    """This process's part of the batches that a run trains on."""
    config = experiment.config
    return Batches(
        source,
        config.data.batch_size,
        config.seed,
        flip=config.data.flip,
        conditions=conditions.of_data(config),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def placed(
    batches: Iterator[dict[str, np.ndarray]], experiment: Experiment, failures: list[UserError]
) -> Iterator[Any]:
    """The batches on their devices; data that cannot be read end them, so that the run is saved."""
    place = sharding.batch_sharding(experiment.mesh)
    try:
        for batch in batches:
            yield sharding.put_batch(batch, place)
    except UserError as error:
        failures.append(error)


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """The workdir for this run alone: the first process has it for all."""
    with contextlib.ExitStack() as held:

        def take() -> None:
            if processes.is_first():
                held.enter_context(files.alone(workdir))

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


def _looked_after(checkpoints: Checkpoints, watchdog: Watchdog, progress: Progress) -> loop.Action:
    """Tells what went wrong with saving, at the next step, and that the run is alive."""

    def action(step: int, state: TrainState, metrics: loop.Metrics) -> None:
        for line in checkpoints.complaints():
            progress.say(line)
        watchdog.tick()

    return action


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _opening(experiment: Experiment, workdir: Path, start: int, examples: int) -> str:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(experiment.state_shapes().params))
    verb = f"resuming at step {start:,}" if start else "training"
    devices = experiment.mesh.devices.flat[0].platform
    return (
        f"{verb}: {parameters:,} parameters, {examples:,} images of {experiment.config.data.name}, "
        f"{experiment.mesh.size} {devices} device(s), workdir {workdir}"
    )


def _finished(workdir: Path) -> int:
    """The step of final.json, or 0."""
    try:
        return int(files.read_json(workdir / "final.json")["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _make_writable(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--workdir={workdir}: cannot write there ({reason})") from error
