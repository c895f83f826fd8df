"""CLIP's tokenizer, from the files of transformers or open_clip."""

import gzip
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.data.tokenizers.base import CONTEXT, Tokenizer
from ddpm_jax.data.tokenizers.bpe import ALPHABET, BOS, EOS, Merge, Special, byte_pair
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.files import parse_json, read_bytes, whole, write_json

LIMIT = 2**25  # bytes of a file, unpacked
NUM_MERGES = 48_894  # of open_clip's file, which lists more: 49,152 less 256 bytes and 2 tokens
_FILES = "tokenizer.json, vocab.json with merges.txt, or bpe_simple_vocab_16e6.txt.gz"
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


def clip_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer of a published CLIP or Stable Diffusion.

    The numbers are those of transformers' CLIPTokenizer: NFC, lower case (see `normal`), and no
    repair of the text, so that a typographic apostrophe or `&amp;` stays what it is; open_clip's
    own tokenizer would mend them first.

    Padding is what the files say: in a folder special_tokens_map.json over tokenizer_config.json,
    else the end (as Stable Diffusion 1 has it). Open_clip's file pads with 0. A text that spells a
    special token has that token: with a padding of "!", as in Stable Diffusion 2 and in SDXL's
    second tokenizer, an exclamation mark is the number 0.

    Args:
      path: tokenizer.json (transformers 5, or `tokenizers`), vocab.json or merges.txt with the
        other beside it (transformers 4), bpe_simple_vocab_16e6.txt.gz (OpenAI's, in open_clip's
        package), or a folder that holds one of these.

    Raises:
      UserError: for no such file, or a broken one.

    Example:
      clip_tokenizer("stable-diffusion/tokenizer")(["a photograph of a cat"])  # int32 [1, 77]
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"no tokenizer at {path}: name a file or folder with {_FILES}")
    file = _file(path) if path.is_dir() else path
    folder = file.parent
    try:
        if file.name == "tokenizer.json":
            vocabulary, merges, special = _fast(_json(file))
        elif (vocab := folder / "vocab.json").exists() and file.name in (
            "vocab.json",
            "merges.txt",
        ):
            vocabulary = _numbers(_json(vocab))
            merges = _merges(_text(folder / "merges.txt").split("\n"))
            special = {}
        elif file.name.endswith((".txt", ".txt.gz")):
            return _open_clip(_text(file))
        else:
            raise ValueError(f"need {_FILES}")
        return _with_roles(vocabulary, merges, special, folder)
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, UserError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file} is not a tokenizer of CLIP's ({reason})") from error


def save_clip_tokenizer(folder: Path | str, tokenizer: Tokenizer, context: int = CONTEXT) -> None:
    """Write the files of transformers' CLIPTokenizer, which `clip_tokenizer` reads as well.

    Args:
      folder: made if it does not exist; such files in it are replaced.
      tokenizer: of byte pairs.
      context: the length of a row.

    Raises:
      UserError: for a tokenizer of words.
    """
    content = tokenizer.content
    if content["kind"] != "byte_pair":
        raise UserError("transformers' CLIPTokenizer has byte pairs; this tokenizer has words")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", {token: n for n, token in enumerate(content["vocabulary"])})
    with whole(folder / "merges.txt") as partial:
        partial.write_text("\n".join(["#version: 0.2", *content["merges"], ""]), "utf-8")
    tokens = {
        "bos_token": content["bos"],
        "eos_token": content["eos"],
        "unk_token": content["unknown"] or content["eos"],
        "pad_token": content["pad"],
    }
    special = {
        role: {
            "content": token,
            "lstrip": False,
            "normalized": bool(content["special"].get(token, (0, False))[1]),
            "rstrip": False,
            "single_word": False,
        }
        for role, token in tokens.items()
    }
    write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context, **special}
    write_json(folder / "tokenizer_config.json", config)


def _file(folder: Path) -> Path:
    for name in ("tokenizer.json", "vocab.json", "bpe_simple_vocab_16e6.txt.gz"):
        if (folder / name).exists():
            return folder / name
    raise UserError(f"no tokenizer in {folder}: it has none of {_FILES}")


def _fast(content: Any) -> tuple[dict[str, int], list[Merge], dict[str, Special]]:
    """Of tokenizer.json."""
    model = content["model"]
    if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        raise ValueError("its model is not byte pairs with </w> at the end of a word")
    if model.get("continuing_subword_prefix") or model.get("byte_fallback"):
        raise ValueError("its model has prefixes or falls back to bytes")
    vocabulary = _numbers(model["vocab"])
    special = {}
    for added in content.get("added_tokens", ()):
        special[added["content"]] = _special(added["id"], added)
    vocabulary |= {name: one.token for name, one in special.items() if name not in vocabulary}
    merges = [one.split(" ") if isinstance(one, str) else one for one in model["merges"]]
    return vocabulary, [_pair(one) for one in merges], special


def _with_roles(
    vocabulary: dict[str, int],
    merges: Sequence[Merge],
    special: dict[str, Special],
    folder: Path,
) -> Tokenizer:
    """With beginning, end and padding as the files beside say, or as CLIPTokenizer has them.

    Tokens that were added, and how a text spells them, are those of tokenizer.json (`special`), or
    of the files beside vocab.json.
    """
    stated: dict[str, Any] = dict(zip(_ROLES, (BOS, EOS, EOS, EOS), strict=True))
    config, special_map = (
        _json(folder / name) if (folder / name).exists() else {}
        for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    for content in (config, special_map):
        stated |= {role: content[role] for role in _ROLES if content.get(role) is not None}
    if not special:
        special = _spelled(stated.values(), vocabulary) | _added(folder, config)
    for name, one in special.items():
        if vocabulary.setdefault(name, one.token) != one.token:
            raise ValueError(f"its token {name!r} has the numbers {vocabulary[name]}, {one.token}")
    roles = {role: _name(token) for role, token in stated.items()}
    for role, token in roles.items():
        if token not in vocabulary:
            raise ValueError(f"its {role} {token!r} is not in the vocabulary")
        special.setdefault(token, Special(vocabulary[token]))
    return byte_pair(
        vocabulary,
        merges,
        bos=roles["bos_token"],
        eos=roles["eos_token"],
        pad=roles["pad_token"],
        unknown=roles["unk_token"],
        special=special,
    )


def _spelled(tokens: Iterable[Any], vocabulary: Mapping[str, int]) -> dict[str, Special]:
    """How the tokens of the roles are looked for: as the last new form of each says."""
    special, seen = {}, set()
    for token in tokens:
        name, late = _name(token), isinstance(token, dict) and bool(token.get("normalized"))
        if name in vocabulary and (name, late) not in seen:
            special[name] = Special(vocabulary[name], late)
        seen.add((name, late))
    return special


def _added(folder: Path, config: Mapping[str, Any]) -> dict[str, Special]:
    """What transformers 4 added to the vocabulary, in a file of its own or in the config."""
    file = folder / "added_tokens.json"
    numbers = _json(file) if file.exists() else {}
    added = {name: Special(int(number), normalised=True) for name, number in numbers.items()}
    for number, flags in config.get("added_tokens_decoder", {}).items():
        added[flags["content"]] = _special(number, flags)
    return added


def _special(number: Any, flags: Mapping[str, Any]) -> Special:
    """Of an added token. Raises ValueError for one that is looked for in another way."""
    for flag in ("lstrip", "rstrip", "single_word"):
        if flags.get(flag):
            raise ValueError(f"its token {flags['content']!r} has {flag}, which is not supported")
    return Special(int(number), bool(flags.get("normalized")))


def _name(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else token


def _open_clip(text: str) -> Tokenizer:
    merges = _merges(text.split("\n")[1 : NUM_MERGES + 1])
    tokens = [*ALPHABET, *("".join(pair) for pair in merges), BOS, EOS]
    vocabulary = {token: n for n, token in enumerate(tokens)}
    special = {token: Special(vocabulary[token]) for token in (BOS, EOS)}
    return byte_pair(vocabulary, merges, pad=ALPHABET[0], unknown=EOS, special=special)


def _merges(lines: Sequence[str]) -> list[Merge]:
    return [_pair(line.split()) for line in lines if line.strip() and line[:9] != "#version:"]


def _pair(parts: Sequence[str]) -> Merge:
    if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"a merge is {' '.join(map(str, parts))[:50]!r}, not two tokens")
    return parts[0], parts[1]


def _numbers(content: Any) -> dict[str, int]:
    if not isinstance(content, dict) or not all(type(n) is int for n in content.values()):
        raise ValueError("its vocabulary is not tokens with their numbers")
    return content


def _json(file: Path) -> Any:
    return parse_json(read_bytes(file, LIMIT))


def _text(file: Path) -> str:
    content = read_bytes(file, LIMIT)
    if file.suffix == ".gz":
        with gzip.open(io.BytesIO(content)) as unpacked:
            content = unpacked.read(LIMIT + 1)
        if len(content) > LIMIT:
            raise ValueError(f"it unpacks to more than {LIMIT:,} bytes")
    return content.decode()
