"""A trained prior: from texts to embeddings of images."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import samplers, streams
from ddpm_jax.build import coding, image_embeddings, paths, prior
from ddpm_jax.build.clips import FrozenClip
from ddpm_jax.build.experiment import Experiment, fields_of
from ddpm_jax.diffusion import autoregressive, components, condition_dropout, guidance, unclip
from ddpm_jax.diffusion.components import Components
from ddpm_jax.errors import UserError
from ddpm_jax.models.prior import TEXT_EMBEDDING
from ddpm_jax.runtime import compiling, processes, sharding
from ddpm_jax.trained import program
from ddpm_jax.trained.batches import batches
from ddpm_jax.trained.drawing import padded_batch
from ddpm_jax.trained.kept import kept, key_of
from ddpm_jax.trained.loaded import Loaded

# (params, frozen trees, what is known of texts, keys [B], scale) -> standardised x_0 [B, D]
Draw = Callable[[Any, Any, dict[str, jax.Array], jax.Array, Any], jax.Array]


class LoadedPrior(Loaded):
    """A trained prior: `load(workdir).embed(["a red circle"])`."""

    @property
    def clip(self) -> FrozenClip:
        """The CLIP whose embeddings it draws."""
        return self.experiment.clip

    def embed(self, texts: Sequence[str], *, seed: int = 0, **options: Any) -> np.ndarray:
        """An embedding of an image for each text, of unit length, float32 [N, D].

        Of sample.num_candidates that are drawn, the one whose dot product with the text's own
        embedding is the largest.

        Args:
          texts: any; an empty one is a text without words.
          seed: embedding k depends on (seed, k) and its text alone.
          **options: fields of config.sample that differ: num_steps, num_candidates, ...

        Raises:
          UserError: for what are no texts, or options that do not fit.
        """
        if isinstance(texts, str) or not len(texts):
            raise UserError("texts: need a list of at least one text")
        experiment = program.sampled_with(self.experiment, options) if options else self.experiment
        check_scale(experiment)
        rows = self.clip.tokenizer([*texts], experiment.config.data.context)
        draw, key = _program(experiment), jax.random.key(seed)
        size, drawn = padded_batch(experiment, len(rows)), []
        for numbers, some in batches(rows, size):
            keys = streams.fold(
                jax.vmap(jax.random.fold_in, (None, 0))(key, numbers), streams.PRIOR
            )
            made = draw(self.params, keys, some)
            drawn.append(processes.whole(made)[: len(rows) - numbers[0]])
        return np.concatenate(drawn)

    def log_prob(self, images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """log p of each image's component tokens given its text in nats, float64 [N], exactly.

        Args:
          images: uint8 [N, H, W, C], 0 to 255, as samples are drawn.
          texts: one for each image.

        Raises:
          UserError: for images of another size or type, another number of texts, or a prior that
            is no product of conditionals.
        """
        experiment, m = self.experiment, self.experiment.config.model
        if not experiment.kind.fits_components(experiment.config):
            raise UserError(
                f"log_prob: a prior of config.model.name={m.name} has no likelihood of tokens; "
                "train an autoregressive one"
            )
        if len(texts) != len(images):
            raise UserError(f"log_prob: {len(images)} images and {len(texts)} texts")
        x0 = coding.encoded(experiment.codec, experiment.image_shape, images)
        embedded = unclip.standardised(jnp.asarray(self.clip.embed_encoded(x0)))
        rows = self.clip.tokenizer([*texts], experiment.config.data.context)
        told = unclip.standardised(jnp.asarray(self.clip.embed_rows(rows)))
        tokens = components.tokens_of(_fitted(experiment.frozen), embedded)
        logits = self.model.apply({"params": self.params}, tokens, {TEXT_EMBEDDING: told})
        return np.asarray(autoregressive.log_prob(logits, tokens), np.float64)


def check_scale(experiment: Experiment) -> None:
    """Raises UserError for guidance of a prior that always saw its text."""
    c = experiment.config
    if c.sample.guidance_scale != 1 and not c.model.text_dropout > 0:
        raise UserError(
            f"config.sample.guidance_scale={c.sample.guidance_scale}: guidance needs a prior "
            "trained with config.model.text_dropout above 0; set 1"
        )


def _program(experiment: Experiment) -> Callable[..., jax.Array]:
    """The compiled program of config.sample, kept on the experiment.

    (params, keys [B], rows of tokens [B, L]) -> embeddings of unit length [B, D].
    """
    sample, clip = experiment.config.sample, experiment.clip
    scale, count = np.float32(sample.guidance_scale), sample.num_candidates
    only = guidance.only_branch([float(scale)])
    key = ("prior", only, count, sample.temperature, *key_of(experiment))
    batch = sharding.batch_sharding(experiment.mesh)

    def made() -> Callable[..., jax.Array]:
        with fields_of("sample"):
            draw = DRAWS[prior.row_of(experiment.config).draws](experiment)

        def best(params: Any, trees: Any, keys: jax.Array, rows: jax.Array, scale: Any) -> Any:
            told = dict(image_embeddings.of_texts(clip.model, trees[image_embeddings.CLIP], rows))
            each = jax.vmap(jax.random.split, (0, None))(keys, count).reshape(-1)
            repeated = {name: jnp.repeat(value, count, axis=0) for name, value in told.items()}
            scale = scale if only is None else float(only == 0)
            candidates = unclip.unit(draw(params, trees, repeated, each, scale))
            candidates = candidates.reshape(len(rows), count, -1)
            return unclip.best(candidates, told[TEXT_EMBEDDING])

        places = (None, None, batch, batch, None)
        return compiling.jit(best, in_shardings=places, out_shardings=batch)

    compiled, trees = kept(experiment, key, made), dict(experiment.frozen)

    def program(params: Any, keys: jax.Array, rows: np.ndarray) -> jax.Array:
        arguments = [processes.placed(one, batch) for one in (keys, rows)]
        return compiled(params, trees, *arguments, scale)

    return program


def _diffused(experiment: Experiment) -> Draw:
    """Embeddings by config.sample's sampler."""
    c, schedule, apply = experiment.config, experiment.schedule, experiment.model.apply
    assert schedule is not None  # a prior learns none
    sampler, times = prior.sampler(c, schedule, experiment.own)
    form = paths.parameterisation(c)

    def draw(
        params: Any, trees: Any, told: dict[str, jax.Array], keys: jax.Array, scale: Any
    ) -> jax.Array:
        denoise = guidance.composed_network(
            apply,
            params,
            schedule,
            [told],
            condition_dropout.null(told),
            [scale],
            prediction_name=form,
        )
        keys_start, keys_steps = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        shape = (len(keys), c.model.embed_dim)
        start = samplers.initial_noise(keys_start, schedule, times, shape)
        return sampler(denoise, schedule, times, keys_steps, start)

    return draw


def _foretold(experiment: Experiment) -> Draw:
    """Embeddings by their components, one after the other."""
    c, model = experiment.config, experiment.model
    adjust = autoregressive.adjusted(c.sample.temperature, c.sample.top_k)

    def draw(
        params: Any, trees: Any, told: dict[str, jax.Array], keys: jax.Array, scale: Any
    ) -> jax.Array:
        told = {TEXT_EMBEDDING: told[TEXT_EMBEDDING]}
        variables, length = {"params": params}, c.model.num_components
        sides = [told, condition_dropout.null(told)]
        if isinstance(scale, float):
            sides = sides[:1] if scale else sides[1:]

        def step(carries: Any, place: jax.Array, before: jax.Array) -> tuple[jax.Array, Any]:
            each = [model.apply(variables, one, place, before, method="step") for one in carries]
            first, *others = [logits for logits, _ in each]
            mixed = autoregressive.mixed(first, others[0], scale) if others else first
            return mixed, [after for _, after in each]

        tokens = autoregressive.draw(
            step,
            [model.apply(variables, len(keys), side, method="begin") for side in sides],
            jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys),
            adjust=adjust,
        ).tokens
        return components.vectors_of(_fitted(trees), tokens)

    return draw


def _fitted(trees: Any) -> Components:
    return Components(*trees[prior.COMPONENTS])


# How embeddings are drawn, by the name that `build.prior.ROWS` has for it.
DRAWS: dict[str, Callable[[Experiment], Draw]] = {"diffused": _diffused, "foretold": _foretold}
