"""config.data.clip: another run's CLIP, frozen, whose embeddings a run draws or is told.

A run takes it once, when it begins, and keeps a copy beside its checkpoints: so it needs no other
workdir later, and goes on with the same bits. What is made of it at a run's beginning, the
components of a prior, is kept in the same way.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build import contrasting, image_embeddings, prior, texts, weights_fit
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.build.kept_trees import SUMS, Keeping, Trees
from ddpm_jax.config import config_files
from ddpm_jax.data import tokenizers
from ddpm_jax.data.tokenizers import Tokenizer
from ddpm_jax.diffusion.components import Components
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import compiling, digests

# The trees that a run with a CLIP has frozen, and the files in which it keeps them.
CLIP, COMPONENTS = image_embeddings.CLIP, prior.COMPONENTS
TREES = (CLIP, COMPONENTS)
KEEPING = Keeping(
    "clip.json",
    "the CLIP",
    limit=2**25,  # the tokenizer of CLIP's own has 2 MB
    tree_of=lambda name, tree: Components(**tree) if name == COMPONENTS else tree,
)
BATCH_SIZE = 256


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenClip:
    """A trained CLIP without its run.

    Attributes:
      config: its run's.
      model: the network.
      params: its parameters, the moving average.
      tokenizer: of its texts.
      digest: of the parameters.
    """

    config: ConfigDict
    model: Any
    params: Any
    tokenizer: Tokenizer
    digest: str
    compiled: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def embed_encoded(self, x0: np.ndarray) -> np.ndarray:
        """The embeddings of images in [-1, 1], of unit length: [N, H, W, C] -> float32 [N, D]."""
        return by_batches(self._compiled("embed_images"), self.params, x0)

    def embed_rows(self, rows: np.ndarray) -> np.ndarray:
        """The embeddings of rows of tokens, of unit length: int [N, L] -> float32 [N, D]."""
        return by_batches(self._compiled("embed_texts"), self.params, rows)

    def embed_texts(self, these: list[str]) -> np.ndarray:
        """The embeddings of texts, of unit length, float32 [N, D]."""
        return self.embed_rows(self.tokenizer(these, self.config.data.context))

    def _compiled(self, method: str) -> Callable[..., jax.Array]:
        def embed(params: Any, rows: jax.Array) -> jax.Array:
            return self.model.apply({"params": params}, rows, method=method)

        if method not in self.compiled:
            self.compiled[method] = compiling.jit(embed)
        return self.compiled[method]


def by_batches(
    embed: Callable[..., jax.Array], params: Any, rows: np.ndarray, size: int = BATCH_SIZE
) -> np.ndarray:
    """What `embed` makes of the rows, `size` at a time; the last batch is filled up.

    Raises:
      UserError: for no rows at all.
    """

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            filled = np.resize(some, (min(size, _power_of_two(len(some))), *some.shape[1:]))
            yield np.asarray(embed(params, jnp.asarray(filled)))[: len(some)]

    if not len(rows):
        raise UserError("need at least one image or text to embed, got none")
    return np.concatenate([*batches()])


def of_run(experiment: Experiment, other: Experiment, params: Any) -> FrozenClip:
    """The CLIP of another run, for a run that has one.

    Args:
      experiment: that takes it, `config.data.clip` its workdir.
      other, params: the CLIP's.

    Raises:
      UserError: for a run that is no CLIP of images and texts, or one of other sizes than the
        config says.
    """
    if not (other.kind.embeds and other.reads_text and other.tokenizer is not None):
        raise UserError(
            f"config.data.clip={experiment.config.data.clip}: that run is {other.kind.one}, and "
            "none of clean images and texts; name the workdir of a CLIP, as configs/shapes_clip.py "
            "trains one"
        )
    host = digests.on_host(params)
    weights_fit.check_finite(f"config.data.clip={experiment.config.data.clip}", host)
    clip = FrozenClip(other.config, other.model, host, other.tokenizer, digests.digest(host))
    check_fits(experiment, clip)
    return clip


def check_fits(experiment: Experiment, clip: FrozenClip) -> None:
    """A run's sizes are its CLIP's. Raises UserError naming the field that is not."""
    c, its = experiment.config, clip.config
    sizes = {
        "data.image_size": tuple(its.data.image_size),
        "data.channels": its.data.channels,
        "model.embed_dim": its.model.embed_dim,
    }
    if experiment.reads_text:
        sizes |= {"data.context": its.data.context, "data.vocabulary": its.data.vocabulary}
    if experiment.kind.reads_states:
        sizes["model.text_channels"] = contrasting.text_tower(its).width
    own = config_files.fields(c)
    for field, value in sizes.items():
        if own[field] != value:
            raise UserError(
                f"config.{field}={own[field]}: the CLIP of config.data.clip={c.data.clip} has "
                f"{value}; set it to that"
            )


def check(experiment: Experiment) -> None:
    """config.data.clip is there where it is needed, and nothing beside it that does not fit.

    Raises:
      UserError: naming the field.
    """
    c, kind = experiment.config, experiment.kind
    named = c.data.get("clip", "")
    if not kind.has_clip(c):
        if named:
            raise UserError(
                f"config.data.clip={named}: this {kind.noun} has no use for a CLIP; set '', or "
                "image_embedding among config.model.conditions"
            )
        return
    if not named:
        raise UserError(
            f"config.data.clip='': this {kind.noun} has the embeddings of a CLIP; name its workdir"
        )
    if c.data.get("augment"):
        raise UserError(
            f"config.data.augment={tuple(c.data.augment)}: an image that is moved has another "
            "embedding; set ()"
        )


def with_clip(
    experiment: Experiment, clip: FrozenClip, fitted: Components | None = None
) -> Experiment:
    """The experiment with its CLIP: frozen in its step, its objective told what it makes."""
    trees = {CLIP: clip.params} | ({} if fitted is None else {COMPONENTS: fitted})
    objective = experiment.kind.embedded(experiment.config, experiment.objective, clip.model)
    return dataclasses.replace(
        experiment,
        clip=clip,
        tokenizer=clip.tokenizer if experiment.reads_text else None,
        objective=objective,
        frozen={**experiment.frozen, **trees},
        built={**experiment.built, "objective": objective} if experiment.built else {},
    )


def keep(experiment: Experiment, workdir: str | Path) -> None:
    """Write what a run keeps beside its checkpoints, where it is not there already.

    Raises:
      UserError: where it cannot be written.
    """
    texts.keep(experiment, workdir)
    clip = experiment.clip
    if clip is None:
        return
    trees = {name: experiment.frozen[name] for name in TREES if name in experiment.frozen}
    content = {"config": clip.config.to_dict(), "tokenizer": dict(clip.tokenizer.content)}
    KEEPING.keep(workdir, trees, content)


def with_kept(experiment: Experiment, workdir: str | Path) -> Experiment:
    """The experiment with what its run keeps: its tokenizer, its CLIP and what was made of it.

    Raises:
      UserError: where any of them is gone or damaged.
    """
    if not experiment.kind.has_clip(experiment.config):
        return texts.with_kept(experiment, workdir)

    def clip(content: dict[str, Any], trees: Trees) -> tuple[FrozenClip, Components | None]:
        config = config_files.of_json(content["config"])
        tokenizer = tokenizers.stored.of_content(content["tokenizer"])
        model, digest = contrasting.network(config), content[SUMS][CLIP]
        return FrozenClip(config, model, trees[CLIP], tokenizer, digest), trees.get(COMPONENTS)

    return with_clip(experiment, *KEEPING.taken(workdir, clip))


def _power_of_two(num: int) -> int:
    """The next one, so that few programs are compiled."""
    return 1 << (num - 1).bit_length()
