"""Autoencoders that are told how images look: by LPIPS from a file, by another run's classifier."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny_runs
from test_autoencoder_runs import autoencoder

from ddpm_jax import experiment
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.models import perceptual


@pytest.fixture(scope="module")
def lpips(tmp_path_factory):
    """A file of weights of LPIPS, random ones."""
    rng, tensors = np.random.default_rng(5), {}
    shapes = perceptual.shapes("vgg")
    for number, own in shapes["trunk"].items():
        kernel = rng.standard_normal(own["kernel"]) / np.sqrt(np.prod(own["kernel"][:3]))
        tensors[f"features.{number}.weight"] = kernel.transpose(3, 2, 0, 1)
        tensors[f"features.{number}.bias"] = np.zeros(own["bias"])
    for k, (width,) in shapes["weights"].items():
        tensors[f"lin{k}.model.1.weight"] = np.full((1, width, 1, 1), 0.1)
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    tensors = {n: np.array(t, np.float32, order="C") for n, t in tensors.items()}
    safetensors.numpy.save_file(tensors, path)
    return path


@pytest.mark.wide(2)
def test_how_images_look_counts_by_weights_that_the_run_keeps(lpips, tmp_path):
    file = tmp_path / "lpips.safetensors"
    shutil.copy(lpips, file)
    looks = {
        "data": {"name": "shapes", "image_size": (16, 16), "channels": 3, "batch_size": 4},
        "objective": {"perceptual": str(file), "perceptual_weight": 0.5},
        "train": {"num_steps": 3, "validate_every": 0, "sample_every": 0},
    }
    config = autoencoder(**looks)
    assert train.train(config, tmp_path / "whole") == 0
    assert train.train(config, tmp_path / "run", until=2) == 75
    file.unlink()
    assert train.train(config, tmp_path / "run") == 0
    assert tiny_runs.final(tmp_path / "run") == tiny_runs.final(tmp_path / "whole")
    without = autoencoder(**looks | {"objective": {}})
    assert train.train(without, tmp_path / "without") == 0
    first = [tiny_runs.metrics(tmp_path / name)[0]["loss"] for name in ("whole", "without")]
    assert first[0] > first[1]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A run of a classifier of the same digits."""
    workdir = tmp_path_factory.mktemp("classifier") / "run"
    config = tiny_runs.tiny_config(kind="classifier", train={"num_steps": 2, "validate_every": 0})
    assert train.train(config, workdir) == 0
    return workdir


@pytest.mark.wide(2)
def test_a_classifiers_features_tell_how_images_look(classifier, tmp_path):
    copied = tmp_path / "classifier"
    shutil.copytree(classifier, copied)
    looks = {
        "objective": {"perceptual": str(copied), "perceptual_weight": 0.5},
        "train": {"num_steps": 3, "validate_every": 0, "sample_every": 0},
    }
    config = autoencoder(**looks)
    assert train.train(config, tmp_path / "whole") == 0
    assert train.train(config, tmp_path / "run", until=2) == 75
    shutil.rmtree(copied)
    assert train.train(config, tmp_path / "run") == 0
    assert tiny_runs.final(tmp_path / "run") == tiny_runs.final(tmp_path / "whole")
    frozen = experiment.load(tmp_path / "run").experiment.frozen["perceptual"]
    own = experiment.load(classifier)
    jax.tree.map(np.testing.assert_array_equal, frozen.params, own.params)
    entry = json.loads((tmp_path / "run" / "manifest.json").read_text())["attempts"][-1]
    assert [*entry["frozen"]] == ["perceptual"]
    # The first loss is that of the distance alone and half of how different the images look.
    assert train.train(autoencoder(**looks | {"objective": {}}), tmp_path / "without") == 0
    first = [tiny_runs.metrics(tmp_path / name)[0]["loss"] for name in ("whole", "without")]
    assert first[0] > first[1]
    (tmp_path / "run" / "perceptual.json").write_text('{"sha256": {}}')
    with pytest.raises(UserError, match="what tells how images look that this run keeps cannot"):
        experiment.load(tmp_path / "run")


def test_runs_that_are_no_classifier_of_such_images_are_refused(classifier, tmp_path):
    once = {"num_steps": 1, "validate_every": 0, "sample_every": 0}
    assert train.train(autoencoder(train=once), tmp_path / "other") == 0
    (tmp_path / "empty").mkdir()
    larger = {"data": {"name": "shapes", "image_size": (16, 16), "channels": 3}}
    for named, changes, message in [
        (tmp_path / "other", {}, "that run is an autoencoder; name the workdir of a classifier"),
        (classifier, larger, r"sees images of \(8, 8, 1\), and these are \(16, 16, 3\)"),
        (tmp_path / "empty", {}, "no run lies there; name a classifier's workdir, or a file"),
    ]:
        config = autoencoder(**{"objective": {"perceptual": str(named)}, **changes})
        with pytest.raises(UserError, match=message):
            train.train(config, tmp_path / "run")
        assert not (tmp_path / "run" / "config.json").exists()


def test_weights_of_looks_that_do_not_fit_are_refused(lpips, tmp_path):
    small = autoencoder(objective={"perceptual": str(lpips)})
    with pytest.raises(UserError, match=r"objective\.perceptual=.*images of 8x8 are too small"):
        train.train(small, tmp_path)
    nowhere = autoencoder(objective={"perceptual": "nowhere.safetensors"})
    with pytest.raises(UserError, match=r"objective\.perceptual=/.*nowhere.safetensors: no file"):
        train.train(nowhere, tmp_path)
    with pytest.raises(UserError, match="it is no part of a likelihood"):
        experiment.build(autoencoder("vae", objective={"perceptual": "x.safetensors"}))
