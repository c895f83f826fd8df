"""A trained causal model of tokens: what it draws, completes, and how likely it finds images."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.build import language
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.diffusion import autoregressive
from ddpm_jax.diffusion.condition_dropout import NULL_VALUE
from ddpm_jax.errors import UserError
from ddpm_jax.models.language import LABEL
from ddpm_jax.trained import program, token_program
from ddpm_jax.trained.kept import kept, key_of
from ddpm_jax.trained.loaded import Loaded, padded_batch
from ddpm_jax.trained.tasks import Task


class LoadedLanguage(Loaded):
    """A trained language model of pixels: `load(workdir).sample(16)`, `.log_prob(images)`.

    `sample` takes labels, a seed, and as options the fields of config.sample: temperature, top_k,
    guidance_scale. Of a task it takes `inpaint`, whose mask has to begin at one pixel and go on to
    the end, row by row.
    """

    def log_prob(
        self, images: np.ndarray, *, labels: Sequence[int | str] = (), num_given: int = 0
    ) -> np.ndarray:
        """log p(image) in nats, float64 [N], exactly; with labels, log p(image | label).

        Args:
          images: uint8 [N, H, W, C], 0 to 255, as samples are drawn.
          labels: a class for each, or one for all; none for p without a label.
          num_given: log p(the other values | the first of them), row by row.

        Raises:
          UserError: for images of another size or type, or labels that there are not.
        """
        tokens = self._tokens(images)
        numbers = np.resize(self.class_numbers(labels) or [NULL_VALUE], len(images))
        self.labels(len(images), labels)  # refuses what there is not
        found = []
        size = padded_batch(self.experiment, len(tokens))
        for start in range(0, len(tokens), size):
            places = np.minimum(np.arange(start, start + size), len(tokens) - 1)
            each = token_log_probs(self.experiment, self.params, tokens[places], numbers[places])
            found.append(each[: len(tokens) - start, num_given:].sum(axis=1))
        return np.concatenate(found)

    def complete(
        self,
        images: np.ndarray,
        num_given: int,
        *,
        labels: Sequence[int | str] = (),
        seed: int = 0,
        **options: Any,
    ) -> np.ndarray:
        """The images with what comes after their first values drawn anew, uint8 [N, H, W, C].

        It is the model's own distribution of X2 given X1. The upper half of 8x8 grey images is
        `num_given=32`.

        Args:
          images: uint8 [N, H, W, C], of which the first `num_given` values stay, row by row.
          num_given: 0 to H W C.
          labels, seed, options: as of `sample`; without labels, none are told.

        Raises:
          UserError: as `log_prob` and `sample`, or for a number out of range.
        """
        given = self._tokens(images)
        if not 0 <= num_given <= given.shape[1]:
            raise UserError(f"num_given={num_given}: need 0 to {given.shape[1]}")
        experiment = self._with(options, program.NO_TASK)
        program.check(experiment)
        draw = token_program.tokens_program(experiment)
        numbers = np.resize(self.class_numbers(labels) or [NULL_VALUE], len(given))
        self.labels(len(given), labels)
        key, size, drawn = jax.random.key(seed), padded_batch(experiment, len(given)), []
        for start in range(0, len(given), size):
            rows = np.arange(start, start + size)
            places = np.minimum(rows, len(given) - 1)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
            counts = np.full(size, num_given, np.int32)
            tokens = draw(self.params, keys, numbers[places], given[places], counts)
            drawn.append(np.asarray(tokens)[: len(given) - start])
        x0 = np.concatenate(drawn).reshape(-1, *experiment.codec.shape)
        return experiment.codec.decode(x0)

    def _with(self, options: dict[str, Any], task: Task) -> Experiment:
        return program.sampled_with(self.experiment, options) if options else self.experiment

    def _tokens(self, images: np.ndarray) -> np.ndarray:
        """Images as sequences, int32 [N, L]."""
        shape = self.experiment.image_shape
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise UserError(
                f"need uint8 images [N, {', '.join(map(str, shape))}], got {images.dtype} "
                f"{list(images.shape)}"
            )
        return np.asarray(language.sequences(self.experiment.codec.encode(images)))


def token_log_probs(
    experiment: Experiment, params: Any, tokens: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """log p(x_i | x_<i, label) of sequences in nats, float64 [B, L]; label -1 for none."""
    takes_labels = bool(experiment.config.model.num_classes)

    def scored(params: Any, tokens: jax.Array, labels: jax.Array) -> jax.Array:
        conditions = {LABEL: labels} if takes_labels else None
        logits = experiment.model.apply({"params": params}, tokens, conditions)
        return autoregressive.token_log_probs(logits, tokens)

    key = ("log_probs", *key_of(experiment))
    compiled = kept(experiment, key, lambda: jax.jit(scored))
    found = compiled(params, jnp.asarray(tokens), jnp.asarray(labels, jnp.int32))
    return np.asarray(found, np.float64)
