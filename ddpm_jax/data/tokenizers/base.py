"""What every tokenizer is: texts to rows of numbers, and back."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from ddpm_jax.errors import UserError

CONTEXT = 77  # CLIP's: the beginning, up to 75 tokens, the end
_SHOWN = 60  # characters of a text in a message

# A piece of a text, normalised, and the numbers of its tokens.
Piece = tuple[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Between texts and rows of token numbers: beginning, tokens, end, padding.

    Attributes:
      split: a text -> its pieces in order, of words or less; raises UserError for what is no text.
      decode: token numbers -> the text that they stand for, as it was normalised; what begins, ends
        and pads is left out.
      size: of the vocabulary; numbers lie in [0, size).
      bos, eos, pad: the numbers of the beginning, the end and the padding. Published tokenizers pad
        with a token that also stands for something else, so a row ends at its first `eos`.
      unknown: the number of what is not in the vocabulary; None where everything is.
      content: all that it is, as JSON has it; see `stored`.

    Example:
      tokenizer = train_byte_pair(["a red circle", "a blue square"], 600)
      tokenizer(["a red square"], 16)         # int32 [1, 16]
    """

    split: Callable[[str], Sequence[Piece]]
    decode: Callable[[Sequence[int]], str]
    size: int
    bos: int
    eos: int
    pad: int
    unknown: int | None
    content: Mapping[str, Any]

    def __call__(self, texts: Sequence[str], context: int = CONTEXT) -> np.ndarray:
        """The rows of some texts; says in one line, once a call, what did not fit or is unknown.

        Args:
          texts: any number of them, N; an empty one gives beginning and end alone.
          context: the length L of a row, at least 2.

        Returns:
          int32 [N, L].

        Raises:
          UserError: for a text that is none, or a context below 2.
        """
        ids, notes = self.rows(texts, context)
        if notes:
            more = f" (and {len(notes) - 1} more such texts)" if notes[1:] else ""
            logging.warning("%s%s", notes[0], more)
        return ids

    def rows(self, texts: Sequence[str], context: int = CONTEXT) -> tuple[np.ndarray, list[str]]:
        """As `__call__`, with what it would say: a line for each text that lost something."""
        if isinstance(texts, str):
            raise UserError(f"need a list of texts, got one text: {shown(texts)}")
        if context < 2:
            raise UserError(f"context={context}: need at least 2, for the beginning and the end")
        ids = np.full((len(texts), context), self.pad, np.int32)
        notes = []
        for row, text in zip(ids, texts, strict=True):
            pieces = self.split(text)
            tokens = [token for _, piece in pieces for token in piece]
            kept = tokens[: context - 2]
            row[: len(kept) + 2] = [self.bos, *kept, self.eos]
            has = []
            if len(kept) < len(tokens):
                cut = shown(" ".join(_lost(pieces, len(kept))))
                has.append(f"{len(tokens)} tokens, and {context - 2} fit: cut off is {cut}")
            if self.unknown is not None and self.unknown in tokens:
                words = [word for word, piece in pieces if self.unknown in piece]
                has.append(f"unknown words: {shown(' '.join(words))}")
            if has:
                notes.append(f"the text {shown(text)} has {'; it has '.join(has)}")
        return ids, notes

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, of whatever length, without beginning and end."""
        return [token for _, piece in self.split(text) for token in piece]

    @property
    def digest(self) -> str:
        """The sha256 of all that the tokenizer is, as hex: equal digests give equal numbers."""
        text = json.dumps(self.content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def shown(text: Any) -> str:
    """A text as a message names it: on one line, cut."""
    whole = repr(text)
    return whole if len(whole) <= _SHOWN else f"{whole[: _SHOWN - 4]}...'"


def _lost(pieces: Sequence[Piece], kept: int) -> list[str]:
    """The pieces of which not every token is among the first `kept`."""
    end, lost = 0, []
    for word, tokens in pieces:
        end += len(tokens)
        if end > kept:
            lost.append(word)
    return lost
