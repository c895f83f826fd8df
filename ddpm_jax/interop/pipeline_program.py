"""The one program by which a pipeline draws: texts, noise, the sampler's run, images."""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion import prediction
from ddpm_jax.diffusion.likelihood import posteriors
from ddpm_jax.diffusion.schedules import expand
from ddpm_jax.interop import text_encoders
from ddpm_jax.interop.scheduler import Scheduler
from ddpm_jax.interop.scheduler_steps import Steps
from ddpm_jax.interop.text_encoders import Prompts
from ddpm_jax.models.autoencoder import Autoencoder
from ddpm_jax.models.controlnet import ControlNet
from ddpm_jax.models.layers import resize_nearest
from ddpm_jax.models.text import TextTransformer
from ddpm_jax.models.unet_condition import UNet2DCondition
from ddpm_jax.samplers import base

# Of the key of an image, what each of its parts draws with.
NOISE, LATENTS, KEPT, STEPS = range(4)


class Shape(NamedTuple):
    """What shapes a program; all that two samplings of one shape differ in is an argument.

    Attributes:
      num: images.
      latents: (h, w).
      guided: the network is asked about the negative prompts too.
      rescaled: its output is scaled back.
      scheduler, num_steps, strength: of the steps.
      begins_with_image: what is noised at first is an image.
      encodes: that image is one of pixels.
      masked: a part of it is kept.
      guess_mode: the ControlNet adds nothing to what is said of the negative prompts.
      clip_skip: of prompts.
      drawn: the first noise is drawn.
      decodes: the result is an image.
    """

    num: int
    latents: tuple[int, int]
    guided: bool
    rescaled: bool
    scheduler: Scheduler
    num_steps: int
    strength: float
    begins_with_image: bool
    encodes: bool
    masked: bool
    guess_mode: bool
    clip_skip: int
    drawn: bool
    decodes: bool

    @property
    def key(self) -> Hashable:
        """What stands for it among the programs."""
        fields = self._asdict() | {
            "scheduler": (self.scheduler.name, repr(sorted(self.scheduler.config.items())))
        }
        return tuple(fields.values())


class Networks(NamedTuple):
    """What a pipeline computes with, without parameters: part of a program's key.

    Attributes:
      towers: (name, network) of each text encoder.
      unet: the network.
      autoencoder: the network.
      scaling_factor, shift_factor: as of `ImportedAutoencoder`.
      controlnet: the network, or None.
      pools, scored: as of `pipeline.Pipeline`.
    """

    towers: tuple[tuple[str, TextTransformer], ...]
    unet: UNet2DCondition
    autoencoder: Autoencoder
    scaling_factor: float
    shift_factor: float
    controlnet: ControlNet | None
    pools: bool
    scored: bool

    @property
    def factor(self) -> int:
        """How many pixels along either axis one of the latents stands for."""
        return 2 ** (len(self.autoencoder.block_channels) - 1)

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.autoencoder.latent_channels

    @property
    def completes(self) -> bool:
        """Whether the U-Net reads a mask and what it leaves of an image."""
        return self.unet.in_channels != self.channels


def make(networks: Networks, shape: Shape) -> Callable[[Any, Any, Any], jax.Array]:
    """The (params, numbers, arrays [B, ...]) -> images as floats, 0 to 255, [B, H, W, 3].

    B may be more than the shape's number of images: that tells programs apart, and no more.

    Args:
      networks: of the pipeline.
      shape: what is drawn.

    Raises:
      ValueError: for steps that the scheduler cannot take.
    """
    steps = shape.scheduler.steps(shape.num_steps, shape.strength)

    def draw(params: Any, numbers: Any, arrays: Any) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return _draw(networks, shape, steps, params, {**numbers, **arrays})

    return draw


def _draw(networks: Networks, shape: Shape, steps: Steps, params: Any, given: Any) -> jax.Array:
    keys = jax.vmap(lambda key: jax.random.split(key, 4))(given["keys"])
    like = jnp.zeros((len(keys), *shape.latents, networks.channels), jnp.float32)
    noise = base.normal(keys[:, NOISE], like) if shape.drawn else given["latents"]
    codec = _Codec(networks, params["vae"])
    start, beside, project = steps.start_std * noise, None, None
    if shape.begins_with_image:
        known = given["init_image"]
        if shape.encodes:
            known = codec.encode(known, keys[:, LATENTS])
        if shape.strength < 1 or not shape.masked:  # of a mask, 1 is noise alone
            start = _noised(steps, steps.times[0], known, noise)
        if shape.masked and not networks.completes:
            project = _kept(steps, _below(given["mask"], shape), known, noise)
        elif shape.masked:  # the network itself reads what is kept
            left = codec.encode(jnp.where(given["mask"], 0.0, given["init_image"]), keys[:, KEPT])
            beside = jnp.concatenate([_below(given["mask"], shape), left], axis=-1)
    told = _told(networks, shape, params, given)
    apply = functools.partial(_apply, networks, shape, params, told, given, beside)
    denoise = prediction.denoiser(
        apply, None, steps.schedule, prediction=shape.scheduler.prediction
    )
    x0 = steps.sampler(denoise, steps.schedule, steps.times, keys[:, STEPS], start, project=project)
    return codec.decode(x0) if shape.decodes else x0


def _below(mask: jax.Array, shape: Shape) -> jax.Array:
    """A mask of latents, the nearest pixel's, as floats."""
    return resize_nearest(mask.astype(jnp.float32), shape.latents)


def _kept(
    steps: Steps, mask: jax.Array, known: jax.Array, noise: jax.Array
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """What every step's result goes through: outside of the mask the image, as noised as it is.

    At the last time it is the image itself, though noise may be left there.
    """
    last = float(np.float32(steps.times[-1]))

    def project(key: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
        del key
        kept = jnp.where(expand(t <= last, x), known, _noised(steps, t, known, noise))
        return jnp.where(mask > 0, x, kept)

    return project


class _Codec(NamedTuple):
    """Between images in [-1, 1] and latents in the units of the diffusion."""

    networks: Networks
    params: Any

    def encode(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        network = self.networks.autoencoder
        encoded: Any = network.apply({"params": self.params}, images, method="encode")
        latents = encoded.latents
        if encoded.posterior is not None:
            latents = posteriors.sample(encoded.posterior, base.normal(keys, latents))
        return (latents - self.networks.shift_factor) * self.networks.scaling_factor

    def decode(self, latents: jax.Array) -> jax.Array:
        """Images as floats, 0 to 255."""
        raw = latents / self.networks.scaling_factor + self.networks.shift_factor
        network = self.networks.autoencoder
        decoded: Any = network.apply({"params": self.params}, raw, method="decode")
        return 255 * jnp.clip(decoded.mean / 2 + 0.5, 0, 1)


def _noised(steps: Steps, t: Any, known: jax.Array, noise: jax.Array) -> jax.Array:
    """x_t of latents that are known."""
    t = jnp.broadcast_to(jnp.asarray(t, noise.dtype), noise.shape[:1])
    alpha, sigma = (expand(one(t), noise) for one in (steps.schedule.alpha, steps.schedule.sigma))
    return alpha * known + sigma * noise


def _told(networks: Networks, shape: Shape, params: Any, given: Any) -> tuple[Prompts, ...]:
    """What the network is told: of the negative prompts first, where it is asked about them."""
    texts = functools.partial(text_encoders.embed, dict(networks.towers), params["towers"])
    of_prompts = texts(given["rows"]["prompts"], clip_skip=shape.clip_skip)
    if not shape.guided:
        return (of_prompts,)
    against = texts(given["rows"]["negative"])
    none = given["rows"]["none"]
    against = jax.tree.map(lambda x: jnp.where(expand(none, x), 0, x), against)
    return against, of_prompts


def _sizes(networks: Networks, shape: Shape, given: Any) -> jax.Array:
    """What SDXL reads beside texts, of negative prompts and of prompts, [2, N].

    The size before and the corner of a crop, then the size, or how well the image is to look.
    """
    height, width = (n * networks.factor for n in shape.latents)
    of_both = [given["negative_aesthetic_score"], given["aesthetic_score"]]
    last = [[one] if networks.scored else [height, width] for one in of_both]
    return jnp.array([[height, width, 0, 0, *one] for one in last], jnp.float32)


def _together(parts: list[jax.Array]) -> jax.Array:
    """Rows of several arrays [B, ...], those of one image beside each other, [count B, ...].

    So a device that holds some of the images holds all that is said of them.
    """
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def _apply(
    networks: Networks,
    shape: Shape,
    params: Any,
    told: tuple[Prompts, ...],
    given: Any,
    beside: jax.Array | None,
    variables: Any,
    xt: jax.Array,
    time: jax.Array,
    conditions: Any,
) -> jax.Array:
    """The network's output at x_t, guided; called as networks are, with nothing to read here."""
    del variables, conditions
    count = len(told)

    def each(x: jax.Array) -> jax.Array:
        return jnp.repeat(x, count, axis=0)

    whole = {"tokens": _together([one.states for one in told])}
    if networks.pools:
        sizes = _sizes(networks, shape, given)[-count:]
        whole["pooled"] = _together([one.pooled for one in told if one.pooled is not None])
        whole["time_ids"] = jnp.tile(sizes, (len(xt), 1))
    seen, time = each(xt), each(jnp.broadcast_to(time, xt.shape[:1]))
    if networks.controlnet is not None:
        skipped = count - 1 if shape.guess_mode else 0  # of what is said of each image

        def read(x: jax.Array) -> jax.Array:
            return x.reshape(-1, count, *x.shape[1:])[:, skipped:].reshape(-1, *x.shape[1:])

        residuals: Any = networks.controlnet.apply(
            {"params": params["controlnet"]},
            read(seen),
            read(time),
            {name: read(x) for name, x in {**whole, "control": each(given["control"])}.items()},
            given["control_scale"],
            guess_mode=shape.guess_mode,
        )
        if skipped:
            residuals = jax.tree.map(lambda x: _together([jnp.zeros_like(x), x]), residuals)
        whole |= residuals._asdict()
    if beside is not None:
        seen = jnp.concatenate([seen, each(beside)], axis=-1)
    output: Any = networks.unet.apply({"params": params["unet"]}, seen, time, whole)
    if not shape.guided:
        return output
    against, prompted = output[::2], output[1::2]
    mixed = against + given["scale"] * (prompted - against)
    if not shape.rescaled:
        return mixed
    axes = range(1, mixed.ndim)
    ratio = prompted.std(axis=axes, keepdims=True, ddof=1) / mixed.std(
        axis=axes, keepdims=True, ddof=1
    )
    return mixed * (1 - given["rescale"] + given["rescale"] * ratio)
