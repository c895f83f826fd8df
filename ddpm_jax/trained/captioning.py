"""A trained captioner: what it says of images, and how likely it finds what is said of them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.build import coding
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.data.tokenizers import Tokenizer
from ddpm_jax.diffusion import autoregressive
from ddpm_jax.errors import UserError
from ddpm_jax.models.captioner import IMAGE
from ddpm_jax.runtime import compiling
from ddpm_jax.trained import language
from ddpm_jax.trained.batches import batches
from ddpm_jax.trained.kept import kept, key_of
from ddpm_jax.trained.loaded import Loaded

BATCH_SIZE = 128


class LoadedCaptioner(Loaded):
    """A trained captioner: `load(workdir).captions(images)`."""

    def captions(
        self,
        images: np.ndarray,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[str]:
        """What an image shows, for each, as captions are normalised: in lower case, words apart.

        Args:
          images: uint8 [N, H, W, C], 0 to 255, as samples are drawn.
          temperature: 0 takes the most likely token each time; 1 draws from the model itself, each
            token by the cumulative rule.
          top_k: draw among so many most likely tokens; None for all.
          seed: of the draws: caption k depends on (seed, k) and image k alone.

        Raises:
          UserError: for images of another size or type, or a number out of range.
        """
        if not 0 <= temperature < np.inf:
            raise UserError(f"temperature={temperature}: need a finite number, at least 0")
        if top_k is not None and top_k < 1:
            raise UserError(f"top_k={top_k}: need at least 1, or None")
        x0, tokenizer = self._encoded(images), self._tokenizer()
        draw, found = _drawing(self.experiment, greedy=temperature == 0, top_k=top_k), []
        key = jax.random.key(seed)
        for rows, some in batches(x0, min(BATCH_SIZE, len(x0))):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
            tokens = np.asarray(draw(self.params, keys, some, np.float32(temperature or 1)))
            found += [tokenizer.decode(row) for row in tokens[: len(x0) - rows[0]]]
        return found

    def log_prob(self, texts: Sequence[str], images: np.ndarray) -> np.ndarray:
        """log p(text | image) of each pair in nats, with the text's end, float64 [N], exactly.

        Args:
          texts: [N].
          images: uint8 [N, H, W, C].

        Raises:
          UserError: for images of another size or type, texts longer than the context, or another
            number of them.
        """
        return self.log_prob_encoded(texts, self._encoded(images))

    def log_prob_encoded(self, texts: Sequence[str], x0: np.ndarray) -> np.ndarray:
        """The same of images as the network sees them, float32 [N, H, W, C] in [-1, 1]."""
        if len(texts) != len(x0):
            raise UserError(f"need a text for each image, got {len(texts)} for {len(x0)}")
        context = self.experiment.config.data.context
        tokens, counts = language.tokens_of_texts(self._tokenizer(), texts, context)
        score, found = _scoring(self.experiment), []
        for rows, some in batches(x0, min(BATCH_SIZE, len(x0))):
            places = np.minimum(rows, len(x0) - 1)
            each = np.asarray(score(self.params, tokens[places], some), np.float64)
            found.append(np.where(counts[places], each, 0).sum(axis=1)[: len(x0) - rows[0]])
        return np.concatenate(found)

    def _encoded(self, images: np.ndarray) -> np.ndarray:
        x0 = coding.encoded(self.experiment.codec, self.experiment.image_shape, images)
        if not len(x0):
            raise UserError("need at least one image, got none")
        return x0

    def _tokenizer(self) -> Tokenizer:
        tokenizer = self.experiment.tokenizer
        assert tokenizer is not None  # a loaded run has one
        return tokenizer


def _drawing(experiment: Experiment, *, greedy: bool, top_k: int | None) -> Any:
    """The compiled (params, keys [B], x_0 [B, ...], temperature) -> tokens int32 [B, L]."""
    model, tokenizer = experiment.model, experiment.tokenizer
    length = experiment.config.data.context - 1
    adjusted = autoregressive.adjusted
    known = np.arange(experiment.config.data.vocabulary) < (tokenizer.size if tokenizer else 0)

    def draw(params: Any, keys: jax.Array, x0: jax.Array, temperature: jax.Array) -> jax.Array:
        variables, num = {"params": params}, len(x0)

        def step(carry: Any, place: jax.Array, before: jax.Array) -> tuple[jax.Array, Any]:
            return model.apply(variables, carry, place, before, method="step")

        def adjust(logits: jax.Array) -> jax.Array:
            # The vocabulary may have room for more tokens than were learned.
            of_words = jnp.where(known[None], logits, -jnp.inf)
            return adjusted(temperature, 1 if greedy else top_k)(of_words)

        uniforms = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)
        return autoregressive.draw(
            step,
            model.apply(variables, num, {IMAGE: x0}, method="begin"),
            # The first of the most likely tokens, where several are as likely.
            jnp.zeros_like(uniforms) if greedy else uniforms,
            adjust=adjust,
        ).tokens

    key = ("texts", greedy, top_k, *key_of(experiment))
    return kept(experiment, key, lambda: compiling.jit(draw))


def _scoring(experiment: Experiment) -> Any:
    """The compiled (params, tokens [B, L], x_0 [B, ...]) -> log p of each token, [B, L]."""

    def score(params: Any, tokens: jax.Array, x0: jax.Array) -> jax.Array:
        logits = experiment.model.apply({"params": params}, tokens, {IMAGE: x0})
        return autoregressive.token_log_probs(logits, tokens)

    key = ("log_probs", *key_of(experiment))
    return kept(experiment, key, lambda: compiling.jit(score))
