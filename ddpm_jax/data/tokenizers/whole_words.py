"""A vocabulary of whole words, for models that read a bag of them."""

import collections
from collections.abc import Iterable, Sequence

from ddpm_jax.data.tokenizers.base import Piece, Tokenizer
from ddpm_jax.data.tokenizers.bpe import BOS, EOS, PAD
from ddpm_jax.data.tokenizers.normal import check_text, normalised, words
from ddpm_jax.errors import UserError

UNKNOWN = "<|unknown|>"


def word_level(vocabulary: Sequence[str]) -> Tokenizer:
    """The tokenizer of some words: padding and unknown are 0 and 1, beginning and end the last two.

    Args:
      vocabulary: different words, as `normal.words` cuts them.

    Raises:
      UserError: for a word that comes twice, or is no single word.
    """
    for word in vocabulary:
        if not isinstance(word, str) or [*words(normalised(word))] != [word]:
            raise UserError(f"the vocabulary has {word!r}, which is not one word")
    tokens = (PAD, UNKNOWN, *vocabulary, BOS, EOS)
    number = {token: n for n, token in enumerate(tokens)}
    if len(number) < len(tokens):
        raise UserError("the vocabulary has a word twice")
    end = number[EOS]

    def split(text: str) -> list[Piece]:
        check_text(text)
        return [(word, (number.get(word, 1),)) for word in words(normalised(text))]

    def decode(ids: Sequence[int]) -> str:
        ids = [int(one) for one in ids]
        ids = ids[: ids.index(end)] if end in ids else ids
        return " ".join(tokens[n] for n in ids if n not in (0, number[BOS]))

    return Tokenizer(
        split=split,
        decode=decode,
        size=len(tokens),
        bos=number[BOS],
        eos=end,
        pad=0,
        unknown=1,
        content={"kind": "word_level", "vocabulary": [*vocabulary]},
    )


def train(texts: Iterable[str], size: int = 4096) -> Tokenizer:
    """The tokenizer of the most frequent words of some texts, the most frequent first.

    Args:
      texts: the captions to learn from, in any order.
      size: of the vocabulary, at most; four of it are no words.

    Raises:
      UserError: for a size below 5, or no word at all in the texts.
    """
    if size < 5:
        raise UserError(f"size={size}: a vocabulary needs at least 5 tokens")
    counts = collections.Counter(word for text in texts for word in words(normalised(text)))
    if not counts:
        raise UserError("the texts to train a tokenizer on hold no word")
    return word_level(sorted(counts, key=lambda word: (-counts[word], word))[: size - 4])
