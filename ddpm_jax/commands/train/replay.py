"""A step of a run seen again, with what each of its examples does to it."""

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.build import begun, kept, latent_cache, text_cache, texts
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import (
    Experiment,
    attempt,
    beginning,
    build,
    drift,
    imported_parts,
    recorded,
)
from ddpm_jax.measures import manifest
from ddpm_jax.runtime import leaves
from ddpm_jax.training import loop
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import TrainState, reseeded
from ddpm_jax.training.step_files import Damaged, Unreadable


def replay(
    config: ConfigDict, workdir: str | Path, step: int, *, allow_drift: Sequence[str] = ()
) -> dict[str, Any]:
    """Train again up to a step, from the newest checkpoint before it, and look at that step.

    Writes nothing. On the machine of the run, with as many threads and devices, the step comes
    again bit for bit.

    Args:
      config: the run's.
      workdir: the run's.
      step: as the logs number them, from 1: step n reads the n-th batch.
      allow_drift: fields in which the config may differ from that of the run.

    Returns:
      step, loss, grad_norm, skipped, and examples: index in the data source, label, t, loss and
      weight of each; and bad_gradients, the names of parameters whose gradient is not finite.
      Numbers that are not finite are None.

    Raises:
      UserError: for a step out of range, or a workdir of another experiment.
    """
    config = beginning.resolved(config, Path(workdir))
    own = imported_parts(config)
    if config.train.replicas != 1:
        raise UserError(
            f"config.train.replicas={config.train.replicas}: --replay_step looks at one run; set "
            "1, and name the --workdir of one, DIR/replicas/seed=S"
        )
    drift.check_workdir(Path(workdir), config, allow_drift, own)
    if not 1 <= step <= config.train.num_steps:
        raise UserError(
            f"--replay_step={step}: the steps of this run are 1 to {config.train.num_steps} "
            "(config.train.num_steps)"
        )
    experiment = build(config, own=own)
    text_cache.check_alone(experiment, f"--replay_step={step}")
    latent_cache.check_alone(experiment, f"--replay_step={step}")
    source = experiment.source("train")
    if drift.has_checkpoints(Path(workdir)):
        experiment = kept.with_kept(experiment, workdir)
    else:
        experiment = begun.with_made(experiment, source)
    prints = {**manifest.fingerprints(source, None), **texts.described(experiment.tokenizer)}
    parts = manifest.parts_of(experiment)
    drift.check(Path(workdir), config, prints, parts, allow_drift, own)
    batches = attempt.training_batches(experiment, source)
    failures: list[UserError] = []

    def placed(start: int) -> Iterator[Any]:
        read = batches.iterate(start, num_threads=config.data.num_threads)
        yield from attempt.placed(read, experiment, failures)
        raise failures[0]

    state, start = _before(experiment, Path(workdir), step)
    state = reseeded(state, config.seed)
    print(f"replaying step {step:,} from step {start:,}", file=sys.stderr)
    stream = placed(start)
    train_step = experiment.train_step()
    state, _ = loop.train(state, train_step, stream, start=start, num_steps=step - 1)
    batch = next(stream)
    seen = jax.device_get(experiment.inspection()(state, batch))
    # The run's own program: its loss is the one that was logged, to the last bit.
    _, metrics = jax.device_get(train_step(state, batch))
    labels = jax.device_get(batch["label"])
    return {
        "step": step,
        "loss": _number(metrics["loss"]),
        "grad_norm": _number(metrics["grad_norm"]),
        "skipped": bool(metrics["skipped"]),
        "examples": [
            {
                "index": index,
                "label": int(labels[k]),
                **{name: _number(seen[name][k]) for name in ("t", "loss", "weight")},
            }
            for k, index in enumerate(batches.example_ids(step - 1))
        ],
        "bad_gradients": [
            name for name, finite in leaves.named(seen["finite_gradient"]).items() if not finite
        ],
    }


def _before(experiment: Experiment, workdir: Path, step: int) -> tuple[TrainState, int]:
    """The state of the newest whole checkpoint before a step, or the initial one."""
    with Checkpoints(workdir, read_only=True) as checkpoints:
        for start in reversed([saved for saved in checkpoints.steps() if saved < step]):
            try:
                return checkpoints.restore(start, experiment.state_shapes()), start
            except (Damaged, Unreadable) as error:
                print(f"{error}; taking the one before it", file=sys.stderr)
    path = workdir / manifest.FILE
    attempts = manifest.read(path) if path.exists() else []
    return experiment.init_state(recorded.weights_of(experiment, attempts, path)), 0


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
