"""How a text is normalised and cut into words, as CLIP's tokenizer has it in transformers."""

import functools
import unicodedata
from collections.abc import Iterable, Iterator

from ddpm_jax.data.tokenizers.base import shown
from ddpm_jax.errors import UserError

# Unicode's White_Space. Python's str.isspace also has the four separators U+001C to U+001F.
_SPACES = frozenset(
    map(
        chr,
        (
            *(*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)),
            *(0x2028, 0x2029, 0x202F, 0x205F, 0x3000),
        ),
    )
)
_ENDINGS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
# Of the published pattern, which cuts them once more: what follows their last part begins anew.
_SPELLED = {f"<|{name}|>": ("<|", name, "|>") for name in ("startoftext", "endoftext")}


def check_text(text: str) -> None:
    """Raises UserError for what is no text, or holds half of a surrogate pair."""
    if not isinstance(text, str):
        raise UserError(f"need a text, got {type(text).__name__}: {shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"the text {shown(text)} is not valid Unicode: it has a lone surrogate"
        raise UserError(what) from error


def normalised(text: str) -> str:
    """NFC, then lower case.

    Each character by itself, unlike `str.lower`: a capital sigma at the end of a word is no final
    sigma, and a dotted capital I becomes two characters, which are not composed again.
    """
    if text.isascii():
        return text.lower()
    return "".join(character.lower() for character in unicodedata.normalize("NFC", text))


def words(text: str) -> Iterator[str]:
    """Yields what a normalised text is cut into.

    The endings of English ('s, 't, 're, 've, 'm, 'll, 'd), runs of letters, single digits, and runs
    of what is neither of these nor white space.
    """
    start = 0
    while start < len(text):
        first, kind = text[start], _kind(text[start])
        stop = start + 1
        if first == "<" and (spelled := _at(text, start, _SPELLED)):
            yield from _SPELLED[spelled]
            start += len(spelled)
            continue
        if first == "'" and (ending := _at(text, start, _ENDINGS)):
            stop = start + len(ending)
        elif kind in "LX":
            while stop < len(text) and _kind(text[stop]) == kind:
                stop += 1
        if kind != " ":
            yield text[start:stop]
        start = stop


def _at(text: str, start: int, parts: Iterable[str]) -> str | None:
    """Which of the parts stands there."""
    return next((part for part in parts if text.startswith(part, start)), None)


@functools.lru_cache(2**12)
def _kind(character: str) -> str:
    """White space, a letter (L), a number (N), or anything else (X)."""
    if character in _SPACES:
        return " "
    major = unicodedata.category(character)[0]
    return major if major in "LN" else "X"
