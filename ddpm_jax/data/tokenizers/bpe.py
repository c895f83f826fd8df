"""Byte-level byte-pair encoding (Sennrich et al. 2016; GPT-2's bytes, CLIP's ends of words)."""

import collections
import functools
import heapq
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ddpm_jax.data.tokenizers.base import Piece, Tokenizer
from ddpm_jax.data.tokenizers.normal import check_text, normalised, words
from ddpm_jax.errors import UserError

END = "</w>"  # of a word, at the end of its last symbol
BOS, EOS, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
# GPT-2's characters for the 256 bytes: what can be printed stands for itself. The order is that of
# the published vocabularies.
_PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
CHARACTERS = {byte: chr(byte) for byte in _PRINTED} | {
    byte: chr(256 + n) for n, byte in enumerate(_OTHERS)
}
_BYTES = {character: byte for byte, character in CHARACTERS.items()}
ALPHABET = (*CHARACTERS.values(), *(character + END for character in CHARACTERS.values()))
_CACHED = 2**16

Merge = tuple[str, str]


class Special(NamedTuple):
    """A token that a text can spell out.

    Attributes:
      token: its number.
      normalised: whether it is looked for in the normalised text, or in the text as it is.
    """

    token: int
    normalised: bool = False


def byte_pair(
    vocabulary: Mapping[str, int],
    merges: Sequence[Merge],
    *,
    bos: str = BOS,
    eos: str = EOS,
    pad: str = PAD,
    unknown: str | None = None,
    special: Mapping[str, Special] | None = None,
) -> Tokenizer:
    """The tokenizer of a vocabulary and a list of merges.

    A text is normalised and cut into words (`normal`); the UTF-8 bytes of a word are merged, the
    pair that stands first in the list first.

    Args:
      vocabulary: token -> number, 0 to the number of tokens less 1.
      merges: pairs of tokens, in the order in which they are merged.
      bos, eos, pad: the tokens of beginning, end and padding.
      unknown: the token of bytes that the vocabulary lacks; None where it has all.
      special: what a text can spell out, such as {"<|endoftext|>": Special(49407)}.

    Raises:
      UserError: for numbers with gaps, a merge of what is no token, or a missing token.
    """
    special = dict(special or {})
    _check(vocabulary, merges, (bos, eos, pad, *([unknown] if unknown else ())))
    if unknown is None and (lacking := [one for one in ALPHABET if one not in vocabulary]):
        raise UserError(f"the vocabulary lacks bytes, such as {lacking[0]!r}, and has no unknown")
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    rank = {pair: n for n, pair in enumerate(merges)}
    missing = vocabulary[unknown] if unknown else -1

    @functools.lru_cache(_CACHED)
    def of_word(word: str) -> tuple[int, ...]:
        symbols = merged([*_symbols(word)], rank)
        return tuple(vocabulary.get(symbol, missing) for symbol in symbols)

    outside = {vocabulary[bos], vocabulary[pad]} if pad != eos else {vocabulary[bos]}

    def decode(ids: Sequence[int]) -> str:
        ids = [int(one) for one in ids]
        ids = ids[: ids.index(vocabulary[eos])] if vocabulary[eos] in ids else ids
        # A published tokenizer pads with a token of texts, but only behind the end.
        whole = "".join(tokens[n] for n in ids if n not in outside or tokens[n] in ALPHABET)
        return _text(whole)

    return Tokenizer(
        split=_splitter(of_word, special),
        decode=decode,
        size=len(tokens),
        bos=vocabulary[bos],
        eos=vocabulary[eos],
        pad=vocabulary[pad],
        unknown=None,
        content={
            "kind": "byte_pair",
            "vocabulary": tokens,
            "merges": [" ".join(pair) for pair in merges],
            "bos": bos,
            "eos": eos,
            "pad": pad,
            "unknown": unknown,
            "special": {name: [*one] for name, one in sorted(special.items())},
        },
    )


def train(texts: Iterable[str], size: int = 1024) -> Tokenizer:
    """A tokenizer whose merges are the most frequent pairs of some texts.

    Of pairs that are as frequent the first by its characters is merged first, so the same texts in
    any order give the same tokenizer. A pair that occurs once is not merged.

    Args:
      texts: the captions to learn from.
      size: of the vocabulary, at most: 512 for the bytes, in a word and at its end, a merge each,
        and 3 for padding, beginning and end, which are the last.

    Raises:
      UserError: for a size below 515, or no word at all in the texts.
    """
    num_merges = size - len(ALPHABET) - 3
    if num_merges < 0:
        raise UserError(f"size={size}: a vocabulary needs at least {len(ALPHABET) + 3} tokens")
    counts = collections.Counter(word for text in texts for word in words(normalised(text)))
    if not counts:
        raise UserError("the texts to train a tokenizer on hold no word")
    merges = _learned(counts, num_merges)
    # Two pairs may make one token.
    tokens = dict.fromkeys((*ALPHABET, *("".join(pair) for pair in merges), PAD, BOS, EOS))
    return byte_pair({token: n for n, token in enumerate(tokens)}, merges)


def merged(symbols: list[str], rank: Mapping[Merge, int]) -> list[str]:
    """The symbols of a word after all merges; the pair of the lowest rank first, from the left."""
    while len(symbols) > 1:
        pairs = set(itertools.pairwise(symbols))
        best = min(pairs, key=lambda pair: rank.get(pair, len(rank)))
        if best not in rank:
            break
        symbols = _joined(symbols, best)
    return symbols


def _learned(counts: Mapping[str, int], num_merges: int) -> list[Merge]:
    spelled = [([*_symbols(word)], count) for word, count in counts.items()]
    totals: collections.Counter[Merge] = collections.Counter()
    places: dict[Merge, set[int]] = collections.defaultdict(set)  # the words that may hold it
    for n, (symbols, count) in enumerate(spelled):
        for pair in itertools.pairwise(symbols):
            totals[pair] += count
            places[pair].add(n)
    # Entries whose count is no longer true are skipped when they come up: each change pushes anew.
    queue = [(-count, pair) for pair, count in totals.items()]
    heapq.heapify(queue)
    merges: list[Merge] = []
    made: set[str] = set()
    while queue and len(made) < num_merges:
        negative, best = heapq.heappop(queue)
        if -negative != totals[best] or -negative < 2:
            continue
        changed = set()
        for n in places.pop(best):
            symbols, count = spelled[n]
            after = _joined(symbols, best)
            for old in itertools.pairwise(symbols):
                totals[old] -= count
                changed.add(old)
            for new in itertools.pairwise(after):
                totals[new] += count
                places[new].add(n)
                changed.add(new)
            spelled[n] = after, count
        for pair in changed:
            heapq.heappush(queue, (-totals[pair], pair))
        made.add("".join(best))
        merges.append(best)
    return merges


def _joined(symbols: Sequence[str], pair: Merge) -> list[str]:
    joined: list[str] = []
    n = 0
    while n < len(symbols):
        found = tuple(symbols[n : n + 2]) == pair
        joined.append("".join(pair) if found else symbols[n])
        n += 2 if found else 1
    return joined


def _symbols(word: str) -> list[str]:
    symbols = [CHARACTERS[byte] for byte in word.encode()]
    return [*symbols[:-1], symbols[-1] + END]


def _text(symbols: str) -> str:
    return (
        b"".join(
            b" " if part == END else bytes(_BYTES[one] for one in part if one in _BYTES)
            for part in re.split(f"({END})", symbols)
        )
        .decode(errors="replace")
        .strip()
    )


def _splitter(
    of_word: Callable[[str], tuple[int, ...]], special: Mapping[str, Special]
) -> Callable[[str], list[Piece]]:
    raw = {name: one.token for name, one in special.items() if not one.normalised}
    normal = {normalised(name): one.token for name, one in special.items() if one.normalised}
    in_raw, in_normal = _finder(raw), _finder(normal)

    def split(text: str) -> list[Piece]:
        check_text(text)
        pieces: list[Piece] = []
        for part in in_raw(text):
            if part in raw:
                pieces.append((part, (raw[part],)))
                continue
            for inner in in_normal(normalised(part)):
                if inner in normal:
                    pieces.append((inner, (normal[inner],)))
                else:
                    pieces += [(word, of_word(word)) for word in words(inner)]
        return pieces

    return split


def _finder(names: Iterable[str]) -> Callable[[str], list[str]]:
    """What cuts a text at each of some names, keeping them."""
    longest_first = sorted(names, key=len, reverse=True)
    if not longest_first:
        return lambda text: [text]
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})").split


def _check(vocabulary: Mapping[str, int], merges: Sequence[Merge], needed: Sequence[str]) -> None:
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise UserError("the numbers of the vocabulary are not 0 to its size less 1")
    for token in needed:
        if token not in vocabulary:
            raise UserError(f"the vocabulary has no token {token!r}")
    for number, pair in enumerate(merges):
        if "".join(pair) not in vocabulary:
            raise UserError(f"merge {number}, {' '.join(pair)!r}, makes no token of the vocabulary")
