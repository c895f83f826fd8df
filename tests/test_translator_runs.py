"""Translators trained by the command's own way: resumed, on several devices, used and measured."""

import functools

import jax
import numpy as np
import pytest
import tiny_runs
from ml_collections import ConfigDict

from ddpm_jax import experiment
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files, defaults
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt
from ddpm_jax.runtime import sharding

FIELDS = {
    "data": {
        "name": "shapes",
        "image_size": (16, 16),
        "channels": 3,
        "batch_size": 8,
        "options": {"max_objects": 1},
    },
    "model": {
        "channels": 8,
        "num_groups": 4,
        "num_blocks": 1,
        "num_halvings": 1,
        "discriminator_channels": 4,
        "discriminator_layers": 1,
    },
    "optim": {"learning_rate": 1e-3},
    "ema": {"decay": 0.5},
    "train": {
        "num_steps": 4,
        "log_every": 1,
        "checkpoint_every": 2,
        "validate_every": 2,
        "validate_examples": 16,
        "min_free_gb": 0.0,
    },
    "mesh": {"data": 1},
}


def translator(**changes) -> ConfigDict:
    """The tiny config, changed."""
    names = {**FIELDS, **changes}
    groups = {name: FIELDS.get(name, {}) | changes.get(name, {}) for name in names}
    return config_files.override(defaults.get_config("translator"), groups)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("translator") / "run"
    assert train.train(translator(), workdir) == 0
    return workdir


def test_a_stopped_one_ends_with_the_same_bits(run, tmp_path):
    assert train.train(translator(), tmp_path, until=3) == 75
    assert train.train(translator(), tmp_path) == 0
    assert tiny_runs.final(tmp_path) == tiny_runs.final(run)
    (first, *_) = [line for line in tiny_runs.metrics(run) if "generators_loss" in line]
    assert {"discriminators_loss", "generators_grad_norm"} <= {*first}


@functools.cache
def first_step(**changes):
    """Loss and parameters of one step of plain descent from the same start."""
    plain = {"name": "sgd", "learning_rate": 0.1, "options": {}}
    built = experiment.build(translator(optim=plain, **dict(changes)))
    batch = attempt.training_batches(built, built.source("train")).batch_at(0)
    batch = sharding.put_batch(batch, sharding.batch_sharding(built.mesh))
    state, metrics = built.train_step()(built.init_state(), batch)
    return jax.device_get((metrics["loss"], state.params))


@pytest.mark.wide(2)
@pytest.mark.parametrize(
    "changes",
    [{"mesh": {"data": 8}}, {"train": FIELDS["train"] | {"accumulate": 4}}],
    ids=["devices", "parts"],
)
def test_devices_and_parts_change_nothing(changes):
    found, want = first_step.__wrapped__(**changes), first_step()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, want)


def test_images_are_translated_and_measured(run):
    loaded = experiment.load(run)
    source = loaded.experiment.source("validation")
    images = np.stack([source[k]["image"] for k in range(3)])
    made = loaded.translate(images, to=1)
    assert made.shape == images.shape
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(loaded.translate(images[:1], to=1), made[:1])
    assert (loaded.translate(images, to=0) != made).any()
    with pytest.raises(UserError, match=r"to=2: this run translates between the classes \(0, 1\)"):
        loaded.translate(images, to=2)
    with pytest.raises(UserError, match="this run is a translator, which draws no images"):
        loaded.sample(1)
    report = evaluate.evaluate(str(run))
    figures = report["held_out_data"]["metrics"]
    names = {name.removeprefix("translation_") for name in figures}
    assert names == {"translated", "to_the_class", "kept", "back"}
    assert figures["translation_back"]["value"] > 0
    assert [*(run / "eval").glob("*translations.png")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"sorts": (1, 1)}}, r"config.objective.sorts=\(1, 1\): need the labels"),
        ({"objective": {"game": "l"}}, "config.objective.game='l'"),
        ({"objective": {"cycle_weight": -1.0}}, "cycle_weight=-1.0: need a finite number"),
        ({"model": {"num_halvings": 5}}, "num_halvings=5: images of 16x16 do not halve"),
        ({"model": {"num_groups": 3}}, "config.model.num_groups=3: does not divide the 8"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        experiment.build(translator(**changes))
