"""data.cache_text: what a frozen tower makes of captions, made once and read from disk."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_runs
from PIL import Image
from test_text_to_image import config_of_text

from ddpm_jax import data, experiment
from ddpm_jax.build import replicas, text_cache, texts
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt
from ddpm_jax.models.text import captions

WORDS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine pictures of six captions."""
    root = tmp_path_factory.mktemp("captioned")
    rng = np.random.default_rng(0)
    for k in range(9):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(root / f"{k}.png")
        text = f"a {WORDS[k % 3]} {('circle', 'cross')[k % 2]} number {k % 6}"
        (root / f"{k}.txt").write_text(text)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache directory of this test's own; returns the folder of texts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ddpm_jax" / "texts"


def config(folder, cached=True, **changes):
    groups = {
        "data": {
            "name": "captions",
            "data_dir": str(folder),
            "image_size": (16, 16),
            "channels": 3,
            "options": {"holdout": 0.2},
            "tokenizer": "bytes",
            "vocabulary": 560,
            "context": 24,
            "batch_size": 4,
            "cache_text": cached,
        },
        "model": {
            "num_classes": 0,
            "conditions": ("text",),
            "text_tower": "clip",
            "text_channels": 8,
            "text_blocks": 1,
            "text_heads": 2,
        },
        "train": {
            "num_steps": 4, "sample_every": 0, "validate_every": 4, "log_every": 1,
            "checkpoint_every": 2,
        },
        "optim": {"learning_rate": 0.03, "warmup_steps": 0, "frozen": ("text/*",)},
    }  # fmt: skip
    for group, fields in changes.items():
        groups[group] = groups.get(group, {}) | fields
    return config_of_text(**groups)


def losses(workdir):
    lines = tiny_runs.metrics(workdir)
    return np.array([v for line in lines for n, v in line.items() if n.endswith("loss")])


@pytest.mark.wide(3)
def test_a_cached_run_has_the_losses_of_one_that_runs_the_tower(folder, tmp_path, cache):
    for cached in (False, True):
        assert train.train(config(folder, cached), tmp_path / str(cached)) == 0
    plain, read = losses(tmp_path / "False"), losses(tmp_path / "True")
    assert len(plain) == 5  # four steps and a validation
    np.testing.assert_allclose(read, plain, rtol=1e-6)
    (kept,) = cache.iterdir()
    described = json.loads((kept / "description.json").read_text())
    run = experiment.load(tmp_path / "True")
    assert described["tokenizer"] == run.experiment.tokenizer.digest
    # Six captions that differ, in one file.
    assert [path.name for path in kept.glob("*.safetensors")] == ["0_6.safetensors"]
    assert run.sample(2, prompts=["a red circle"]).shape == (2, 16, 16, 3)


@pytest.mark.wide(6)
def test_a_stopped_one_ends_in_the_same_bits_and_mends_its_cache(folder, tmp_path, cache, capsys):
    assert train.train(config(folder), tmp_path / "straight") == 0
    assert train.train(config(folder), tmp_path / "stopped", until=3) == 75
    (part,) = Path(cache).glob("*/*.safetensors")
    content = bytearray(part.read_bytes())
    content[-5] ^= 1
    part.write_bytes(content)
    assert train.train(config(folder), tmp_path / "stopped") == 0
    assert f"{part} is damaged" in capsys.readouterr().err
    assert tiny_runs.final(tmp_path / "stopped") == tiny_runs.final(tmp_path / "straight")


def prepared(c):
    """The experiment with its tokenizer, its first parameters, and its training data."""
    built = experiment.build(c)
    source = built.source("train")
    built = texts.with_made(built, source)
    return built, built.init_params(jax.random.key(0)), source


@pytest.mark.wide(3)
def test_no_step_runs_the_tower(folder, monkeypatch):
    built, params, source = prepared(config(folder))
    cached = text_cache.with_states(built, params, [source, None])
    batch = attempt.training_batches(cached, source).batch_at(0)
    assert batch["text_states"].shape == (4, 24, 8)
    shapes = cached.batch_shapes()
    assert {name: array.shape for name, array in batch.items()} == {
        name: one.shape for name, one in shapes.items()
    }

    def never(*args, **options):
        raise AssertionError("the tower was called")

    monkeypatch.setattr(captions, "TextTransformer", never)
    trained = params | {"text": jax.tree.map(lambda leaf: leaf * np.nan, params["text"])}
    found = cached.objective(trained, batch, jax.random.key(1), True, {}).loss
    assert np.isfinite(found).all()
    del batch["text_states"]
    with pytest.raises(AssertionError, match="the tower was called"):
        cached.objective(params, batch, jax.random.key(1), True, {})


@pytest.mark.wide(3)
def test_states_are_the_towers_and_of_its_weights(folder, cache):
    built, params, source = prepared(config(folder))
    states = text_cache.with_states(built, params, [source, None]).text_states
    rows = built.encode_texts(data.captions_of(source))
    tower = captions.tower_of(built.model)
    expected = tower.apply({"params": params["text"]}, rows).last
    np.testing.assert_allclose(states.of(rows), expected, atol=1e-6)
    other = params | {"text": jax.tree.map(lambda leaf: leaf + 0.1, params["text"])}
    moved = text_cache.with_states(built, other, [source, None]).text_states
    assert np.abs(moved.of(rows) - states.of(rows)).max() > 1e-3
    assert len([*cache.iterdir()]) == 2
    with pytest.raises(UserError, match="a caption is not among those that were cached"):
        states.of(rows[:, ::-1].copy())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"optim": {"frozen": ()}}, r"freeze it, config.optim.frozen=\('text/\*',\), or set False"),
        ({"optim": {"frozen": ("text/encoder/*",)}}, "the tower of texts is trained"),
        (
            {"model": {"text_tower": "glide"}},
            "text_tower='glide' is no network by itself; set clip",
        ),
        ({"model": {"conditions": ()}}, "reads no text"),
        (
            {"data": {"name": "shapes", "data_dir": "", "options": {}}},
            "shapes has 2,147,483,647 examples, and the captions of at most",
        ),
    ],
)
def test_what_has_nothing_to_cache_is_refused(folder, tmp_path, changes, line):
    plain = config(folder)
    own = {group: {**plain[group]} | fields for group, fields in changes.items()}
    if "conditions" in changes.get("model", {}):
        own["data"] = {**plain.data} | {"tokenizer": ""}
        own |= {"diffusion": {"condition_dropout": ()}, "optim": {"frozen": ()}}
        own["sample"] = {"guidance_scale": 1.0}
    with pytest.raises(UserError, match=line):
        train.train(config(folder, **own), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_step_is_not_made_again_without_its_cache(folder):
    built = experiment.build(config(folder))
    with pytest.raises(UserError, match=r"^--replay_step=2: this run's steps read what was cached"):
        text_cache.check_alone(built, "--replay_step=2")
    plain = dataclasses.replace(built, config=config(folder, cached=False))
    text_cache.check_alone(plain, "--replay_step=2")


def test_a_group_has_none(folder):
    with pytest.raises(UserError, match=r"^config.data.cache_text=True: 2 runs in one program"):
        replicas.check(config(folder), 2)
    assert replicas.trains_alone(config(folder))
