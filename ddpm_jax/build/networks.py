"""config.model: the network."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.build import (
    adapters,
    conditioning,
    control,
    image_embeddings,
    paths,
    pipelines,
    tower_options,
)
from ddpm_jax.build.precision import dtype, remat
from ddpm_jax.build.tower_options import Options
from ddpm_jax.config import own_code
from ddpm_jax.config.checks import x0_shape
from ddpm_jax.config.choose import choose, keywords, parameters
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.errors import UserError
from ddpm_jax.models import Classifier, DiT, Gamma, UNet, WithSchedule
from ddpm_jax.models.text import Captions
from ddpm_jax.models.text.captions import TOWER, TOWERS, has_tower, tower_of


class NetworkModule(Protocol):
    """A network: anything with flax's `init` and `apply`.

    `init(key, xt, time, conditions)` gives {"params": tree}; `apply(variables, xt, time,
    conditions, train=, rngs=)` the output [B, H, W, C], of a classifier of x_t the logits
    [B, classes]. xt is [B, H, W, C], time [B], conditions a dict of arrays by name, or None.
    """

    @property
    def init(self) -> Any:
        """(key, xt, time, conditions) -> {"params": tree}."""

    @property
    def apply(self) -> Any:
        """(variables, xt, time, conditions, train=, rngs=) -> output."""


def denoiser(c: ConfigDict, own: Own = NONE) -> NetworkModule:
    """The network of config.model for images or latents, with a learned schedule's own.

    Raises:
      UserError: for a value that is unknown or does not fit the image size, or an own network whose
        output does not.
    """
    plain: Any = adapters.adapted(c, _named(c, DENOISERS, own))
    _check_output(c, own, plain, (*x0_shape(c)[:2], _out_channels(c)))
    if c.diffusion.schedule != "learned":
        return plain
    return WithSchedule(plain, Gamma(**paths.schedule_options(c)))


def classifier(c: ConfigDict, own: Own = NONE) -> NetworkModule:
    """The classifier of config.model. Raises UserError as `denoiser`, or for below 2 classes."""
    if c.model.num_classes < 2:
        raise UserError(
            f"config.model.num_classes={c.model.num_classes}: a classifier needs at least 2"
        )
    plain = _named(c, CLASSIFIERS, own)
    _check_output(c, own, plain, (c.model.num_classes,))
    return plain


def example_conditions(c: ConfigDict, own: Own, num: int = 1) -> dict[str, jax.Array] | None:
    """Conditions of the shapes that the network takes, [num, ...]; None for none at all."""
    label = {"label": jnp.zeros(num, jnp.int32)} if conditioning.takes_labels(c) else {}
    others = {
        name: jnp.zeros((num, *shape), dtype)
        for name, (shape, dtype) in conditioning.shown_shapes(c, own).items()
    }
    return label | others or None


def initial_params(c: ConfigDict, own: Own, network: NetworkModule, key: jax.Array) -> Any:
    """The network's parameters before training. The built-in ones need no example conditions."""
    xt, time = jnp.zeros((1, *x0_shape(c))), jnp.zeros((1,))
    if not own_code.is_own(c.model.name):
        return network.init(key, xt, time)["params"]
    return network.init(key, xt, time, example_conditions(c, own))["params"]


def _named(
    c: ConfigDict, choices: Mapping[str, Callable[[ConfigDict, Own], NetworkModule]], own: Own
) -> NetworkModule:
    m = c.model
    factory = choose("model.name", m.name, choices, own)
    if m.name in choices:
        if m.options:
            raise UserError(
                f"config.model.options.{next(iter(m.options))}: the options of the built-in "
                "networks are fields of config.model; leave it out"
            )
        return factory(c, own)
    if remat(c) != "none" and "remat" not in parameters(factory):
        raise UserError(
            f"config.model.remat={m.remat}: the network {m.name} takes no argument remat; set none"
        )
    height, width, channels = x0_shape(c)
    options = keywords(
        "model.options",
        m.options,
        factory,
        name=f"network {m.name}",
        provided={
            "image_shape": (height, width, channels),
            "out_channels": _out_channels(c),
            "num_classes": m.num_classes,
            "attributes": _attributes(c, own),
            "dtype": dtype(c),
            "remat": remat(c),
        },
        hidden=("parent", "name"),
    )
    made = factory(**options)
    for method in ("init", "apply"):
        if not callable(getattr(made, method, None)):
            raise UserError(
                f"config.model.name={m.name}: a network has init and apply, as a flax module; this "
                f"one, a {type(made).__name__}, has no {method}"
            )
    return made


def _check_output(
    c: ConfigDict, own: Own, network: NetworkModule, expected: tuple[int, ...]
) -> None:
    """Trace the network once on two images, without computing them.

    Raises:
      UserError: for what cannot be called as a network, or an output of another shape.
      ValueError: as the built-in networks do for sizes that do not fit them.
    """
    built_in = not own_code.is_own(c.model.name)
    xt, time = jnp.zeros((2, *x0_shape(c))), jnp.zeros((2,))
    conditions = None if built_in else example_conditions(c, own, 2)

    def output(key: jax.Array, xt: jax.Array, time: jax.Array, conditions: Any) -> Any:
        rngs = {"dropout": key}
        if built_in:
            return network.init_with_output(key, xt, time)[0]  # type: ignore[attr-defined]
        variables = network.init(key, xt, time, conditions)
        return network.apply(
            {"params": variables["params"]}, xt, time, conditions, train=True, rngs=rngs
        )

    try:
        shape = jax.eval_shape(output, jax.random.key(0), xt, time, conditions).shape
    except Exception as error:
        if built_in:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"config.model.name={c.model.name}: cannot be called as apply(variables, xt "
            f"{list(xt.shape)}, time [2], conditions, train=, rngs=) after init(key, xt, time, "
            f"conditions): {reason}"
        ) from error
    if shape != (2, *expected):
        raise UserError(
            f"config.model.name={c.model.name}: its output for images {list(xt.shape)} is "
            f"{list(shape)}; need {[2, *expected]}"
        )


def _unet(c: ConfigDict, own: Own) -> UNet:
    m = c.model
    if m.patch_size is not None:
        raise UserError(
            f"config.model.patch_size={m.patch_size}: applies only to model.name=dit; leave "
            "it unset"
        )
    images, controls = control.images(c, own)
    return UNet(
        **_levels(c),
        out_channels=_out_channels(c),
        attributes=_attributes(c, own),
        images=images,
        controls=controls,
        captions=_captions(c),
        image_embedding=image_embeddings.dimensions(c),
        fourier_features=tuple(m.fourier_features),
    )


def _classifier(c: ConfigDict, own: Own) -> Classifier:
    return Classifier(**_levels(c))


def _levels(c: ConfigDict) -> dict[str, Any]:
    """The fields that a U-Net and a classifier share."""
    m = c.model
    return {
        **levels(c),
        "num_classes": m.num_classes,
        "scale_shift_norm": m.scale_shift_norm,
        "resample_blocks": m.resample_blocks,
        "residual_scale": m.residual_scale,
    }


def levels(c: ConfigDict) -> dict[str, Any]:
    """The fields of every network that goes down from one resolution to the next.

    Raises:
      UserError: for attention at a resolution that there is not.
    """
    m = c.model
    heights = [x0_shape(c)[0] // 2**level for level in range(len(m.channel_multipliers))]
    for resolution in m.attention_resolutions:
        if resolution not in heights:
            raise UserError(
                f"config.model.attention_resolutions={m.attention_resolutions}: the levels are "
                f"{', '.join(map(str, heights))} pixels high"
            )
    return {
        "block_channels": tuple(m.channels * k for k in m.channel_multipliers),
        "num_blocks": m.num_blocks,
        "attention_levels": tuple(heights.index(r) for r in m.attention_resolutions),
        "dropout": m.dropout,
        "head_dim": m.head_dim or None,
        "num_heads": m.num_heads or 1,
        "num_groups": m.num_groups,
        "remat": remat(c),
        "dtype": dtype(c),
    }


def _dit(c: ConfigDict, own: Own) -> DiT:
    m = c.model
    patching = {} if m.patch_size is None else {"patch_size": m.patch_size}
    control.refuse(c, "a diffusion transformer has no skips that a branch could change")
    if m.head_dim and m.channels % m.head_dim:
        raise UserError(
            f"config.model.head_dim={m.head_dim}: {m.channels} channels do not divide into it"
        )
    return DiT(
        width=m.channels,
        depth=m.num_blocks,
        num_heads=m.num_heads or (m.channels // m.head_dim if m.head_dim else 1),
        out_channels=_out_channels(c),
        num_classes=m.num_classes,
        attributes=_attributes(c, own),
        images=tuple(control.seen(c, own).items()),
        captions=_captions(c),
        image_embedding=image_embeddings.dimensions(c),
        dropout=m.dropout,
        remat=remat(c),
        dtype=dtype(c),
        **patching,
    )


def towers(c: ConfigDict, network: Any) -> dict[str, Options]:
    """The tower of texts of a network that reads captions by one that stands alone, by its name."""
    if not has_tower(network):
        return {}
    options = tower_options.described(tower_of(network))
    del options["pooling"]  # the states of all its tokens are read
    return {TOWER: options}


def _attributes(c: ConfigDict, own: Own) -> tuple[tuple[str, int], ...]:
    return tuple((name, len(names)) for name, names in conditioning.values(c, own).items())


def _captions(c: ConfigDict) -> Captions | None:
    """What reads the captions, if "text" is among config.model.conditions."""
    m = c.model
    choose("model.text_tower", m.text_tower, TOWERS)
    if not conditioning.reads_text(c):
        return None
    width, heads = m.text_channels, m.text_heads
    if width % heads:
        raise UserError(
            f"config.model.text_heads={heads}: {width} channels (config.model.text_channels) do "
            "not divide into so many heads"
        )
    return Captions(c.data.vocabulary, c.data.context, width, m.text_blocks, heads, m.text_tower)


def _out_channels(c: ConfigDict) -> int:
    """A learned reverse variance is a second half of the channels."""
    learned = c.diffusion.get("variance") == "learned_range"
    return (2 if learned else 1) * x0_shape(c)[2]


DENOISERS: dict[str, Callable[[ConfigDict, Own], NetworkModule]] = {
    "unet": _unet,
    "dit": _dit,
    pipelines.NAME: pipelines.network,
}
CLASSIFIERS: dict[str, Callable[[ConfigDict, Own], NetworkModule]] = {"classifier": _classifier}
