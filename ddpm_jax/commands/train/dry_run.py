"""What a run would cost, before anything is spent."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.build import replicas
from ddpm_jax.config import config_files
from ddpm_jax.experiment import Experiment, build, forecast, imported_parts, settling
from ddpm_jax.measures import model_flop, training_evaluation
from ddpm_jax.reporting import writers
from ddpm_jax.runtime.ledger import Ledger


def dry_run(
    config: ConfigDict,
    *,
    measure: bool = False,
    workdir: str | Path | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """What a run would cost: parameters, FLOP and bytes per step, shapes.

    FLOP and bytes are those of all config.train.replicas together, the rest is of one.

    Args:
      config: the experiment.
      measure: time a few steps too, which reads the data, and forecast the whole run.
      workdir: where the forecast is kept, for the run to be measured by; None for nowhere.
      began: when the command began, as `time.monotonic` tells it; None for now.

    Returns:
      "flop_per_step" by the compiler's analysis, "model_flop_per_step" as the metrics have it,
      "bytes_per_device" as `forecast.bytes_per_device`, ...; with `measure`, "measured" and
      "forecast", as `forecast.of_run`.
    """
    ledger = Ledger(began)
    config = config_files.resolve(config)
    experiment = build(config, own=imported_parts(config))
    training_evaluation.check(config)
    writers.check(config.train.writers)
    shapes = experiment.state_shapes()
    num = config.train.replicas
    measured, memory = {}, None
    if measure:
        timing = forecast.timed(experiment, ledger, num)
        memory = timing.memory
        measured = {
            "measured": {k: v for k, v in timing._asdict().items() if k != "memory"},
            "forecast": forecast.of_run(experiment, timing, num),
        }
        if workdir is not None:
            settling.write(workdir, config, measured["forecast"])
    lowered = _lowered(experiment, num)
    # Before the compiler: it hides the operations of library calls from the count.
    cost: Any = lowered.cost_analysis() or {}
    memory = memory or lowered.compile().memory_analysis()

    def size(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    batch = experiment.batch_shapes()
    return {
        "parameters": size(shapes.params),
        "flop_per_step": int(cost.get("flops", 0)),
        "model_flop_per_step": num * model_flop.of_step(experiment),
        "state_bytes": int(memory.argument_size_in_bytes),
        "workspace_bytes": int(memory.temp_size_in_bytes),
        "bytes_per_device": forecast.bytes_per_device(experiment, memory, num),
        "replicas": num,
        "devices": experiment.mesh.size,
        "batch": {name: f"{s.dtype}{list(s.shape)}" for name, s in batch.items()},
        "num_steps": config.train.num_steps,
        **measured,
    }


def _lowered(experiment: Experiment, num: int) -> Any:
    """The training step before the compiler."""
    if num == 1:
        return experiment.train_step().lower(experiment.state_shapes(), experiment.batch_shapes())
    return replicas.group_step(experiment, num).lower(*replicas.argument_shapes(experiment, num))
