"""Which embedding of an image samples are drawn by: a prior's, an image's own, one in between."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddpm_jax.build import coding, conditioning, image_embeddings
from ddpm_jax.build.clips import FrozenClip
from ddpm_jax.build.conditioning import ConditionValue
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.data.captions import TEXT
from ddpm_jax.diffusion import unclip
from ddpm_jax.errors import UserError
from ddpm_jax.models.image_embedding import EMBEDDING
from ddpm_jax.trained.places import check_place

DEFAULT_THETA = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class EmbeddingOf:
    """What the embedding is of, for a model that is told one (unCLIP): one of three things.

    Attributes:
      prior: a trained prior (`experiment.load`), which draws an embedding for each prompt.
      images: one image, uint8 [H, W, C], whose variations are drawn; or two, between which image k
        of n is at k / (n - 1), from one noise.
      text_diff: with one image, a text that describes it and one that is to: image k of n turns
        theta k / (n - 1) of the way towards their difference, from one noise.
      theta: in (0, 1], the largest share of that way; None for 0.5.
    """

    prior: Any = None
    images: Sequence[np.ndarray] = ()
    text_diff: tuple[str, str] | None = None
    theta: float | None = None

    @property
    def leads(self) -> bool:
        """The images lead from one thing to another."""
        return len(self.images) == 2 or self.text_diff is not None


def check(experiment: Experiment, of: EmbeddingOf) -> None:
    """What is asked fits the model and is one thing. Raises UserError naming what does not."""
    c = experiment.config
    if not image_embeddings.told(c):
        raise UserError(
            "image_embedding: this model is told no image's embedding; train one with "
            f"config.model.conditions=({EMBEDDING!r},), as configs/shapes_unclip.py does"
        )
    if (of.prior is None) == (not len(of.images)):
        raise UserError("image_embedding: need a prior, or images, and not both")
    if len(of.images) > 2:
        raise UserError(f"images: need one, or two to go between, got {len(of.images)}")
    for image in of.images:
        try:
            coding.encoded(experiment.codec, experiment.image_shape, np.asarray(image)[None])
        except UserError as error:
            raise UserError(f"images: {error}") from error
    if of.text_diff is not None and len(of.images) != 1:
        raise UserError("text_diff: need one image that it changes")
    if of.theta is not None and of.text_diff is None:
        raise UserError(f"theta={of.theta}: applies only to text_diff; leave it unset")
    if of.theta is not None and not 0 < of.theta <= 1:
        raise UserError(f"theta={of.theta}: need above 0, at most 1")
    if of.text_diff is not None and len(of.text_diff) != 2:
        raise UserError("text_diff: need two texts, from and to")
    if of.prior is not None:
        _check_prior(experiment, of.prior)


def _check_prior(experiment: Experiment, prior: Any) -> None:
    check_place("prior", prior.experiment, "prior")
    ours, its = experiment.clip.digest, prior.clip.digest
    if ours != its:
        raise UserError(
            f"prior: it has the embeddings of another CLIP (sha256 {its[:16]}) than this model "
            f"({ours[:16]}): train both with one config.data.clip"
        )


def told(
    experiment: Experiment,
    num: int,
    conditions: Mapping[str, ConditionValue],
    of: EmbeddingOf | None,
    seed: int,
) -> dict[str, ConditionValue]:
    """The conditions of `num` images with the embedding that they are drawn by.

    Args:
      experiment: the model's.
      num: how many images.
      conditions: the others; of a prior, "text" are its prompts, which go no further where the
        model reads no text.
      of: what the embedding is of; None leaves the conditions as they are.
      seed: of a prior's draws.

    Raises:
      UserError: as `check`, or for a prior without prompts.
    """
    if of is None:
        return dict(conditions)
    check(experiment, of)
    if EMBEDDING in conditions:
        raise UserError(f"condition {EMBEDDING}: image_embedding says it already; give one of both")
    whole = dict(conditions)
    if of.prior is None:
        return whole | {EMBEDDING: _of_images(experiment, num, of)}
    prompts: Any = whole.get(TEXT, ())
    prompts = [prompts] if isinstance(prompts, str) else [*prompts]
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise UserError("prior: it draws by prompts; give at least one text")
    if not conditioning.reads_text(experiment.config):
        del whole[TEXT]
    cycled = [prompts[k % len(prompts)] for k in range(num)]
    return whole | {EMBEDDING: of.prior.embed(cycled, seed=seed)}


def _of_images(experiment: Experiment, num: int, of: EmbeddingOf) -> np.ndarray:
    """Embeddings of unit length, [num, D]."""
    clip: FrozenClip = experiment.clip
    x0 = coding.encoded(experiment.codec, experiment.image_shape, np.stack([*of.images]))
    embedded = jnp.asarray(clip.embed_encoded(x0))
    first = embedded[:1]
    if not of.leads:
        return np.broadcast_to(np.asarray(first), (num, first.shape[1]))
    if of.text_diff is None:
        share = jnp.linspace(0, 1, num) if num > 1 else jnp.full(1, 0.5)
        return np.asarray(unclip.slerp(first, embedded[1:], share))
    theta = DEFAULT_THETA if of.theta is None else of.theta
    share = theta * (jnp.linspace(0, 1, num) if num > 1 else jnp.ones(1))
    before, after = (jnp.asarray(one)[None] for one in clip.embed_texts([*of.text_diff]))
    return np.asarray(unclip.text_diff(first, before, after, share))
