"""An autoencoder, config.kind=autoencoder: images to latents and back."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ddpm_jax import streams
from ddpm_jax.build import networks, objectives, optimizers, precision
from ddpm_jax.build.from_noise import FromNoise
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.choose import choose
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion.losses.adversarial import GAMES
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.models import perceptual
from ddpm_jax.models.adversarial import PatchDiscriminator
from ddpm_jax.models.autoencoder import NORMAL, PLAIN, QUANTISED, SCALES, Autoencoder
from ddpm_jax.training.objectives import autoencode
from ddpm_jax.training.objectives import judged as objectives_judged
from ddpm_jax.training.objectives.base import Objective, Wrap
from ddpm_jax.training.objectives.judged import Judging
from ddpm_jax.training.objectives.moving_codes import CODEBOOK, moving_codes
from ddpm_jax.training.players import Player, Players

DISCRIMINATOR = "discriminator"  # a player, and its parameters

# (config, own parts) -> the distance of an image from its reconstruction
DISTANCES: dict[str, Callable[[ConfigDict, Own], autoencode.Distance]] = {
    "likelihood": lambda c, own: autoencode.of_likelihood(objectives.data_levels(c, own)),
    "l1": lambda c, own: autoencode.absolute,
    "l2": lambda c, own: autoencode.squared,
}
# (config, the network's apply) -> how an image goes through its latents
WAYS: dict[str, Callable[[ConfigDict, Any], Callable[..., autoencode.Through]]] = {
    PLAIN: lambda c, apply: autoencode.plain(apply),
    NORMAL: lambda c, apply: autoencode.normal(apply),
    QUANTISED: lambda c, apply: autoencode.quantised(
        apply,
        commitment=c.objective.commitment,
        legacy=c.objective.legacy,
        moves_codes=c.objective.code_decay is None,
    ),
}


def network(c: ConfigDict, own: Own = NONE) -> Autoencoder:
    """The network of config.model for the images of config.data.

    Raises:
      UserError: for a value that is unknown or does not fit the image size.
      ValueError: as the network does for sizes that do not fit it.
    """
    m = c.model
    choose("model.name", m.name, {"autoencoder": None})
    choose("model.bottleneck", m.bottleneck, WAYS)
    choose("model.scale", m.scale, dict.fromkeys(SCALES))
    if (m.bottleneck == QUANTISED) != (m.num_codes > 0):
        need = "at least 1" if m.bottleneck == QUANTISED else "0"
        raise UserError(
            f"config.model.num_codes={m.num_codes}: a {m.bottleneck} bottleneck needs {need}"
        )
    _check_size(c)
    levels = networks.levels(c)
    made = Autoencoder(
        bottleneck=m.bottleneck,
        latent_channels=m.latent_channels,
        channels=c.data.channels,
        num_codes=m.num_codes,
        code_channels=m.code_channels,
        projected=m.projected,
        scale=m.scale,
        num_classes=m.num_classes,
        mid_attention=m.mid_attention,
        **levels,
    )
    jax.eval_shape(functools.partial(initial_params, c, own, made), jax.random.key(0))
    return made


def _check_size(c: ConfigDict) -> None:
    factor = shrinks_by(c)
    if any(size % factor for size in c.data.image_size):
        raise UserError(
            f"config.data.image_size={tuple(c.data.image_size)}: an autoencoder of "
            f"{len(c.model.channel_multipliers)} levels (config.model.channel_multipliers) makes "
            f"images {factor} times smaller, which does not divide it"
        )


def shrinks_by(c: ConfigDict) -> int:
    """How many times smaller than images latents are."""
    return 2 ** (len(c.model.channel_multipliers) - 1)


def latent_shape(c: ConfigDict) -> tuple[int, int, int]:
    """(h, w, C) of the latents of one image: of a codebook, of its codes."""
    m, factor = c.model, shrinks_by(c)
    height, width = (size // factor for size in c.data.image_size)
    channels = m.code_channels if m.bottleneck == QUANTISED else None
    return height, width, channels or m.latent_channels


def objective(
    c: ConfigDict, made: Autoencoder, schedule: Schedule | None, own: Own = NONE
) -> Objective:
    """The distance of config.objective, and what its bottleneck costs.

    Raises:
      UserError: for a distance that is unknown, or that the network's variance has no part in.
    """
    return autoencode.autoencode(_way(c, made, own))


def players(c: ConfigDict, made: Autoencoder, own: Own, wrapped: Wrap) -> Players:
    """The autoencoder, and beside it what its objective asks for: one of them at least.

    Codes that are moving averages are moved first, then the autoencoder, then its discriminator.

    Args:
      c, made, own: as of `objective`.
      wrapped: what stands around every objective of this config.

    Raises:
      UserError: as `objective` and `optimizers.optimizer`, and for a decay without a codebook.
    """
    o, judged = c.objective, c.objective.adversary_weight > 0
    if o.code_decay is not None and c.model.bottleneck != QUANTISED:
        raise UserError(
            f"config.objective.code_decay={o.code_decay}: a {c.model.bottleneck} bottleneck has no "
            "codes that could be moving averages; leave it unset"
        )
    way = _way(c, made, own)
    rate, optimizer = optimizers.optimizer(c, own)
    shapes = jax.eval_shape(functools.partial(initial_params, c, own, made), jax.random.key(0))
    others = {DISCRIMINATOR, *[CODEBOOK] * (o.code_decay is not None)}
    mine = tuple(name for name in shapes if name not in others)
    its_objective, after = autoencode.autoencode(way), {}
    if judged:
        judging = _judging(c)
        its_objective = objectives_judged.autoencoder(way, judging)
        after[DISCRIMINATOR] = Player(
            wrapped(objectives_judged.discriminator(way, judging)),
            optimizer,
            (DISCRIMINATOR,),
            learning_rate=rate,
        )
    first = {}
    if o.code_decay is not None:
        codes = moving_codes(_latents_of(made), decay=o.code_decay)
        first["codes"] = Player(wrapped(codes), optax.sgd(1.0), (CODEBOOK,))
    autoencoder = Player(wrapped(its_objective), optimizer, mine, learning_rate=rate)
    return {**first, "autoencoder": autoencoder, **after}


def several(c: ConfigDict) -> bool:
    """Whether another player moves beside the autoencoder: its codes, or a discriminator."""
    return c.objective.code_decay is not None or c.objective.adversary_weight > 0


def has_looks(c: ConfigDict) -> bool:
    """Whether how images look counts in the loss of a run, of whichever kind."""
    return bool(c.get("objective", {}).get("perceptual"))


def _way(c: ConfigDict, made: Autoencoder, own: Own) -> autoencode.Autoencoding:
    """How images go through the latents of a config, and what it costs."""
    o, m = c.objective, c.model
    distance = choose("objective.distance", o.distance, DISTANCES)
    if m.scale != "none" and o.distance != "likelihood":
        raise UserError(
            f"config.model.scale={m.scale}: a variance of pixels is learned by "
            f"objective.distance=likelihood, not by {o.distance}; set none"
        )
    if has_looks(c) and o.distance == "likelihood":
        raise UserError(
            f"config.objective.perceptual={o.perceptual}: it is no part of a likelihood; set '', "
            "or objective.distance to l1 or l2"
        )
    # Of a codebook no divergence is known: its loss is added as it is.
    weights = {NORMAL: o.kl_weight, QUANTISED: o.code_weight}
    return autoencode.Autoencoding(
        WAYS[m.bottleneck](c, made.apply),
        latent_shape(c),
        distance(c, own),
        weight=weights.get(m.bottleneck, 0.0),
        per_dimension=m.bottleneck != QUANTISED,
        looks=perceptual.distance if has_looks(c) else None,
        looks_weight=o.perceptual_weight,
        told_label=m.num_classes > 0,
    )


def _judging(c: ConfigDict) -> Judging:
    network = _discriminator(c)
    apply: Callable[..., Any] = network.apply

    def judge(params: Any, images: jax.Array) -> jax.Array:
        logits: jax.Array = apply({"params": params[DISCRIMINATOR]}, images)
        return logits

    o = c.objective
    game = choose("objective.game", o.game, GAMES)
    last = ("decoder", "conv_out", "kernel")
    return Judging(judge, game, o.adversary_weight, o.adversary_start, last)


def _discriminator(c: ConfigDict) -> PatchDiscriminator:
    o = c.objective
    return PatchDiscriminator(
        o.adversary_channels, o.adversary_layers, c.model.num_groups, precision.dtype(c)
    )


def _latents_of(made: Autoencoder) -> Callable[[Any, jax.Array], jax.Array]:
    apply: Callable[..., Any] = made.apply

    def latents_of(params: Any, x0: jax.Array) -> jax.Array:
        latents: jax.Array = apply({"params": params}, x0, method="encode").latents
        return latents

    return latents_of


def no_images(c: ConfigDict) -> str:
    """Why a run draws no images; "" where latents have a law."""
    if c.model.bottleneck == NORMAL:
        return ""
    return (
        f"its latents have no law to draw from (config.model.bottleneck={c.model.bottleneck}); "
        "experiment.load(DIR).reconstruct(images)"
    )


def from_noise(c: ConfigDict, made: Autoencoder) -> FromNoise:
    """The decoder's means, of latents that are drawn from N(0, 1)."""
    apply: Callable[..., Any] = made.apply

    def images(params: Any, z: jax.Array, labels: jax.Array) -> jax.Array:
        label = labels if c.model.num_classes else None
        mean: jax.Array = apply({"params": params}, z, label, method="decode").mean
        return mean

    return FromNoise(latent_shape(c), images)


def initial_params(c: ConfigDict, own: Own, made: Autoencoder, key: jax.Array) -> Any:
    """The network's parameters before training; with a discriminator's beside them, where one is.

    The network does not see those.
    """
    images = jnp.zeros((1, *image_shape(c)))
    label = jnp.zeros(1, jnp.int32) if c.model.num_classes else None
    params = made.init(key, images, label)["params"]
    if c.objective.adversary_weight > 0:
        key = streams.named(key, DISCRIMINATOR)
        params = {**params, DISCRIMINATOR: _discriminator(c).init(key, images)["params"]}
    return params
