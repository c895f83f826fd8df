"""Tokenizers: from texts to rows of token numbers. Nothing is downloaded.

    tokenizer = train_byte_pair(["a red circle", "a blue square"], size=600)
    tokenizer(["a red square"], 16)              # int32 [1, 16]: beginning, tokens, end, padding
    clip_tokenizer("stable-diffusion/tokenizer")(["a photograph of a cat"])

Texts are normalised as CLIP's tokenizer in transformers does it: NFC, white space, lower case.
"""

from ddpm_jax.data.tokenizers.base import CONTEXT, Tokenizer
from ddpm_jax.data.tokenizers.bpe import byte_pair
from ddpm_jax.data.tokenizers.bpe import train as train_byte_pair
from ddpm_jax.data.tokenizers.clip import clip_tokenizer, save_clip_tokenizer
from ddpm_jax.data.tokenizers.stored import load, save
from ddpm_jax.data.tokenizers.whole_words import train as train_word_level
from ddpm_jax.data.tokenizers.whole_words import word_level

__all__ = [
    "CONTEXT",
    "Tokenizer",
    "byte_pair",
    "clip_tokenizer",
    "load",
    "save",
    "save_clip_tokenizer",
    "train_byte_pair",
    "train_word_level",
    "word_level",
]
