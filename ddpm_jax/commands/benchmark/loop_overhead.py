"""The whole training loop beside its bare compiled step."""

import statistics
import tempfile
from pathlib import Path

import jax

from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.commands.benchmark.turns import seconds_of
from ddpm_jax.experiment import Experiment, attempt, build
from ddpm_jax.measures import speed
from ddpm_jax.measures.watch import Watch
from ddpm_jax.reporting.progress import Progress
from ddpm_jax.reporting.writers import MetricWriter
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.ledger import Ledger
from ddpm_jax.training import loop

# Alternating blocks, so that a drift of the machine's speed falls on both sides alike.
ROUNDS = 8
BLOCK_STEPS = 25


def section(options: Options) -> dict[str, float]:
    """`overhead` of the experiment that was named."""
    return overhead(build(options.config))


def overhead(experiment: Experiment) -> dict[str, float]:
    """The whole loop (data, metrics, writers, progress) against the bare compiled step.

    Returns:
      {"bare_step", "loop_step": seconds; "loop_over_step": the ratio, 1 is no overhead}.
    """
    config, ledger = experiment.config, Ledger()
    state, step_fn = experiment.init_state(), experiment.train_step()
    batches = attempt.training_batches(experiment, experiment.source("train"))
    fixed = sharding.put_batch(batches.batch_at(0), sharding.batch_sharding(experiment.mesh))
    read = batches.iterate(num_threads=config.data.num_threads)
    stream = attempt.prefetched(attempt.placed(read, experiment, []), ledger)
    state, _ = step_fn(state, fixed)  # compiles

    bare, looped = [], []
    total = ROUNDS * BLOCK_STEPS
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(0, total, config.data.batch_size) as progress,
    ):
        writer = MetricWriter(folder, say=progress.say)
        watch = Watch(experiment, None, writer, progress, Path(folder))
        actions = [watch.metrics(total, 0, speed.of(experiment, ledger))]
        for done in range(0, total, BLOCK_STEPS):

            def run_bare() -> None:
                nonlocal state
                for _ in range(BLOCK_STEPS):
                    state, _ = step_fn(state, fixed)
                jax.block_until_ready(state)

            def run_loop(start: int = done) -> None:
                nonlocal state
                end = start + BLOCK_STEPS
                state, _ = loop.train(
                    state, step_fn, stream, start=start, num_steps=end, actions=actions
                )
                jax.block_until_ready(state)

            bare.append(seconds_of(run_bare) / BLOCK_STEPS)
            looped.append(seconds_of(run_loop) / BLOCK_STEPS)
    stream.close()
    return {
        "bare_step": statistics.median(bare),
        "loop_step": statistics.median(looped),
        "loop_over_step": statistics.median(a / b for a, b in zip(looped, bare, strict=True)),
    }
