"""The speed and memory figures of docs/results.md, each a ratio or a reading of one run."""

import functools
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import conditioning
from ddpm_jax.commands.benchmark import forecasts, groups, peers, reading, strict
from ddpm_jax.commands.benchmark.processes import python
from ddpm_jax.evaluation import manifold
from ddpm_jax.experiment import Experiment, attempt, build, padded_batch
from ddpm_jax.measures import speed
from ddpm_jax.measures.watch import Watch
from ddpm_jax.reporting.progress import Progress
from ddpm_jax.reporting.writers import MetricWriter
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.ledger import Ledger
from ddpm_jax.trained import drawing, program
from ddpm_jax.training import loop, step_files
from ddpm_jax.training.state import TrainState

# Alternating blocks, so that a drift of the machine's speed falls on both sides alike.
ROUNDS = 8
BLOCK_STEPS = 25

# In a process of its own, whose largest size is then that of the streaming.
STREAM = """
import json, resource, time
import numpy as np
from ddpm_jax.evaluation import moments

rng, taken = np.random.default_rng(0), 0.0
total = moments.zero(2048)
for _ in range(200):
    batch = rng.standard_normal((250, 2048), np.float32)
    began = time.perf_counter()
    total = moments.update(total, batch)
    taken += time.perf_counter() - began
assert total.num == 50_000
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": taken, "peak_memory": peak}))
"""


def benchmark(config: ConfigDict, config_file: str) -> dict[str, Any]:
    """Measure the experiment of a config on this machine; takes a few minutes for the digits.

    Args:
      config: the experiment.
      config_file: the file that `config` came from, for what a whole process costs.

    Returns:
      {"device": ..., "loop_over_step": ..., ...}; times in seconds, memory in MB.
    """
    experiment = build(config)
    device = experiment.mesh.devices.flat[0]
    return {
        "device": f"{experiment.mesh.size} x {device.device_kind}, {os.cpu_count()} host cores",
        "jax": jax.__version__,
        **_loop_overhead(experiment),
        "reading": reading.reading_speed(experiment),
        "forecasts": forecasts.forecasts(config_file),
        "group_of_runs": groups.group_speed(config),
        "strict": strict.strict_cost(config),
        **_sampling_speed(experiment),
        "ddim_beside_diffusers": peers.ddim_speed(),
        "checkpoint": _checkpoint_digests(),
        "feature_statistics": _feature_statistics(),
        "prdc": {"seconds": _prdc()},
        **_processes(config_file),
    }


def _loop_overhead(experiment: Experiment) -> dict[str, float]:
    """The whole loop (data, metrics, writers, progress) against the bare compiled step."""
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

            bare.append(_seconds(run_bare) / BLOCK_STEPS)
            looped.append(_seconds(run_loop) / BLOCK_STEPS)
    stream.close()
    return {
        "bare_step": statistics.median(bare),
        "loop_step": statistics.median(looped),
        "loop_over_step": statistics.median(a / b for a, b in zip(looped, bare, strict=True)),
    }


def _sampling_speed(experiment: Experiment, num: int = 500) -> dict[str, float]:
    """Images a second of config.sample, compilation left out."""
    params = experiment.init_state().params
    sample_fn = program.sample_fn(experiment)
    config = experiment.config
    labels = drawing.default_labels(num, config.model.num_classes)
    conditions = conditioning.arrays(config, experiment.own, num, labels, {})
    size = padded_batch(experiment, num)

    def draw(count: int) -> None:
        drawn = drawing.draw_images(
            sample_fn,
            params,
            count,
            conditions,
            seed=0,
            batch_size=size,
            decode=experiment.codec.decode,
        )
        list(drawn)

    draw(size)
    return {"samples_per_second": num / _seconds(lambda: draw(num))}


def _checkpoint_digests(repeats: int = 20) -> dict[str, float]:
    """A save with digests against Orbax's alone: 36 million parameters, EMA and Adam's moments.

    Random numbers, which do not compress any better than weights do. Each folder is deleted before
    the next save, so that both write into memory that the system has at hand, and the two take
    turns at being first.
    """

    def plain_save(folder: Path) -> None:
        step_files.write_plain(folder, host)
        for path in folder.rglob("*"):
            step_files.sync(path)  # digests are not what it takes to be on disk

    def save(folder: Path) -> None:
        step_files.write(folder, 1, host, None)

    rng = np.random.default_rng(0)
    kernels = {f"conv_{k}": (3, 3, 256, 256) for k in range(61)}

    def tree() -> dict[str, np.ndarray]:
        return {n: rng.standard_normal(shape, np.float32) for n, shape in kernels.items()}

    moments = {"mu": tree(), "nu": tree()}
    step: Any = np.int32(1)
    key: Any = np.zeros(2, np.uint32)
    host = TrainState(step, key, tree(), {"default": tree()}, moments, {})
    taken: dict[Callable[[Path], None], list[float]] = {save: [], plain_save: []}
    verified = []
    for turn in range(repeats + 1):
        for write in (save, plain_save) if turn % 2 else (plain_save, save):
            with tempfile.TemporaryDirectory() as parent:
                folder = Path(parent) / "1"
                taken[write].append(_seconds(functools.partial(write, folder)))
                if write is save:
                    verified.append(_seconds(functools.partial(step_files.verify, folder)))
    # The first turn warms up.
    ours, plain = (statistics.median(taken[write][1:]) for write in (save, plain_save))
    return {
        "save": ours,
        "save_without_digests": plain,
        "digests_over_none": ours / plain,
        "verify_files": statistics.median(verified),
    }


def _feature_statistics() -> dict[str, float]:
    """Mean and covariance of 50,000 features of 2048 dimensions that come in batches of 250."""
    done = python("-c", STREAM)
    return json.loads(done.stdout)


def _prdc() -> float:
    """10,000 samples against 10,000 references in 64 dimensions, with intervals."""
    rng = np.random.default_rng(0)
    samples, references = rng.standard_normal((2, 10_000, 64), np.float32)
    return _seconds(lambda: manifold.prdc(samples, references))


def _processes(config_file: str) -> dict[str, float]:
    """A one-step run from an empty and from a filled compile cache, and a short run's memory."""
    with tempfile.TemporaryDirectory() as folder:

        def train(name: str, *flags: str) -> float:
            places = [f"--workdir={folder}/{name}", f"--compile_cache={folder}/cache"]
            began = time.perf_counter()
            python("-m", "ddpm_jax", "train", f"--config={config_file}", *places, *flags)
            return time.perf_counter() - began

        one_step = [
            "--config.train.num_steps=1",
            "--config.optim.decay=constant",
            "--config.train.sample_every=0",
            "--config.train.validate_every=0",
        ]
        cold, warm = train("cold", *one_step), train("warm", *one_step)
        train("short", "--config.train.num_steps=150", "--config.train.checkpoint_every=50")
        # Linux counts in kilobytes; the largest of the children.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"one_step_run_cold": cold, "one_step_run_warm": warm, "peak_host_memory": peak}


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
