"""What a run would cost, before anything is spent."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.build import averages, begun, pipelines, replicas, texts
from ddpm_jax.config import config_files
from ddpm_jax.experiment import Experiment, build, forecast, imported_parts, settling
from ddpm_jax.measures import model_flop, training_evaluation
from ddpm_jax.reporting import writers
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.ledger import Ledger
from ddpm_jax.training import freezing, inspection


def dry_run(
    config: ConfigDict,
    *,
    measure: bool = False,
    workdir: str | Path | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """What a run would cost: parameters, FLOP and bytes per step, shapes.

    FLOP and bytes are those of all config.train.replicas together, the rest is of one. Bytes are
    those on each device; `residual_bytes` is what is kept of the forward pass for the backward
    pass, before the compiler. Where parameters are split, `fsdp` tells the state's share on a
    device, and which arrays stay whole since no dimension of theirs divides. `snapshot_bytes` are
    on disk, of config.ema.snapshots_every over the whole run.

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
    config = pipelines.filled(config_files.resolve(config))
    experiment = build(config, own=imported_parts(config))
    training_evaluation.check(config)
    if begun.has_others(experiment):
        experiment = begun.without_data(experiment)
    elif experiment.reads_text:
        texts.from_file(config)  # which has to be there
    weights = experiment.starting_weights()
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
    cost: Any = _whole(experiment, lowered).cost_analysis() or {}
    memory = memory or lowered.compile().memory_analysis()

    def size(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    batch = experiment.batch_shapes()
    moving, frozen = freezing.sizes(config.optim.frozen, shapes.params)
    return {
        "parameters": size(shapes.params),
        "trainable_parameters": moving,
        "frozen_parameters": frozen,
        "flop_per_step": int(cost.get("flops", 0)),
        "model_flop_per_step": num * model_flop.of_step(experiment),
        "state_bytes": int(memory.argument_size_in_bytes),
        "workspace_bytes": int(memory.temp_size_in_bytes),
        "residual_bytes": residual_bytes(experiment, num),
        "snapshot_bytes": num * averages.snapshot_bytes(config, size(shapes.params)),
        "bytes_per_device": forecast.bytes_per_device(experiment, memory, num),
        "replicas": num,
        "devices": experiment.mesh.size,
        **_fsdp(experiment),
        "batch": {name: f"{s.dtype}{list(s.shape)}" for name, s in batch.items()},
        "num_steps": config.train.num_steps,
        **({"init_from": weights.record} if weights else {}),
        **measured,
    }


def _lowered(experiment: Experiment, num: int) -> Any:
    """The training step before the compiler."""
    if num == 1:
        return experiment.train_step().lower(experiment.state_shapes(), experiment.batch_shapes())
    return replicas.group_step(experiment, num).lower(*replicas.argument_shapes(experiment, num))


def _whole(experiment: Experiment, lowered: Any) -> Any:
    """The step with its batch whole: of a loop over parts, FLOP are counted once."""
    if experiment.config.train.accumulate == 1:
        return lowered
    config = config_files.override(experiment.config, {"train": {"accumulate": 1}})
    whole = dataclasses.replace(experiment, config=config).train_step()
    return whole.lower(experiment.state_shapes(), experiment.batch_shapes())


def _fsdp(experiment: Experiment) -> dict[str, Any]:
    """How a state is split, where it is."""
    mesh, shapes = experiment.mesh, experiment.state_shapes()
    if mesh.shape["fsdp"] == 1:
        return {}
    total, own = forecast.state_bytes(experiment), sharding.bytes_on_device(shapes)
    undivided = sharding.undivided(mesh, shapes)
    whole = sharding.bytes_on_device(
        [leaf for leaf in jax.tree.leaves(shapes) if leaf.sharding.is_fully_replicated]
    )
    return {
        "fsdp": {
            "state_bytes_of_all": total,
            "state_bytes_on_device": own,
            "share": own / total,
            "undivided": undivided,
            "too_small_bytes": whole - sum(undivided.values()),
        }
    }


def residual_bytes(experiment: Experiment, replicas: int) -> int:
    """What a device keeps of the forward pass for the backward pass, before the compiler.

    Args:
      experiment: of one run.
      replicas: so many in one program.
    """
    config, mesh = experiment.config, experiment.mesh
    rows, members = config.data.batch_size, replicas
    if replicas == 1:
        strict = config.mesh.strict
        rows //= config.mesh.strict_shards if strict else mesh.size * config.train.accumulate
    elif replicas % mesh.size == 0:
        members //= mesh.size
    losses, shapes = inspection.loss_to_trace(
        experiment.objective,
        experiment.state_shapes(),
        experiment.batch_shapes(),
        experiment.frozen,
        rows=rows,
    )
    return members * inspection.residual_bytes(losses, *shapes)
