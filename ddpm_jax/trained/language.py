"""A trained causal model of tokens: what it draws, completes, and how likely it finds data."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.build import coding, language
from ddpm_jax.build.experiment import Experiment
from ddpm_jax.data.tokenizers import Tokenizer
from ddpm_jax.data.tokenizers.normal import normalised
from ddpm_jax.diffusion import autoregressive
from ddpm_jax.diffusion.condition_dropout import NULL_VALUE
from ddpm_jax.errors import UserError
from ddpm_jax.models.language import LABEL
from ddpm_jax.runtime import compiling, processes
from ddpm_jax.trained import program, token_program
from ddpm_jax.trained.drawing import padded_batch
from ddpm_jax.trained.kept import kept, key_of
from ddpm_jax.trained.loaded import Loaded
from ddpm_jax.trained.tasks import Task


class LoadedLanguage(Loaded):
    """A trained language model: of pixels `load(workdir).sample(16)`, of captions `.texts(16)`.

    `sample` takes labels, a seed, and as options the fields of config.sample: temperature, top_k,
    guidance_scale. Of a task it takes `inpaint`, whose mask has to begin at one pixel and go on to
    the end, row by row.
    """

    def log_prob(
        self,
        examples: np.ndarray | Sequence[str],
        *,
        labels: Sequence[int | str] = (),
        num_given: int = 0,
    ) -> np.ndarray:
        """log p of each image or text in nats, float64 [N], exactly; with labels, given those.

        Args:
          examples: uint8 [N, H, W, C], 0 to 255, as samples are drawn; of a model of captions,
            texts.
          labels: a class for each, or one for all; none for p without a label.
          num_given: log p(the others | the first so many tokens), row by row.

        Raises:
          UserError: for images of another size or type, texts longer than the context, or labels
            that there are not.
        """
        tokens, counts = self._tokens(examples)
        each = log_probs(self, tokens, self._labels(len(tokens), labels))
        return np.where(counts, each, 0)[:, num_given:].sum(axis=1)

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
        experiment = self._with(options, program.NO_TASK)
        program.check(experiment)
        given, _ = self._tokens(images)
        if not 0 <= num_given <= given.shape[1]:
            raise UserError(f"num_given={num_given}: need 0 to {given.shape[1]}")
        counts = np.full(len(given), num_given, np.int32)
        tokens = self._drawn(experiment, given, counts, self._labels(len(given), labels), seed)
        return experiment.codec.decode(tokens.reshape(-1, *experiment.codec.shape))

    def texts(
        self,
        num: int,
        *,
        beginning: str = "",
        labels: Sequence[int | str] = (),
        seed: int = 0,
        **options: Any,
    ) -> list[str]:
        """`num` captions, as they are normalised: in lower case, words apart.

        Args:
          num: how many.
          beginning: whole words that each begins with; the rest is drawn given them.
          labels, seed, options: as of `complete`.

        Raises:
          UserError: for a model of pixels, a beginning that fills the context, or as `sample`.
        """
        experiment = self._with(options, program.NO_TASK)
        tokenizer = self._tokenizer()
        token_program.check_task(experiment.config, program.NO_TASK)
        length = experiment.config.data.context - 1
        first = tokenizer.encode(beginning)
        if len(first) >= length:
            raise UserError(f"beginning: it has {len(first)} tokens, and the context {length}")
        given = np.zeros((num, length), np.int32)
        given[:, : len(first)] = first
        counts = np.full(num, len(first), np.int32)
        tokens = self._drawn(experiment, given, counts, self._labels(num, labels), seed)
        return [tokenizer.decode(row) for row in tokens]

    def _with(self, options: dict[str, Any], task: Task) -> Experiment:
        return program.sampled_with(self.experiment, options) if options else self.experiment

    def _labels(self, num: int, labels: Sequence[int | str]) -> np.ndarray:
        """A label for each, int32 [num]; -1 where none are asked for."""
        return self.labels(num, labels) if labels else np.full(num, NULL_VALUE, np.int32)

    def _tokenizer(self) -> Tokenizer:
        tokenizer = self.experiment.tokenizer
        if not self.experiment.reads_text or tokenizer is None:
            raise UserError("this language model is of pixels and knows no texts; use images")
        return tokenizer

    def _tokens(self, examples: np.ndarray | Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Images or texts as sequences, int32 [N, L], and which tokens count, bool [N, L]."""
        if self.experiment.reads_text:
            context = self.experiment.config.data.context
            return tokens_of_texts(self._tokenizer(), list(examples), context)
        codec, shape = self.experiment.codec, self.experiment.image_shape
        tokens = language.sequences(coding.encoded(codec, shape, np.asarray(examples)))
        return tokens, np.ones(tokens.shape, bool)

    def _drawn(
        self,
        experiment: Experiment,
        given: np.ndarray,
        counts: np.ndarray,
        labels: np.ndarray,
        seed: int,
    ) -> np.ndarray:
        """Sequences int32 [N, L] of which the first tokens are given; row k is of (seed, k)."""
        draw = token_program.tokens_program(experiment)
        key, size, drawn = jax.random.key(seed), padded_batch(experiment, len(given)), []
        for start in range(0, len(given), size):
            rows = np.arange(start, start + size)
            places = np.minimum(rows, len(given) - 1)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
            tokens = draw(self.params, keys, labels[places], given[places], counts[places])
            drawn.append(processes.whole(tokens)[: len(given) - start])
        return np.concatenate(drawn)


def bits(loaded: Loaded, tokens: np.ndarray) -> np.ndarray:
    """-log2 p of sequences int [N, L] without a label, float64 [N]."""
    none = np.full(len(tokens), NULL_VALUE, np.int32)
    return -log_probs(loaded, tokens, none).sum(axis=1) / math.log(2)


def bits_of_texts(loaded: LoadedLanguage, texts: Sequence[str]) -> np.ndarray:
    """-log2 p of each text, with its end, float64 [N]. Raises ValueError for one that is too long.

    It is p of the tokens that the tokenizer makes of the text.
    """
    try:
        return -loaded.log_prob(texts) / math.log(2)
    except UserError as error:
        raise ValueError(f"{error}; set a larger config.data.context") from error


def tokens_of_texts(
    tokenizer: Tokenizer, texts: Sequence[str], context: int
) -> tuple[np.ndarray, np.ndarray]:
    """Texts as sequences, int32 [N, L], and which tokens count, bool [N, L].

    Raises:
      UserError: for a text that lost something: it has no p.
    """
    rows, notes = tokenizer.rows(texts, context)
    if notes:
        raise UserError(notes[0])
    return language.behind_beginning(rows)


def plain(text: str) -> str:
    """A text as a tokenizer sees it: normalised, and one space between words."""
    return " ".join(normalised(text).split())


def log_probs(loaded: Loaded, tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log p(x_i | x_<i, label) of sequences in nats, float64 [N, L]; label -1 for none."""
    size, found = padded_batch(loaded.experiment, len(tokens)), []
    for start in range(0, len(tokens), size):
        places = np.minimum(np.arange(start, start + size), len(tokens) - 1)
        each = token_log_probs(loaded.experiment, loaded.params, tokens[places], labels[places])
        found.append(each[: len(tokens) - start])
    return np.concatenate(found)


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
    compiled = kept(experiment, key, lambda: compiling.jit(scored))
    found = compiled(params, jnp.asarray(tokens), jnp.asarray(labels, jnp.int32))
    return np.asarray(found, np.float64)
