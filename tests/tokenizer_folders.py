"""Folders of CLIP's tokenizer as transformers 4 wrote them, with a small vocabulary."""

import json

from ddpm_jax.data import tokenizers
from ddpm_jax.data.tokenizers.bpe import ALPHABET, BOS, EOS

TEXTS = ["the photograph of a cat", "the cat's cats, they're there!", "a photo of the 2 hats"]


def small_merges():
    return tokenizers.train_byte_pair(TEXTS, 560).content["merges"]


def write_old(folder, merges, *, pad=EOS, special_map=None, added=(), **config_fields):
    """A folder as transformers 4 wrote it; added: tokens, and whether they are normalised."""
    folder.mkdir(exist_ok=True)
    tokens = [*ALPHABET, *(line.replace(" ", "") for line in merges), BOS, EOS]
    vocabulary = {token: n for n, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    config = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": pad}
    config |= {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", **config_fields}
    if added:
        numbers = {token: vocabulary.setdefault(token, len(vocabulary)) for token, _ in added}
        config["added_tokens_decoder"] = {
            str(numbers[token]): flags(token, late) | {"special": True} for token, late in added
        }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if special_map:
        (folder / "special_tokens_map.json").write_text(json.dumps(special_map))
    return folder


def flags(content, normalized=True):
    """A token as the published special_tokens_map.json have it."""
    return {
        "content": content,
        **{"lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False},
    }


def special_map(pad, **roles):
    tokens = {"bos_token": flags(BOS), "eos_token": flags(EOS), "unk_token": flags(EOS)}
    return tokens | {"pad_token": pad} | roles
