"""Captions: what a source says of each example, and rows of tokens made of them for batches."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from absl import logging

from ddpm_jax.data.base import Reader, Source, Tolerant, evenly_spaced
from ddpm_jax.data.tokenizers import Tokenizer
from ddpm_jax.errors import UserError

CAPTION = "caption"  # of an example: a text
TEXT = "text"  # of a batch: its tokens, int32 [B, L]
STATES = "text_states"  # of a batch: what a frozen tower makes of them, float32 [B, L, W]

# Captions -> int32 [N, L], or arrays [N, ...] by the names that they have in a batch.
EncodeTexts = Callable[[Sequence[str]], np.ndarray | Mapping[str, np.ndarray]]


@runtime_checkable
class Captioned(Protocol):
    """A source that tells a caption without reading the image: `source[index]["caption"]`."""

    def caption(self, index: int) -> str: ...


def captions_of(source: Source, num: int | None = None) -> list[str]:
    """The captions of a source, or of `num` evenly spaced examples, to learn a tokenizer from.

    Args:
      source: one whose examples have a "caption"; images are read only where it is not `Captioned`.
      num: None for all of them; a source of drawn images has two thousand million.

    Raises:
      UserError: for examples without captions.
    """
    places = evenly_spaced(source, len(source) if num is None else num)
    reader: Source | Reader = source.reader if isinstance(source, Tolerant) else source
    if isinstance(reader, Captioned):
        return [reader.caption(place) for place in places]
    return [caption_of(source[place]) for place in places]


def caption_of(example: dict) -> str:
    """The caption of an example. Raises UserError where it has none."""
    if CAPTION not in example:
        raise UserError(
            "these data have no captions; choose data that have: shapes, captions or emoji"
        )
    return example[CAPTION]


def encode_texts(tokenizer: Tokenizer, context: int) -> EncodeTexts:
    """What makes a batch's rows of tokens of its captions, as `Batches(encode_texts=...)` takes it.

    The first caption that does not fit, or has unknown words, is reported; later ones are not.

    Args:
      tokenizer: any.
      context: the length L of a row.
    """
    told = threading.Event()

    def encode(captions: Sequence[str]) -> np.ndarray:
        ids, notes = tokenizer.rows(captions, context)
        if notes and not told.is_set():
            told.set()
            logging.warning("captions: %s; further ones are not reported", notes[0])
        return ids

    return encode
