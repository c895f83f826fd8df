"""GANs trained by the command's own way: resumed, on several devices, drawn from and measured."""

import functools
import math

import jax
import numpy as np
import pytest
import tiny_runs
from ml_collections import ConfigDict

from ddpm_jax import experiment
from ddpm_jax.build import replicas
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files, defaults
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt
from ddpm_jax.runtime import sharding

FIELDS = {
    "data": {"name": "digits", "image_size": (8, 8), "channels": 1, "batch_size": 16},
    "model": {"channels": 8, "latent_size": 5, "num_groups": 4, "num_classes": 10},
    "optim": {"learning_rate": 1e-3},
    "ema": {"decay": 0.9},
    "train": {
        "num_steps": 6,
        "log_every": 1,
        "checkpoint_every": 3,
        "sample_every": 0,
        "validate_every": 3,
        "validate_examples": 32,
        "min_free_gb": 0.0,
    },
    "sample": {"batch_size": 16, "grid_size": 4},
    "mesh": {"data": 1},
}
SORTS = {
    "told": {},
    "untold": {
        "model": FIELDS["model"] | {"num_classes": 0, "discriminator_channels": 4},
        "objective": {"game": "hinge", "gradient_penalty": 0.0, "discriminator_steps": 2},
        "optim": FIELDS["optim"] | {"discriminator_learning_rate": 2e-3},
        "train": FIELDS["train"] | {"sample_every": 3},
    },
}


def gan(sort="told", **changes) -> ConfigDict:
    """The tiny config of a sort, changed."""
    groups = {**FIELDS, **SORTS[sort]}
    groups = {name: groups.get(name, {}) | changes.get(name, {}) for name in {**groups, **changes}}
    return config_files.override(defaults.get_config("gan"), groups)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """sort -> the workdir of a run that nothing stopped."""

    @functools.cache
    def run(sort):
        workdir = tmp_path_factory.mktemp(sort) / "run"
        assert train.train(gan(sort), workdir) == 0
        return workdir

    return run


@pytest.mark.parametrize("sort", SORTS)
def test_a_stopped_one_ends_with_the_same_bits(sort, runs, tmp_path):
    assert train.train(gan(sort), tmp_path, until=4) == 75
    assert train.train(gan(sort), tmp_path) == 0
    assert tiny_runs.final(tmp_path) == tiny_runs.final(runs(sort))


def test_the_generator_moves_after_so_many_steps_of_the_discriminator(runs):
    lines = [line for line in tiny_runs.metrics(runs("untold")) if "generator_loss" in line]
    moved = [math.isfinite(line["generator_loss"] or math.nan) for line in lines]
    assert moved == [True, False] * 3
    assert [line["discriminator_learning_rate"] for line in lines] == pytest.approx([2e-3] * 6)
    assert [line["generator_learning_rate"] for line in lines] == pytest.approx([1e-3] * 6)


def test_the_decay_of_each_player_ends_with_the_run():
    decayed = {"decay": "linear", "discriminator_learning_rate": 2e-3}
    built = experiment.build(gan("untold", optim=decayed))
    rates = {name: one.learning_rate for name, one in built.players.items()}
    assert rates["discriminator"](3) == pytest.approx(1e-3)  # half of its six moves
    assert rates["generator"](3) == 0  # all of its three


@functools.cache
def first_step(sort, **changes):
    """Loss and parameters of one step of plain descent from the same start."""
    plain = {"name": "sgd", "learning_rate": 0.1, "options": {}}
    built = experiment.build(gan(sort, optim=plain, **dict(changes)))
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
    found, want = first_step.__wrapped__("told", **changes), first_step("told")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, want)


def test_an_image_is_of_its_number_label_and_temperature(runs):
    loaded = experiment.load(runs("told"))
    images = loaded.sample(6, labels=[3, 4], seed=1)
    assert images.shape == (6, 8, 8, 1)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(loaded.sample(2, labels=[3, 4], seed=1), images[:2])
    assert (loaded.sample(6, labels=[5, 4], seed=1)[0] != images[0]).any()
    cold = loaded.sample(6, labels=[3], seed=1, temperature=1e-6)
    assert np.ptp(cold.astype(int), axis=0).max() <= 1  # without noise a class is one image
    assert loaded.nfe() == 1
    for options, message in [
        ({"guidance_scale": 2.0}, "config.sample.guidance_scale=2.0: a GAN makes an image of"),
        ({"task": experiment.Task(frames=3)}, "frames: a GAN makes an image of noise in one pass"),
        ({"sampler": "ddim"}, "no such config field sample.sampler"),
        ({"temperature": -1.0}, "config.sample.temperature=-1.0: need a finite number above 0"),
        ({"prompts": ["a"]}, "reads no text"),
    ]:
        with pytest.raises(UserError, match=message):
            loaded.sample(2, **options)
    assert experiment.load(runs("untold")).sample(3).shape == (3, 8, 8, 1)


def loaded_size(workdir):
    return experiment.load(workdir).experiment.config.model.latent_size


@pytest.mark.wide(2)
@pytest.mark.parametrize("sort", SORTS)
def test_its_samples_are_measured_as_any_others(sort, runs):
    metrics = ["fid", "prdc", "class_histogram", "cost", "model_size"]
    metrics += ["label_accuracy"] * (sort == "told")
    report = evaluate.evaluate(str(runs(sort)), num_samples=40, metrics=metrics)
    (row,) = report["samples"]
    assert row["nfe"] == row["metrics"]["cost_passes"]["value"] == 1
    assert row["metrics"]["model_size_noise"]["value"] == loaded_size(runs(sort))
    assert {"fid", "coverage", "class_histogram", "classes_lost"} <= {*row["metrics"]}
    assert [*(runs(sort) / "eval").glob("*classes.png")]
    assert ("label_accuracy" in row["metrics"]) == (sort == "told")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"game": "wgan"}}, "config.objective.game='wgan'"),
        ({"objective": {"discriminator_steps": 0}}, "discriminator_steps=0: need at least 1"),
        ({"objective": {"gradient_penalty": -1.0}}, "gradient_penalty=-1.0: need a finite"),
        ({"model": {"num_groups": 3}}, "config.model.num_groups=3: does not divide the 8"),
        ({"data": {"image_size": (9, 8)}}, "config.data.image_size: image size 9x8"),
        ({"model": {"latent_size": 0}}, "config.model.latent_size=0: need at least 1"),
        (
            {"optim": {"spike_sigma": 3.0}, "objective": {"discriminator_steps": 2}},
            "spike_sigma=3.0",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        experiment.build(gan(**changes))


def test_a_game_trains_alone_where_runs_are_grouped():
    assert replicas.trains_alone(gan())
    with pytest.raises(
        UserError, match=r"train\.replicas=2: a run of several players trains alone"
    ):
        replicas.check(gan(), 2)
