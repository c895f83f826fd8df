"""Experiments that differ in their seed and in a few numbers, as the members of one group.

These numbers are arguments of the group's program: another learning rate is not another program.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import assemble, averages, conditioning, optimizers, starting_weights
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.build.kinds import KINDS
from ddpm_jax.build.starting_weights import StartingWeights
from ddpm_jax.config import config_files
from ddpm_jax.config.checks import has
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import sharding
from ddpm_jax.training import replicated, step
from ddpm_jax.training.state import TrainState, init_state

# The fields in which the members of a group may differ beside their seed; numbers of each member.
TRACED = (
    "optim.learning_rate",
    "optim.warmup_steps",
    "optim.weight_decay",
    "ema.decay",
    "diffusion.label_dropout",
    "diffusion.condition_dropout",
    "diffusion.joint_dropout",
)

# {field: [K] or, of condition_dropout, [K, conditions]}
Numbers = dict[str, np.ndarray]


def shared(config: ConfigDict) -> dict[str, Any]:
    """{field: value} of what is the same in all members of a group.

    ema.decay too where it is one of ema.decays, which then keep one average fewer.
    """
    own = {*TRACED, "seed"}
    if config.ema.decay in config.ema.decays:
        own.remove("ema.decay")
    return {name: v for name, v in config_files.fields(config).items() if name not in own}


def keeping_apart(one: ConfigDict, other: ConfigDict) -> list[str]:
    """The fields in which two configs differ and which no program of both can have."""
    a, b = shared(one), shared(other)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def trains_alone(config: ConfigDict) -> bool:
    """Whether no group can train it: its members take their batches whole, and have no more."""
    d = config.data
    has_more = d.get("clip") or d.get("codec") or d.get("cache_text", False) or _looks(config)
    several = KINDS[config.kind].several(config)
    return bool(config.train.accumulate > 1 or config.mesh.strict or has_more or several)


def _looks(config: ConfigDict) -> str:
    """The weights that tell an autoencoder how images look; "" for none."""
    return str(config.get("objective", {}).get("perceptual", ""))


def check(config: ConfigDict, num: int) -> None:
    """Raises UserError for a config that no group of `num` members can train."""
    if config.mesh.strict:
        raise UserError(
            f"config.mesh.strict=True: {num} runs in one program have bits of their own; set "
            "False, or train them one by one (train.replicas=1)"
        )
    for field, what in (("clip", "a CLIP"), ("codec", "latents")):
        if named := config.data.get(field):
            raise UserError(
                f"config.data.{field}={named}: runs with {what} train one by one (train.replicas=1)"
            )
    if looks := _looks(config):
        raise UserError(
            f"config.objective.perceptual={looks}: runs with it train one by one (train.replicas=1)"
        )
    if config.data.get("cache_text"):
        raise UserError(
            f"config.data.cache_text=True: {num} runs in one program run the tower of texts "
            "themselves; set False, or train them one by one (train.replicas=1)"
        )
    if KINDS[config.kind].several(config):
        raise UserError(
            f"config.train.replicas={num}: a run of several players trains alone; set 1"
        )
    if trains_alone(config):
        raise UserError(
            f"config.train.accumulate={config.train.accumulate}: {num} runs in one program take "
            "their batches whole; set 1, or train them one by one (train.replicas=1)"
        )


def numbers(configs: Sequence[ConfigDict]) -> Numbers:
    """The values of TRACED, of those that the kind of run has."""
    return {
        field: np.stack([_number(c, field) for c in configs])
        for field in TRACED
        if has(configs[0], field)
    }


def member_step(experiment: Experiment) -> replicated.MemberStep:
    """The pure step of an experiment whose TRACED fields are its third argument."""

    def pure(state: TrainState, batch: Any, values: dict[str, jax.Array]) -> Any:
        c = _with(experiment.config, values)
        rate, optimizer = optimizers.optimizer(c, experiment.own)
        objective = assemble.objective_of(
            c,
            experiment.kind,
            experiment.model,
            experiment.schedule,
            experiment.own,
            experiment.mesh,
        )
        train_step = step.make_train_step(
            objective,
            optimizer,
            rate,
            ema_decay=c.ema.decay,
            ema_warmup=c.ema.warmup,
            averages=averages.shares(experiment.config),
            spike=experiment.spike,
        )
        return train_step(state, batch)

    return pure


def group_step(experiment: Experiment, num: int) -> replicated.GroupStep:
    """The compiled step of `num` members of an experiment, as `replicated.make_group_step`.

    Raises:
      UserError: as `check`, for players, and for a part of the user's own that needs to know its
        numbers.
    """
    check(experiment.config, num)
    if experiment.players:
        raise UserError(
            f"config.train.replicas={num}: a run of the players {', '.join(experiment.players)} "
            "trains alone; set 1"
        )
    compiled = replicated.make_group_step(
        member_step(experiment),
        experiment.mesh,
        num,
        max_skipped=experiment.config.train.max_skipped,
    )
    try:
        jax.eval_shape(compiled, *argument_shapes(experiment, num))
    except jax.errors.ConcretizationTypeError as error:
        raise UserError(
            f"config.optim.name={experiment.config.optim.name}: one of the user's own parts "
            "compares a number that is another for each member, such as weight_decay: train them "
            "one by one (train.replicas=1)"
        ) from error
    return compiled


def argument_shapes(experiment: Experiment, num: int) -> tuple[Any, Any, Any, Any]:
    """Shapes and shardings of what `group_step` takes."""
    place = replicated.members_sharding(experiment.mesh, num)

    def of_all(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num, *leaf.shape), leaf.dtype, sharding=place)

    values = numbers([experiment.config])
    one = (experiment.state_shapes(), experiment.batch_shapes())
    rest = (jax.tree.map(lambda leaf: leaf[0], values), np.zeros((), bool))
    return jax.tree.map(of_all, (*one, *rest))


def init_states(
    experiment: Experiment, seeds: Sequence[int], weights: StartingWeights | None = None
) -> list[TrainState]:
    """The initial state of each seed, by one program: up to rounding those of runs of their own.

    Args:
      experiment: that all share.
      seeds: of the states.
      weights: as of `Experiment.init_state`.
    """
    if seeds:
        weights = weights or experiment.starting_weights()

    def init(seed: jax.Array, given: Any) -> TrainState:
        return init_state(
            starting_weights.over(experiment.init_params, given),
            experiment.optimizer,
            seed,
            experiment.objective.init_extra,
            spike=experiment.spike,
            averages=[*averages.shares(experiment.config)],
        )

    compiled = jax.jit(init, out_shardings=experiment.state_sharding())
    given = weights.params if weights else None
    return [compiled(np.uint32(seed), given) for seed in seeds]


def placed(values: Numbers, experiment: Experiment) -> dict[str, jax.Array]:
    """The numbers of a group on its devices."""
    num = len(next(iter(values.values())))
    place = replicated.members_sharding(experiment.mesh, num)
    return sharding.put_batch(values, place)


def _number(c: ConfigDict, field: str) -> np.ndarray:
    group, name = field.split(".")
    value = c[group][name]
    if field == "diffusion.condition_dropout":
        rates = conditioning.dropout(c)
        value = [rates[condition] for condition in conditioning.condition_names(c)]
    return np.asarray(value, np.int32 if isinstance(value, int) else np.float32)


def _with(config: ConfigDict, values: dict[str, jax.Array]) -> ConfigDict:
    """The config with what is traced in the places of its numbers; only to build parts of."""
    c = ConfigDict(config.to_dict())
    with c.ignore_type():
        for field, value in values.items():
            group, name = field.split(".")
            c[group][name] = tuple(value) if value.ndim else value
    return c
