"""Captions beside images, in files and in batches."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import codecs
from ddpm_jax.data import (
    ArraySource,
    Batches,
    DataInfo,
    Dataset,
    build_source,
    captioned_folder,
    captions_of,
    dataset,
    encode_texts,
    evaluation_batches,
    fingerprint,
    shapes,
    tokenizers,
)
from ddpm_jax.errors import UserError

COLOURS = {"red.png": (200, 0, 0), "blue.png": (0, 0, 200), "deep/green.png": (0, 200, 0)}
CAPTIONS = {
    "red.png": "a red, plain picture",
    "blue.png": "ein blaues Bild: größer",
    "deep/green.png": "green",
}


@pytest.fixture
def images(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (6, 6), colour).save(tmp_path / name)
    return tmp_path


def write(images, layout):
    if layout == "csv":
        rows = [f'{name},"{text}"' for name, text in CAPTIONS.items()]
        (images / "captions.csv").write_text("\n".join(["file,caption", *rows]))
    elif layout == "jsonl":
        entries = [{"file_name": name, "text": text} for name, text in CAPTIONS.items()]
        lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
        (images / "captions.jsonl").write_text("\n".join(lines) + "\n\n")
    else:
        for name, text in CAPTIONS.items():
            (images / name).with_suffix(".txt").write_text(f"{text}\n")


def read(folder, **options):
    return captioned_folder(folder, "train", (4, 4), 3, **{"holdout": 0.0, **options})


@pytest.mark.parametrize("layout", ["csv", "jsonl", "txt"])
def test_each_image_has_its_caption(images, layout):
    write(images, layout)
    source = read(images)
    assert captions_of(source) == [CAPTIONS[name] for name in sorted(CAPTIONS)]
    for k, name in enumerate(sorted(CAPTIONS)):
        example = source[k]
        assert example["caption"] == CAPTIONS[name]
        np.testing.assert_array_equal(example["image"][0, 0], COLOURS[name])
        assert example["label"] == -1
    options = {"image_size": (4, 4), "channels": 3, "data_dir": str(images), "holdout": 0.0}
    assert fingerprint(build_source("captions", "train", **options)) == fingerprint(source)


def test_several_captions_of_an_image_are_several_examples_of_one_split(images):
    lines = [f"{name},caption {n}" for n in range(5) for name in CAPTIONS]
    (images / "captions.csv").write_text("\n".join(lines))
    train, held_out = (
        captioned_folder(images, split, (4, 4), 3, holdout=0.3) for split in ("train", "validation")
    )
    assert (len(train), len(held_out)) in ((10, 5), (5, 10))
    pixels = [
        {source[k]["image"].tobytes() for k in range(len(source))} for source in (train, held_out)
    ]
    assert not pixels[0] & pixels[1]
    assert captions_of(held_out)[:5] == [f"caption {n}" for n in range(5)]


def test_a_caption_is_part_of_the_fingerprint(images):
    write(images, "csv")
    before = fingerprint(read(images))
    text = (images / "captions.csv").read_text()
    (images / "captions.csv").write_text(text.replace('"green"', '"grown"'))
    assert fingerprint(read(images)) != before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("captions.csv", b"red.png,a\nblue.png,b\n", "no caption for 'deep/green.png' .1 such"),
        ("captions.csv", b"gone.png,a\n", "line 1: no such image: 'gone.png'"),
        ("captions.csv", b"red.png,a,b\n", "line 1: write relative/path,caption, a caption with"),
        ("captions.csv", b"red.png,\n", "line 1: the caption is empty"),
        ("captions.csv", "red.png,größer".encode("latin-1"), "not a captions file .*utf-8"),
        ("captions.jsonl", b'{"file_name": "red.png"}\n', 'line 1: .*no text "caption"'),
        ("captions.jsonl", b'{"file": "red.png", "text": 3}\n', 'line 1: .*no text "caption"'),
        ("captions.jsonl", b'\n{"file_name": \n', "line 2: write"),
        ("captions.jsonl", b'["red.png", "a"]\n', 'no text "file_name"'),
        ("captions.jsonl", b'{"file": "red.png", "text": "\\ud800"}\n', "lone surrogate"),
        ("captions.jsonl", b'{"file": "red.png", "text": "a\\u0000"}\n', "caption is broken"),
        ("captions.jsonl", '{"file": "red.png", "text": "ö"}'.encode("latin-1"), "utf-8"),
        ("red.txt", b"a", "blue.png has no caption: write captions.csv or .*blue.txt beside it"),
        ("blue.txt", b"\xff", "blue.txt is not a caption in UTF-8"),
        ("blue.txt", b" \n", "blue.txt: the caption is empty"),
    ],
)
def test_bad_captions_are_one_line(images, file, content, message):
    (images / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(images)
    assert "\n" not in str(caught.value)


def test_two_captions_files_must_be_told_apart(images):
    write(images, "csv")
    write(images, "jsonl")
    with pytest.raises(UserError, match=r"captions.csv and captions.jsonl: name one"):
        read(images)
    assert len(read(images, captions_file="captions.jsonl")) == 3
    with pytest.raises(UserError, match="no such captions file"):
        read(images, captions_file="other.csv")
    with pytest.raises(UserError, match=r"data.name=captions needs data.data_dir"):
        build_source("captions", "train", image_size=(4, 4), channels=3)


def test_a_skipped_image_brings_the_caption_of_its_replacement(images):
    write(images, "txt")
    (images / "blue.png").write_bytes(b"broken")
    source = read(images, on_error="skip")
    assert source[0]["caption"] == CAPTIONS["deep/green.png"]
    assert captions_of(source)[0] == CAPTIONS["blue.png"]


@pytest.fixture(scope="module")
def texts():
    source = shapes("train", 16, captions="varied")
    return encode_texts(tokenizers.train_byte_pair(captions_of(source, 500), 600), 24)


def batches(texts, **options):
    source = shapes("train", 16, captions="varied")
    encode = codecs.pixels((16, 16, 3)).encode_batch
    return Batches(source, 8, 3, encode=encode, encode_texts=texts, **options)


def test_a_batch_has_the_tokens_of_its_captions(texts):
    source = shapes("train", 16, captions="varied")
    tokenizer = tokenizers.train_byte_pair(captions_of(source, 500), 600)
    whole = batches(texts)
    batch = whole.batch_at(5)
    assert (batch["text"].dtype, batch["text"].shape) == (np.int32, (8, 24))
    said = [tokenizer.decode(row) for row in batch["text"]]
    expected = [source.caption(k).replace(",", " ,") for k in whole.example_ids(5)]
    assert said == expected
    # Resumed, read ahead by threads, and in two processes: the same rows.
    resumed = next(batches(texts).iterate(5, num_threads=2))
    np.testing.assert_array_equal(resumed["text"], batch["text"])
    halves = [batches(texts, process_index=k, process_count=2).batch_at(5)["text"] for k in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves), batch["text"])
    held_out = shapes("validation", 16, length=6)
    encode = codecs.pixels((16, 16, 3)).encode_batch
    rows = [b["text"] for b in evaluation_batches(held_out, 4, encode=encode, encode_texts=texts)]
    np.testing.assert_array_equal(np.concatenate(rows)[:6], texts(captions_of(held_out)))


def test_captions_that_do_not_fit_are_reported_once(caplog):
    tokenizer = tokenizers.train_word_level(["a red circle"])
    encode = encode_texts(tokenizer, 4)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            encode(["a red circle", "a blue circle"])
    assert len(caplog.messages) == 1
    assert "cut off is 'circle'; further ones are not reported" in caplog.messages[0]


INFO = DataInfo((4, 4, 1), 0, 256, ())


def silent(split):
    return ArraySource(np.zeros((2, 4, 4, 1), np.uint8), np.full(2, -1), INFO)


def test_data_without_captions_are_refused(texts):
    with pytest.raises(UserError, match="these data have no captions; choose"):
        captions_of(silent("train"))
    encode = codecs.pixels((4, 4, 1)).encode_batch
    with pytest.raises(UserError, match="have no captions"):
        Batches(silent("train"), 2, 0, encode=encode, encode_texts=texts).batch_at(0)
    size = {"image_size": (4, 4), "channels": 1}
    with pytest.raises(UserError, match=r"silent: its first caption is 'None' .NoneType"):
        build_source("silent", "train", own=Dataset(silent, captions=True), **size)
    with pytest.raises(UserError, match=r"'caption'.: this name has another meaning"):
        dataset(silent, conditions={"caption": ("a", "b")})
