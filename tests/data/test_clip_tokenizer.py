"""CLIP's tokenizer against transformers' and open_clip's, over all that Unicode has."""

import gzip
import importlib.util
import json
import random
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizer_folders import flags, small_merges, special_map, write_old

from ddpm_jax.data import tokenizers
from ddpm_jax.data.tokenizers import clip_tokenizer
from ddpm_jax.data.tokenizers.bpe import BOS, EOS
from ddpm_jax.errors import UserError


def published():
    """Open_clip's file, where its package is installed; it is not imported, for it needs others."""
    found = importlib.util.find_spec("open_clip")
    if found is None:
        pytest.skip("open_clip is not installed")
    return Path(found.origin).parent / "bpe_simple_vocab_16e6.txt.gz"


PUBLISHED = [(BOS, True), (EOS, True)]
PADDINGS = {
    "sd1": {},
    "sd1, as published": {"special_map": special_map(EOS)},
    "sd2": {"special_map": special_map("!")},
    "sdxl": {"special_map": special_map(EOS), "added": PUBLISHED},
    "sdxl_2": {"pad": "!"},
    "sdxl_2, as published": {
        "pad": "!",
        "special_map": special_map("!"),
        "added": [("!", False), *PUBLISHED],
    },
    "roles of several forms": {"special_map": special_map(flags(EOS), unk_token=EOS)},
    "added tokens count": {"special_map": special_map(flags(EOS)), "added": [(EOS, False)]},
    "a new token": {"added": [("<cat>", False), ("<HAT>", True)]},
}


def strings(number):
    """Random strings of code points that every Unicode table in use knows, and troublesome ones."""
    rng = random.Random(0)
    known = [
        chr(n)
        for n in range(sys.maxunicode + 1)
        if unicodedata.ucd_3_2_0.category(chr(n)) not in ("Cn", "Cs")
        and unicodedata.ucd_3_2_0.category(chr(n)) == unicodedata.category(chr(n))
    ]
    pieces = [
        *(
            "Σ",
            "ΑΣ",
            "ΟΔΥΣΣΕΥΣ",
            "İ",
            "I\u0307",
            "İSTANBUL",
            "ſ",
            "'ſ",
            "ß",
            "ﬁ",
            "’s",
            "ǅ",
            "K",
            "Å",
        ),
        *(
            "'s",
            "'S",
            "'RE",
            "!'s",
            "''ll",
            "\u00a0",
            "\u0085",
            "\u180e",
            "\u200b",
            "\x1c",
            "\ufeff",
        ),
        *(
            "é",
            "e\u0301",
            "\u1e9b\u0323",
            "가",
            "각",
            "½",
            "²",
            "٣",
            "Ⅷ",
            "…",
            "😀",
            "👩‍👩‍👧",
            "🏳️‍🌈",
        ),
        *("!", "!!", "?!", " ", "\n", "\t", "a", "THE", "photograph", "cat", "12", "&amp;", "</w>"),
        *(BOS, EOS, "<|ENDOFTEXT|>", "<|", "|>", "<cat>", "<CAT>", "<hat>"),
    ]

    def piece():
        return rng.choice(pieces if rng.random() < 0.5 else known)

    return ["".join(piece() for _ in range(rng.randrange(24))) for _ in range(number)]


def assert_as_in_transformers(folder, texts):
    transformers = pytest.importorskip("transformers")
    peer = transformers.CLIPTokenizer.from_pretrained(folder)
    asked = {"padding": "max_length", "max_length": 77, "truncation": True}
    expected = np.array(peer(texts, **asked)["input_ids"])
    rows, _ = clip_tokenizer(folder).rows(texts)
    wrong = (rows != expected).any(axis=1)
    first = int(wrong.argmax())
    assert not wrong.any(), (texts[first], rows[first], expected[first])


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("layout", ["transformers_4", "transformers_5"])
def test_numbers_are_those_of_transformers(layout, padding, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = write_old(tmp_path / "old", small_merges(), **PADDINGS[padding])
    if layout == "transformers_5":
        transformers.CLIPTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "new")
        folder = tmp_path / "new"
        assert not (folder / "vocab.json").exists()
    assert_as_in_transformers(folder, strings(500))
    pad = clip_tokenizer(folder)([""])[0, -1]
    assert pad == (0 if padding.startswith(("sd2", "sdxl_2")) else clip_tokenizer(folder).eos)


def test_tokens_that_were_added_in_a_file_of_their_own(tmp_path):
    folder = write_old(tmp_path / "old", small_merges())
    size = len(json.loads((folder / "vocab.json").read_text()))
    (folder / "added_tokens.json").write_text(json.dumps({"<cat>": size}))
    assert_as_in_transformers(folder, strings(300))
    assert clip_tokenizer(folder).encode("the <CAT>")[-1] == size
    (folder / "added_tokens.json").write_text(json.dumps({EOS: size}))
    with pytest.raises(UserError, match=f"'<.endoftext.>' has the numbers {size - 1}, {size}"):
        clip_tokenizer(folder)


@pytest.mark.parametrize("normalized", [False, True])
def test_in_the_new_layout_tokenizer_json_says_how_a_token_is_spelled(normalized, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = write_old(tmp_path / "old", small_merges(), added=[(EOS, normalized)])
    transformers.CLIPTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "new")
    other = special_map(flags(EOS, not normalized), eos_token=flags(EOS, not normalized))
    (tmp_path / "new" / "special_tokens_map.json").write_text(json.dumps(other))
    assert_as_in_transformers(tmp_path / "new", strings(300))


def test_the_published_vocabulary_agrees_with_transformers(tmp_path):
    lines = gzip.decompress(published().read_bytes()).decode().split("\n")
    folder = write_old(tmp_path / "old", lines[1:48_895])
    assert_as_in_transformers(folder, strings(2000))
    tokenizer = clip_tokenizer(folder)
    assert (tokenizer.size, tokenizer.bos, tokenizer.eos) == (49_408, 49_406, 49_407)
    # Numbers of the original, as OpenAI's notebook prints them.
    assert tokenizer.encode("Hello World!") == [3306, 1002, 256]


def test_open_clips_file_gives_open_clips_numbers():
    pytest.importorskip("ftfy")
    pytest.importorskip("regex")
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("peer", published().parent / "tokenizer.py")
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    texts = [
        "a diagram",
        "The CAT'S hats, they’ll be 42!",
        "Übergröße  \n é",
        "",
        "😀 " * 90,
        "!!!",
    ]
    texts[1] = texts[1].replace("’", "'")  # which it would repair first
    expected = peer.SimpleTokenizer(str(published()))(texts).numpy()
    tokenizer = clip_tokenizer(published())
    np.testing.assert_array_equal(tokenizer.rows(texts)[0], expected)
    assert tokenizer.pad == 0


def test_a_file_or_its_folder_may_be_named(tmp_path):
    folder = write_old(tmp_path / "old", small_merges(), special_map=special_map("!"))
    digests = {clip_tokenizer(folder / name).digest for name in ("vocab.json", "merges.txt", "")}
    assert digests == {clip_tokenizer(str(folder)).digest}
    lines = ["header", *small_merges()]
    (tmp_path / "simple.txt").write_text("\n".join(lines))
    (tmp_path / "simple.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    plain, packed = (clip_tokenizer(tmp_path / name) for name in ("simple.txt", "simple.txt.gz"))
    assert plain.digest == packed.digest
    assert plain.encode("the cat") == clip_tokenizer(folder).encode("the cat")
    tokenizers.save(tmp_path / "kept.json", clip_tokenizer(folder))
    assert tokenizers.load(tmp_path / "kept.json").digest in digests


def break_file(folder, name, content):
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f / "nowhere", "no tokenizer at .*tokenizer.json, vocab.json with merges.txt"),
        (lambda f: (f / "vocab.json").unlink() or f, "no tokenizer in"),
        (lambda f: break_file(f, "vocab.json", b"{"), "vocab.json is not a tokenizer of CLIP's"),
        (lambda f: break_file(f, "vocab.json", b'{"a": 0}'), "not in the vocabulary"),
        (lambda f: break_file(f, "vocab.json", b'["a"]'), "not tokens with their numbers"),
        (lambda f: break_file(f, "merges.txt", b"v\na b c\n"), "a merge is 'v', not two tokens"),
        (lambda f: break_file(f, "merges.txt", b"x qq\n"), "makes no token"),
        (lambda f: (f / "merges.txt").unlink() or f, "merges.txt"),
        (lambda f: break_file(f, "tokenizer.json", b"{}"), "tokenizer.json is not a tokenizer"),
        (
            lambda f: break_file(f, "tokenizer.json", b'{"model": {"type": "WordPiece"}}'),
            "not byte pairs with </w>",
        ),
        (
            lambda f: break_file(
                f,
                "tokenizer_config.json",
                b'{"added_tokens_decoder": {"9": {"content": "<m>", "lstrip": true}}}',
            ),
            "its token '<m>' has lstrip, which is not supported",
        ),
        (lambda f: break_file(f, "simple.txt.gz", b"no gzip") / "simple.txt.gz", "not a tokenizer"),
        (
            lambda f: break_file(f, "model.bin", b"") / "model.bin",
            "need tokenizer.json, vocab.json",
        ),
    ],
)
def test_bad_tokenizer_files_are_one_line(make, message, tmp_path):
    folder = write_old(tmp_path / "old", small_merges())
    with pytest.raises(UserError, match=message) as caught:
        clip_tokenizer(make(folder))
    assert "\n" not in str(caught.value)
