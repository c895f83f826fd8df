"""Images that a model of latents is told: folded to their size, beside them or in control."""

import jax
import numpy as np
import pytest
import tiny_runs
from ml_collections import ConfigDict

from ddpm_jax import experiment
from ddpm_jax.build import latent_cache
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files, defaults
from ddpm_jax.errors import UserError

SHARED = {
    "data": {"name": "shapes", "image_size": (16, 16), "channels": 3, "batch_size": 8},
    "optim": {"learning_rate": 1e-3, "warmup_steps": 0},
    "ema": {"decay": 0.9},
    "train": {
        "num_steps": 3,
        "log_every": 1,
        "checkpoint_every": 3,
        "sample_every": 0,
        "validate_every": 3,
        "validate_examples": 16,
        "min_free_gb": 0.0,
    },
    "sample": {"batch_size": 16},
    "mesh": {"data": 1},
}
TINY = {"channels": 8, "channel_multipliers": (1, 2), "num_blocks": 1, "num_groups": 4}
IMAGES = ("outline", "palette")
TOLD = {"conditions": IMAGES, "control": ("outline",)}


def config_of(kind="denoiser", **changes) -> ConfigDict:
    groups = {name: SHARED.get(name, {}) | changes.get(name, {}) for name in {**SHARED, **changes}}
    return config_files.override(defaults.get_config(kind), groups)


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """The workdir of an autoencoder of 8x8 latents."""
    workdir = tmp_path_factory.mktemp("codec") / "run"
    config = config_of("autoencoder", model={**TINY, "latent_channels": 2, "mid_attention": False})
    assert train.train(config, workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def told(codec):
    """Changes of a diffusion of its latents that is told images -> the config."""

    def told(data=(), model=(), **changes):
        return config_of(
            data={"codec": str(codec), "latent_shape": (8, 8, 2), **dict(data)},
            model={**TINY, "attention_resolutions": (), **TOLD, **dict(model)},
            diffusion={"num_steps": 10, "condition_dropout": (0.1, 0.1)},
            sample={"clip_x0": False, "sampler": "ddim", "num_steps": 2},
            **changes,
        )

    return told


@pytest.fixture(scope="module")
def run(told, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("told") / "run"
    assert train.train(told(), workdir) == 0
    return workdir


def test_it_resumes_to_the_same_bits(told, run, tmp_path):
    assert train.train(told(), tmp_path / "run", until=2) == 75
    assert train.train(told(), tmp_path / "run") == 0
    assert tiny_runs.final(tmp_path / "run") == tiny_runs.final(run)


def moved(run):
    """The trained model with a last layer and a branch that count, as after a long training."""
    loaded = experiment.load(run, raw_params=True)
    rng = np.random.default_rng(0)

    def kick(path, leaf):
        name = jax.tree_util.keystr(path)
        small = any(part in name for part in ("conv_out", "zero_", "hint_out"))
        return leaf + (0.3 * rng.standard_normal(leaf.shape).astype(np.float32) if small else 0)

    object.__setattr__(loaded, "params", jax.tree_util.tree_map_with_path(kick, loaded.params))
    return loaded


def test_samples_are_of_the_images_that_they_are_told(run):
    loaded = moved(run)
    rng = np.random.default_rng(1)
    given = {
        "outline": rng.integers(0, 2, (16, 16, 1)).astype(bool),
        "palette": rng.integers(0, 256, (16, 16, 3)).astype(np.uint8),
    }
    whole = loaded.sample(2, conditions=given)
    assert whole.shape == (2, 16, 16, 3)
    for name, image in given.items():
        other = {**given, name: image[::-1]}
        assert (loaded.sample(2, conditions=other) != whole).any(), name
        without = {n: one for n, one in given.items() if n != name}
        assert (loaded.sample(2, conditions=without) != whole).any(), name
    with pytest.raises(UserError, match=r"condition outline: need an image of \(16, 16, 1\), got"):
        loaded.sample(1, conditions={"outline": np.zeros((8, 8, 1))})


def test_what_controls_it_is_measured(run):
    report = evaluate.evaluate(str(run), metrics=["controlled"], num_samples=8)
    assert "controlled" in report["samples"][0]["metrics"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"latent_shape": (8, 6, 2)}},
            r"latent_shape=\(8, 6, 2\): conditions that are images of 16x16 are folded",
        ),
        (
            {"model": {"conditions": ("low_resolution",), "control": ()}},
            "low_resolution is enlarged to the size of pixels, and this run has latents",
        ),
    ],
)
def test_what_does_not_fold_is_refused_by_name(told, changes, message):
    config = told(**changes)
    config.diffusion.condition_dropout = ()
    with pytest.raises(UserError, match=message):
        experiment.build(config)


def test_latents_that_are_kept_beforehand_have_no_images_beside_them(told):
    built = experiment.build(told(data={"cache_latents": True}))
    with pytest.raises(UserError, match=r"outline is an image, and config\.data\.cache_latents"):
        latent_cache.check(built)
