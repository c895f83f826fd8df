"""Captions as tokens in the batches of a run: made once, kept in its workdir, read back."""

import json
import shutil

import numpy as np
import pytest
import tiny_runs
from PIL import Image

from ddpm_jax import data, experiment
from ddpm_jax.build import texts
from ddpm_jax.commands.reproduce import reproduce
from ddpm_jax.commands.train import dry_run, train
from ddpm_jax.config import config_files, defaults
from ddpm_jax.data import tokenizers
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt

WORDS = ("red", "green", "blue", "tiny", "wide")


@pytest.fixture
def images(tmp_path):
    """Twenty grey images with a caption each."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for k in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{k:02d}.png")
        lines.append(f"{k:02d}.png,{WORDS[k % 5]} {WORDS[k % 3]} picture")
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


def config(images, **changes):
    groups = {
        "data": {
            "name": "captions",
            "data_dir": str(images),
            "tokenizer": "words",
            "vocabulary": 32,
            "context": 6,
        },
        "model": {
            "num_classes": 0,
            "conditions": ("text",),
            "text_channels": 8,
            "text_blocks": 1,
            "text_heads": 2,
        },
        "diffusion": {"label_dropout": 0.0},
        "sample": {"guidance_scale": 1.0},
    }
    for group, fields in changes.items():
        groups[group] = groups.get(group, {}) | fields
    return tiny_runs.brief_config(**groups)


def test_names_of_what_is_learned_are_no_paths():
    assert set(config_files.LEARNED_TOKENIZERS) == set(texts.LEARNED)


@pytest.mark.wide(3)
def test_a_run_keeps_the_tokenizer_of_its_captions(images, tmp_path):
    c = config(images, train={"num_steps": 4, "validate_every": 4})
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert train.train(c, straight) == 0
    stored = tokenizers.load(straight / "tokenizer.json")
    source = experiment.build(config_files.resolve(c)).source("train")
    # What the words' numbers mean: every word of the training split, and none that is not.
    said = {word for caption in data.captions_of(source) for word in caption.split()}
    assert set(stored.content["vocabulary"]) == said
    entry = json.loads((straight / "manifest.json").read_text())["attempts"][-1]
    assert entry["data"]["tokenizer"] == stored.digest

    assert train.train(c, stopped, until=2) == 75
    before = (stopped / "tokenizer.json").read_bytes()
    # Read back, not learned again: a file of the same content that was written otherwise stays.
    (stopped / "tokenizer.json").write_text(json.dumps(json.loads(before), indent=1))
    assert train.train(c, stopped) == 0
    assert tiny_runs.final(stopped) == tiny_runs.final(straight)
    assert "\n" in (stopped / "tokenizer.json").read_text().strip()

    loaded = experiment.load(straight)
    assert loaded.experiment.tokenizer.digest == stored.digest
    batches = attempt.training_batches(loaded.experiment, source)
    batch = batches.batch_at(0)
    captions = [source[place]["caption"] for place in batches.example_ids(0)]
    np.testing.assert_array_equal(batch["text"], stored(captions, 6))
    shape = loaded.experiment.batch_shapes()["text"]
    assert (shape.shape, shape.dtype) == (batch["text"].shape, batch["text"].dtype)
    result, code = reproduce.reproduce(straight / "manifest.json", tmp_path / "again")
    assert (result["equal"], code) == (True, 0)


@pytest.mark.wide(3)
def test_a_run_without_its_tokenizer_does_not_go_on(images, tmp_path):
    c = config(images)
    assert train.train(c, tmp_path / "run", until=2) == 75
    (tmp_path / "run" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer at .*tokenizer\.json"):
        train.train(c, tmp_path / "run")
    with pytest.raises(UserError, match="no tokenizer at"):
        experiment.load(tmp_path / "run")
    other = tokenizers.word_level(["another", "one"])
    tokenizers.save(tmp_path / "run" / "tokenizer.json", other)
    with pytest.raises(UserError, match=r"tokenizer\.json is not the one that the run was trained"):
        experiment.load(tmp_path / "run")
    with pytest.raises(UserError, match=r"tokenizer\.json is not the one that the run began with"):
        train.train(c, tmp_path / "run", allow_drift=["data.fingerprint"])
    with pytest.raises(UserError, match=r"data\.context: 6 .int. there, 7"):
        train.train(config(images, data={"context": 7}), tmp_path / "run")
    with pytest.raises(UserError, match="a run keeps the tokenizer that it began with"):
        train.train(
            config(images, data={"tokenizer": "bytes"}),
            tmp_path / "run",
            allow_drift=["data.tokenizer"],
        )


@pytest.mark.wide(3)
def test_a_group_has_one_tokenizer(images, tmp_path):
    c = config(images, train={"num_steps": 2, "replicas": 2})
    assert train.train(c, tmp_path) == 0
    one, other = (tmp_path / "replicas" / f"seed={s}" / "tokenizer.json" for s in (0, 1))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.wide(3)
def test_the_cost_is_told_with_text(images):
    told = dry_run.dry_run(config(images))
    assert told["batch"]["text"] == "int32[8, 6]"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"name": "digits"}, "config.data.name=digits: these data have no captions"),
        ({"flip": True}, "config.data.flip=True: a mirrored image keeps its caption"),
        ({"augment": ("flip",)}, "config.data.augment=.*mirrored image keeps its caption"),
        ({"vocabulary": 4}, "config.data.vocabulary=4: need at least 5"),
        ({"context": 1}, "config.data.context=1: need at least 2"),
        ({"tokenizer": "bytes"}, "config.data.vocabulary=32: size=32: .* at least 515"),
        ({"tokenizer": "byts"}, "config.data.tokenizer=.*byts: no such file; .* 'bytes'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(images, tmp_path, fields, line):
    with pytest.raises(UserError, match=line):
        train.train(config(images, data=fields), tmp_path / "run")


@pytest.mark.wide(2)
def test_files_of_clip_say_how_many_tokens_they_have(images, tmp_path):
    path = tmp_path / "merges.txt"
    path.write_text("#version: 0.2\n")
    vocabulary = {token: n for n, token in enumerate((*tokenizers.bpe.ALPHABET, "<|startoftext|>"))}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    fields = {"tokenizer": str(tmp_path / "vocab.json")}
    with pytest.raises(UserError, match="has 514 tokens; set it to 514"):
        train.train(config(images, data=fields), tmp_path / "run")
    fields |= {"vocabulary": 514}
    assert train.train(config(images, data=fields), tmp_path / "run", until=2) == 75
    (tmp_path / "vocab.json").unlink()  # the run has its own copy
    assert train.train(config(images, data=fields), tmp_path / "run") == 0
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match=r"vocab\.json: no such file"):
        train.train(config(images, data=fields), tmp_path / "run")


def test_a_kind_that_reads_no_text_takes_no_tokenizer(images):
    with pytest.raises(UserError, match="tokenizer=words: this diffusion model reads no text"):
        experiment.build(config(images, model={"conditions": ()}))
    assert "tokenizer" not in defaults.get_config("classifier").data
