"""Stable Diffusion as one network of rows of tokens: its text encoders before its U-Net."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.latent_conditions import POOLED, TIME_IDS, TOKENS
from ddpm_jax.models.text import TextTransformer
from ddpm_jax.models.text.captions import Reader
from ddpm_jax.models.unet_condition import UNet2DCondition

# What the parameters of its parts are called.
UNET, TEXT, TEXT_2 = "unet", "text", "text_2"
TEXTS = (TEXT, TEXT_2)
ROWS, STATES = "text", "text_states"  # of its conditions


class Words(NamedTuple):
    """The numbers of the tokens that a row of a text has besides its own.

    Attributes:
      bos, eos, pad: beginning, end, and what follows it, as the first encoder reads rows.
      pad_2: what follows the end as the second encoder reads them.
    """

    bos: int
    eos: int
    pad: int
    pad_2: int


class StableDiffusion(nn.Module):
    """Noised latents and rows of tokens to the U-Net's output.

    The one encoder's last states are read, behind its last norm; of two (XL) the states before the
    last block, beside each other, the second one's projected embedding, and the size of the image,
    which is taken for whole.

    Attributes:
      unet: the U-Net.
      text, text_2: the encoders; None for no second one.
      words: of the rows. The second encoder's differ from the first's in their padding alone.
      context: L of a row.
      empty_is_zero: no text is zeros (XL), and not what the text "" is.
      factor: pixels of an image along either axis for one of its latents.

    Source: Rombach et al. 2022; Podell et al. 2023 (SDXL), sections 2.1 and 2.2.
    """

    unet: UNet2DCondition
    text: TextTransformer
    text_2: TextTransformer | None
    words: Words
    context: int = 77
    empty_is_zero: bool = False
    factor: int = 8

    def with_attention(self, implementation: str) -> "StableDiffusion":
        """The same network with an implementation of `attention.attend` in its U-Net.

        Texts keep theirs: they are read in float32, which faster ones are not for.
        """
        return self.clone(unet=self.unet.with_attention(implementation))

    def with_kernel_gradient(self, form: str) -> "StableDiffusion":
        """The same network with a form of `convolution.convolution`."""
        return self.clone(unet=self.unet.with_kernel_gradient(form))

    @property
    def towers(self) -> tuple[str, ...]:
        """What the parameters of its text encoders are called."""
        return TEXTS[:1] if self.text_2 is None else TEXTS

    @property
    def reader(self) -> Reader:
        """Its text encoders, alone."""

        def states(own: Any, rows: jax.Array) -> Any:
            return self.apply({"params": own}, rows, method="states")

        return Reader(self.towers, states, (self.text, self.text_2, self.words))

    def __call__(
        self,
        xt: jax.Array,
        time: jax.Array,
        conditions: Mapping[str, jax.Array] | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:  # [B, h, w, C], [B] or a scalar -> [B, h, w, C]
        """The U-Net's output at x_t.

        Args:
          xt: [B, h, w, C].
          time: [B] or a scalar, in steps.
          conditions: "text" int [B, L], in which a row of -1 is no text; optional "text_states",
            what `states` makes of such rows, which is then not made here. None for no texts.
          train: turns dropout on; `apply` then needs rngs={"dropout": key}.

        Raises:
          ValueError: for other conditions, or rows of another length.
        """
        given = dict(conditions or {})
        if unknown := sorted(set(given) - {ROWS, STATES}):
            raise ValueError(f"this network is not conditioned on {', '.join(unknown)}")
        rows = given.get(ROWS, jnp.full((len(xt), self.context), -1, jnp.int32))
        if rows.shape != (len(xt), self.context):
            raise ValueError(f"{ROWS} must be {[len(xt), self.context]}, got {list(rows.shape)}")
        absent = rows[:, 0] < 0
        states = given.get(STATES)
        if states is None:
            states = self.states(rows)
        elif not self.empty_is_zero:
            states = jnp.where(absent[:, None], self.states(rows[:1] * 0 - 1), states)
        if self.empty_is_zero:
            states = jnp.where(absent[:, None], 0, states)
        return self.unet(xt, time, self._read(states, xt), train=train)

    def states(self, rows: jax.Array) -> jax.Array:  # int [B, L] -> [B, N]
        """What the U-Net reads of rows, in one vector; -1 alone is the text "" here.

        The states of all tokens, [L, D], then of two encoders the embedding of the whole.
        """
        rows = jnp.where(rows[:, :1] < 0, self._empty(), rows)
        first = self.text(rows)
        if self.text_2 is None:
            return first.last.reshape(len(rows), -1)
        second = self.text_2(self._padded_anew(rows))
        tokens = jnp.concatenate([one.hidden_states[-2] for one in (first, second)], axis=-1)
        return jnp.concatenate([tokens.reshape(len(rows), -1), second.embedding], axis=-1)

    def _read(self, states: jax.Array, xt: jax.Array) -> dict[str, jax.Array]:
        width = self.text.width + (0 if self.text_2 is None else self.text_2.width)
        of_tokens = self.context * width
        tokens = states[:, :of_tokens].reshape(-1, self.context, width)
        if self.text_2 is None:
            return {TOKENS: tokens}
        height, width = (n * self.factor for n in xt.shape[1:3])
        sizes = jnp.array([height, width, 0, 0, height, width], jnp.float32)
        time_ids = jnp.broadcast_to(sizes, (len(xt), 6))
        return {TOKENS: tokens, POOLED: states[:, of_tokens:], TIME_IDS: time_ids}

    def _empty(self) -> jax.Array:
        """The row of the text "", [1, L]."""
        row = [self.words.bos, self.words.eos] + [self.words.pad] * (self.context - 2)
        return jnp.array([row], jnp.int32)

    def _padded_anew(self, rows: jax.Array) -> jax.Array:
        """Rows as the second encoder reads them.

        A row's end is the first end of text behind its last token of another number than end and
        padding, so that a text may spell the end itself.
        """
        words, places = self.words, jnp.arange(self.context)
        of_text = (rows != words.eos) & (rows != words.pad)
        end = 1 + jnp.max(jnp.where(of_text, places, 0), axis=-1, keepdims=True)
        return jnp.where(places[None] > end, words.pad_2, rows)
