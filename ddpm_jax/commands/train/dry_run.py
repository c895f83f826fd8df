"""What a run would cost, before anything is spent."""

from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.build import averages, replicas
from ddpm_jax.experiment import build, imported_parts
from ddpm_jax.measures import training_evaluation
from ddpm_jax.training import freezing


def dry_run(config: ConfigDict) -> dict[str, Any]:
    """What a run would cost: parameters, FLOP and bytes per step, shapes. Reads no data.

    FLOP and bytes are those of all config.train.replicas together, the rest is of one;
    snapshot_bytes are on disk, of config.ema.snapshots_every over the whole run.
    """
    experiment = build(config, own=imported_parts(config))
    training_evaluation.check(config)
    weights = experiment.starting_weights()
    shapes = experiment.state_shapes()
    num = config.train.replicas
    if num == 1:
        lowered = experiment.train_step().lower(shapes, experiment.batch_shapes())
    else:
        arguments = replicas.argument_shapes(experiment, num)
        lowered = replicas.group_step(experiment, num).lower(*arguments)
    # Before the compiler: it hides the operations of library calls from the count.
    cost: Any = lowered.cost_analysis() or {}
    memory: Any = lowered.compile().memory_analysis()

    def size(tree: Any) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    batch = experiment.batch_shapes()
    moving, frozen = freezing.sizes(config.optim.frozen, shapes.params)
    return {
        "parameters": size(shapes.params),
        "trainable_parameters": moving,
        "frozen_parameters": frozen,
        "flop_per_step": int(cost.get("flops", 0)),
        "state_bytes": int(memory.argument_size_in_bytes),
        "workspace_bytes": int(memory.temp_size_in_bytes),
        "snapshot_bytes": num * averages.snapshot_bytes(config, size(shapes.params)),
        "replicas": num,
        "devices": experiment.mesh.size,
        "batch": {name: f"{s.dtype}{list(s.shape)}" for name, s in batch.items()},
        "num_steps": config.train.num_steps,
        **({"init_from": weights.record} if weights else {}),
    }
