"""A tokenizer as a JSON file: written into a workdir, and read from there."""

from pathlib import Path
from typing import Any

from ddpm_jax.data.tokenizers.base import Tokenizer
from ddpm_jax.data.tokenizers.bpe import Special, byte_pair
from ddpm_jax.data.tokenizers.whole_words import word_level
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import must_write_json, read_json

FILE = "tokenizer.json"  # in a workdir
LIMIT = 2**24  # bytes of a file; CLIP's has 2 MB


def save(path: Path, tokenizer: Tokenizer) -> None:
    """Writes all that the tokenizer is, whole or not at all. Raises UserError if that fails."""
    must_write_json(path, {**tokenizer.content})


def load(path: Path) -> Tokenizer:
    """The tokenizer that `save` wrote, of the same digest.

    Raises:
      UserError: for no such file, or one that it did not write.
    """
    if not path.exists():
        raise UserError(f"no tokenizer at {path}: the run that made it has one in its workdir")
    try:
        return of_content(read_json(path, LIMIT))
    except (OSError, ValueError, UserError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is not a stored tokenizer ({reason}): put back the one that its run wrote"
        ) from error


def of_content(content: Any) -> Tokenizer:
    """The tokenizer of `Tokenizer.content`. Raises ValueError, KeyError, ... for anything else."""
    if content["kind"] == "word_level":
        return word_level(content["vocabulary"])
    if content["kind"] != "byte_pair":
        raise ValueError(f"its kind is {content['kind']!r}")
    vocabulary = {token: n for n, token in enumerate(content["vocabulary"])}
    if len(vocabulary) < len(content["vocabulary"]):
        raise ValueError("its vocabulary has a token twice")
    special = {name: Special(int(n), bool(late)) for name, (n, late) in content["special"].items()}
    return byte_pair(
        vocabulary,
        [(first, second) for first, second in map(str.split, content["merges"])],
        bos=content["bos"],
        eos=content["eos"],
        pad=content["pad"],
        unknown=content["unknown"],
        special=special,
    )
