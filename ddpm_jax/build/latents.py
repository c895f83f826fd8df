"""config.data.codec: an autoencoder, frozen, whose latents a run has in place of pixels.

A run takes it once, when it begins, and keeps a copy beside its checkpoints: so it needs no other
workdir later, and goes on with the same bits.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import codecs
from ddpm_jax.build import assemble, clips, coding
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.build.kept_trees import SUMS, Keeping, Trees
from ddpm_jax.config.checks import image_shape
from ddpm_jax.diffusion import latent_codes
from ddpm_jax.diffusion.latent_codes import Moments, Scaling
from ddpm_jax.errors import UserError
from ddpm_jax.models.autoencoder import QUANTISED, Autoencoder
from ddpm_jax.runtime import compiling, digests
from ddpm_jax.training.objectives.base import Objective
from ddpm_jax.training.objectives.encoded import encoded

TREE = "codec"  # the frozen tree, and the file in which a run keeps it
KEEPING = Keeping("codec.json", "the autoencoder")
PARAMS, SCALING = "params", "scaling"  # of the tree
BATCH_SIZE = 64
# Of a network, what makes it the function that it is.
FIELDS = (
    "bottleneck",
    "block_channels",
    "num_blocks",
    "attention_levels",
    "mid_attention",
    "latent_channels",
    "channels",
    "num_codes",
    "code_channels",
    "projected",
    "scale",
    "head_dim",
    "num_heads",
    "num_groups",
    "norm_epsilon",
)


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenCodec:
    """A trained autoencoder without its run.

    Attributes:
      network: the autoencoder.
      tree: its parameters, and by what latents are scaled: what the run has frozen.
      digest: of the tree.
      image_shape: (H, W, C) of its images.
    """

    network: Autoencoder
    tree: Mapping[str, Any]
    digest: str
    image_shape: tuple[int, int, int]
    compiled: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(h, w, C) of the latents of one image."""
        images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        return jax.eval_shape(self._moments, self.tree, images).mean.shape[1:]

    def moments(self, images: np.ndarray) -> np.ndarray:
        """Mean and deviation of scaled latents, of images in [-1, 1]: float32 [N, h, w, 2 C]."""

        def joined(tree: Any, images: jax.Array) -> jax.Array:
            return latent_codes.joined(self._moments(tree, images))

        return self._by_batches("moments", joined, images)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Scaled latents without chance, of images in [-1, 1]: float32 [N, h, w, C]."""

        def mean(tree: Any, images: jax.Array) -> jax.Array:
            return self._moments(tree, images).mean

        return self._by_batches("mean", mean, images)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Images in [-1, 1] of scaled latents: float32 [N, H, W, C]."""
        return self._by_batches("images", self._images, latents)

    def _moments(self, tree: Any, images: jax.Array) -> Moments:
        return moments_of(self.network, tree, images)

    def _images(self, tree: Any, latents: jax.Array) -> jax.Array:
        apply: Callable[..., Any] = self.network.apply
        variables = {"params": tree[PARAMS]}
        latents = latent_codes.unscaled(latents, tree[SCALING])
        if self.network.bottleneck == QUANTISED:
            latents = apply(variables, latents, method="quantise").vectors
        images: jax.Array = apply(variables, latents, method="decode").mean
        return images

    def _by_batches(self, name: str, make: Callable[..., Any], rows: np.ndarray) -> np.ndarray:
        if name not in self.compiled:
            self.compiled[name] = compiling.jit(make)
        return clips.by_batches(self.compiled[name], self.tree, rows, BATCH_SIZE)


def moments_of(network: Autoencoder, tree: Any, images: jax.Array) -> Moments:
    """The law of the scaled latents of images in [-1, 1], [B, h, w, C] each.

    Args:
      network: the autoencoder.
      tree: of a `FrozenCodec`.
      images: [B, H, W, C].
    """
    apply: Callable[..., Any] = network.apply
    made = apply({"params": tree[PARAMS]}, images, method="encode")
    std = jnp.zeros_like(made.latents)
    if made.posterior is not None:
        std = jnp.exp(made.posterior.log_variance / 2)
    return latent_codes.scaled(Moments(made.latents, std), tree[SCALING])


def with_codec(experiment: Experiment, found: FrozenCodec) -> Experiment:
    """The experiment with its autoencoder: frozen in its step, which sees latents.

    Raises:
      UserError: for latents of another shape than the config says.
    """
    c = experiment.config
    shape = found.latent_shape
    if tuple(c.data.latent_shape) != shape:
        raise UserError(
            f"config.data.latent_shape={tuple(c.data.latent_shape)}: the autoencoder of "
            f"config.data.codec={c.data.codec} makes {shape}; set it to that"
        )
    network = found.network

    def moments(tree: Any, images: jax.Array) -> Moments:
        return moments_of(network, tree, images)

    def inner(plain: Objective) -> Objective:
        return encoded(plain, moments, TREE, shape)

    objective = assemble.objective_of(
        c,
        experiment.kind,
        experiment.model,
        experiment.schedule,
        experiment.own,
        experiment.mesh,
        inner=inner,
    )
    return dataclasses.replace(
        experiment,
        latents=found,
        codec=codecs.latents(coding.scaled(c, experiment.own), found.encode, found.decode, shape),
        objective=objective,
        frozen={**experiment.frozen, TREE: found.tree},
        built={**experiment.built, "objective": objective} if experiment.built else {},
    )


def keep(experiment: Experiment, workdir: str | Path) -> None:
    """Write the autoencoder into a run's workdir, where it is not there already.

    Raises:
      UserError: where it cannot be written.
    """
    if (found := experiment.latents) is not None:
        KEEPING.keep(workdir, {TREE: found.tree}, {"network": fields_of(found.network)})


def with_kept(experiment: Experiment, workdir: str | Path) -> Experiment:
    """The experiment with the autoencoder that its run keeps.

    Raises:
      UserError: where it is gone or damaged.
    """

    def codec(content: dict[str, Any], trees: Trees) -> FrozenCodec:
        shape = image_shape(experiment.config)
        return FrozenCodec(network_of(content["network"]), trees[TREE], content[SUMS][TREE], shape)

    return with_codec(experiment, KEEPING.taken(workdir, codec))


def fields_of(network: Autoencoder) -> dict[str, Any]:
    """What makes the network the function that it is, as JSON; it computes in float32."""
    return {name: getattr(network, name) for name in FIELDS}


def network_of(fields: Mapping[str, Any]) -> Autoencoder:
    """The network of such fields. Raises TypeError or KeyError for others."""
    made: dict[str, Any] = {name: fields[name] for name in FIELDS}
    for name, value in made.items():
        made[name] = tuple(value) if isinstance(value, list) else value
    return Autoencoder(**made)


def of_network(
    experiment: Experiment, network: Autoencoder, params: Any, scaling: Scaling
) -> FrozenCodec:
    """The autoencoder that a run has: a network, its parameters on the host, its scale."""
    numbers = {name: np.float32(one) for name, one in scaling._asdict().items()}
    tree = {PARAMS: params, SCALING: numbers}
    shape = image_shape(experiment.config)
    return FrozenCodec(network, tree, digests.digest(tree), shape)
