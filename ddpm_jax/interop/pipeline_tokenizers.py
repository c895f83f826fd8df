"""The tokenizers of a pipeline of diffusers: rows as long as its text encoders read them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.data.tokenizers import CONTEXT, Tokenizer, clip_tokenizer
from ddpm_jax.interop.config_fields import Field, is_int, one_of, refuse
from ddpm_jax.interop.unet2d_config import read_json

FOLDERS = ("tokenizer", "tokenizer_2")
CONFIG = "tokenizer_config.json"
# From here on a length is none: where transformers knows none it writes 1e30.
_NO_LENGTH = 2**20
_FIELDS = {
    "tokenizer_class": one_of("CLIPTokenizer", "CLIPTokenizerFast", None),
    "padding_side": one_of("right", None),
    "truncation_side": one_of("right", None),
    "do_lower_case": one_of(True, None),
    "add_prefix_space": one_of(False, None),
    "model_max_length": Field(lambda v: v is None or is_int(v, 2), "a whole number from 2"),
}


class PipelineTokenizer(NamedTuple):
    """A tokenizer and the length of its rows.

    Attributes:
      tokenizer: texts to numbers.
      context: L.
    """

    tokenizer: Tokenizer
    context: int

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [N, L]: beginning, tokens, end, padding; a text that is too long keeps its end."""
        return self.tokenizer(texts, self.context)


def read(directory: str | os.PathLike[str]) -> dict[str, PipelineTokenizer]:
    """The tokenizers of a pipeline's folder by the names of theirs: tokenizer, tokenizer_2.

    Of either layout: vocab.json with merges.txt (transformers 4), or tokenizer.json. Padding is
    what special_tokens_map.json says, else tokenizer_config.json, else the end.

    Raises:
      UserError: for files that are none of CLIP's tokenizer.
      ValueError: for a field of tokenizer_config.json that is not supported.
    """
    found = [name for name in FOLDERS if (Path(directory) / name).is_dir()]
    return {name: _read(Path(directory) / name) for name in found}


def _read(folder: Path) -> PipelineTokenizer:
    config: dict[str, Any] = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    for name, field in _FIELDS.items():
        if not field.holds(config.get(name)):
            file = f"{folder.name}/{CONFIG}"
            raise refuse(name, config.get(name), field.supported, file)
    length = config.get("model_max_length") or _NO_LENGTH
    context = CONTEXT if length >= _NO_LENGTH else length
    return PipelineTokenizer(clip_tokenizer(folder), context)
