"""From a config to an experiment."""

import functools

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddpm_jax.build import (
    augmentation,
    clips,
    coding,
    datasets,
    networks,
    objectives,
    optimizers,
    paths,
    pipelines,
    reverse_mode,
    texts,
    upsampling,
)
from ddpm_jax.build.experiment import Experiment, fields_of
from ddpm_jax.build.kinds import KINDS, Kind
from ddpm_jax.config import config_files, own_code
from ddpm_jax.config.checks import check_fit, check_ranges, has, image_shape
from ddpm_jax.config.choose import choose
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion import schedules, variances
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import sharding
from ddpm_jax.training import freezing
from ddpm_jax.training.objectives import dequantised
from ddpm_jax.training.objectives.base import Objective, Wrap
from ddpm_jax.training.players import Players


def build(config: ConfigDict, own: Own = NONE) -> Experiment:
    """Build what a config describes; how it is sampled is looked at by `trained.program`.

    Args:
      config: the experiment.
      own: the user's parts that it names, by "package.module:name"; see `config.own_code`.

    Raises:
      UserError: naming the field, for a value that is unknown or does not fit the others.
    """
    c = pipelines.filled(config_files.without_unread(config))
    kind = choose("kind", c.kind, KINDS)
    _check_fields(c, kind)
    check_ranges(c)
    shape = image_shape(c)
    datasets.check(c, own)
    texts.check(c, kind, own)
    coding.check_latents(c, own)
    codec = kind.codec(c, own)
    if has(c, "diffusion.variance"):
        upsampling.check(c)
        choose("diffusion.variance", c.diffusion.variance, dict.fromkeys(variances.VARIANCES))
    with fields_of("diffusion"):
        schedule = paths.schedule(c, own) if "diffusion" in c else None
    with fields_of("model"):
        model = kind.network(c, own)
    with fields_of("mesh"):
        mesh = sharding.make_mesh(c.mesh.data, c.mesh.fsdp)
    objective = objective_of(c, kind, model, schedule, own, mesh)
    with fields_of("optim"):
        learning_rate, optimizer = optimizers.optimizer(c, own)
    check_fit(c, mesh.size)
    parts = {
        "model": model,
        "schedule": schedule,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "objective": objective,
        "players": players_of(c, kind, model, own, mesh),
    }
    experiment = Experiment(
        config=c,
        kind=kind,
        own=own,
        mesh=mesh,
        image_shape=shape,
        codec=codec,
        built={"config": c.to_dict(), **parts},
        **parts,
    )
    clips.check(experiment)
    if own_code.is_own(_loss(c)):
        experiment.check_loss()
    if c.optim.frozen:
        with fields_of("optim"):
            freezing.check(
                c.optim.frozen, jax.eval_shape(experiment.init_params, jax.random.key(0))
            )
    return experiment


def objective_of(
    c: ConfigDict,
    kind: Kind,
    model: networks.NetworkModule,
    schedule: schedules.Schedule | None,
    own: Own,
    mesh: Mesh,
    *,
    inner: Wrap = lambda objective: objective,
) -> Objective:
    """What a config says is minimised on a mesh, with all that stands around it.

    Args:
      c, kind, model, schedule, own, mesh: of an `Experiment`.
      inner: what stands around the objective first, below all that looks at images.

    Raises as `build`.
    """
    model = _in_reverse_mode(c, model, mesh)
    with fields_of("diffusion" if "diffusion" in c else "objective"):
        objective = kind.objective(c, model, schedule, own)
    return _wrapped(c, own, inner(objective))


def players_of(
    c: ConfigDict, kind: Kind, model: networks.NetworkModule, own: Own, mesh: Mesh
) -> Players:
    """The players of a config; none where one objective moves everything. Raises as `build`."""
    if not kind.several(c):
        return {}
    assert kind.players is not None  # of every kind that may have several
    return kind.players(
        c, _in_reverse_mode(c, model, mesh), own, functools.partial(_wrapped, c, own)
    )


def _in_reverse_mode(
    c: ConfigDict, model: networks.NetworkModule, mesh: Mesh
) -> networks.NetworkModule:
    if own_code.is_own(_loss(c)):  # which may differentiate forwards
        return model
    return reverse_mode.in_reverse_mode(model, mesh.devices.flat[0])


def _wrapped(c: ConfigDict, own: Own, objective: Objective) -> Objective:
    """An objective with all that stands around each of a config."""
    if c.data.get("dequantise"):
        objective = dequantised.dequantised(objective, objectives.pixel_levels(c, own))
    objective = augmentation.objective(c, upsampling.objective(c, objective))
    return freezing.objective(objective, c.optim.frozen) if c.optim.frozen else objective


def _loss(c: ConfigDict) -> str:
    """The name of config.diffusion.loss; "" of a kind of run that has no such choice."""
    return c.get("diffusion", {}).get("loss", "")


def _check_fields(c: ConfigDict, kind: Kind) -> None:
    """The config has the groups and fields of its kind, and no others."""
    usual = kind.config()
    for group, fields in c.items():
        names = fields if isinstance(fields, ConfigDict) else ()
        for name in [] if group in usual else [group]:
            raise UserError(_not_of_kind(name, c.kind, kind))
        for name in names:
            if name not in usual[group]:
                raise UserError(_not_of_kind(f"{group}.{name}", c.kind, kind))


def _not_of_kind(field: str, name: str, kind: Kind) -> str:
    return (
        f"config.{field}: {kind.one} (config.kind={name}) has no such field; begin its config "
        f'with default.get_config("{name}") or default.as_kind("{name}", config)'
    )
