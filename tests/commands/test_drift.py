"""What may differ between two starts of one run: by name, and nothing else."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_runs
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import drift
from ddpm_jax.training import state
from ddpm_jax.training.checkpoints import Checkpoints


def longer(seed=0, **changes):
    config = brief_config(**changes)
    config.train.num_steps = 8
    config.seed = seed
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of a run of six steps."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert train.train(brief_config(), workdir) == 0
    return workdir


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, to go on with."""
    return shutil.copytree(trained, tmp_path / "run")


def test_every_field_that_differs_is_named_with_its_type(trained):
    config = longer(
        seed=9,
        optim={"learning_rate": 0.01, "warmup_steps": 5},
        data={"batch_size": 4},
        diffusion={"schedule": "linear", "beta_end": 0.5},
    )
    before = tiny_runs.snapshot(trained)
    with pytest.raises(UserError) as refused:
        train.train(config, trained, allow_drift=["optim.warmup_steps"])
    said = str(refused.value)
    for line in (
        "seed: 0 (int) there, 9 (int) here",
        "optim.learning_rate: 0.001 (float) there, 0.01 (float) here",
        "data.batch_size: 8 (int) there, 4 (int) here",
        "diffusion.schedule: 'cosine' (str) there, 'linear' (str) here",
        "diffusion.schedule_options.beta_end: None there, 0.5 (float) here",
    ):
        assert line in said
    assert "warmup_steps" not in said
    assert "--allow_drift=data.batch_size,diffusion.schedule," in said
    assert tiny_runs.snapshot(trained) == before


@pytest.mark.wide(3)
def test_what_is_allowed_goes_on_and_is_taken_down(run):
    config = longer(seed=3, optim={"learning_rate": 0.01}, data={"flip": True})
    allowed = ["optim.learning_rate", "data.flip", "seed", "ema.decay"]  # the last one is the same
    assert train.train(config, run, allow_drift=allowed) == 0
    assert tiny_runs.final(run)["step"] == 8
    config.data.class_names = tuple("0123456789")  # which the data say
    assert config_files.read(run) == config_files.resolve(config)
    first, second = json.loads((run / "manifest.json").read_text())["attempts"]
    assert first["allowed_drift"] == []
    assert second["allowed_drift"] == [
        {"field": "data.flip", "there": False, "here": True},
        {"field": "optim.learning_rate", "there": 0.001, "here": 0.01},
        {"field": "seed", "there": 0, "here": 3},
    ]
    # The run key is that of the seed from there on.
    built = experiment.build(config)
    with Checkpoints(run, read_only=True) as saved:
        old, new = (saved.restore(step, built.state_shapes()).key for step in (6, 8))
    keys = [np.asarray(jax.random.key_data(key)).tolist() for key in (old, new)]
    params, optimizer = {"w": jnp.zeros(1)}, optax.identity()
    for seed, key in zip((0, 3), keys, strict=True):
        fresh = state.init_state(lambda _: params, optimizer, seed)
        assert jax.random.key_data(fresh.key).tolist() == key
    # It is this experiment's workdir from now on.
    assert train.train(config, run) == 0
    with pytest.raises(UserError, match=r"0\.01 \(float\) there, 0\.001 \(float\) here"):
        train.train(longer(seed=3, data={"flip": True}), run)


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ("optim.learning_rat", "no such config field; did you mean optim.learning_rate?"),
        ("learning_rate", "did you mean optim.learning_rate?"),
        ("data.fingerprin", "did you mean data.fingerprint?"),
        ("model.channels", "another network needs another workdir"),
    ],
)
def test_a_name_that_cannot_be_allowed_is_refused(trained, tmp_path, allowed, message):
    for workdir in (trained, tmp_path / "new"):
        with pytest.raises(UserError) as refused:
            train.train(longer(), workdir, allow_drift=[allowed])
        assert message in str(refused.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"diffusion": {"time_draw": "importance"}}, ["diffusion.time_draw"]),
        ({"optim": {"grad_clip": 0.0}}, ["optim.grad_clip"]),
        ({"diffusion": {"schedule": "learned", "loss": "continuous_vlb"},
          "sample": {"num_steps": 5}}, ["diffusion.schedule", "diffusion.loss"]),
    ],
    ids=["history", "optimiser", "parameters"],
)  # fmt: skip
def test_what_changes_the_arrays_of_the_state_is_refused(trained, changes, allowed):
    before = tiny_runs.snapshot(trained)
    with pytest.raises(UserError, match="other arrays") as refused:
        train.train(longer(**changes), trained, allow_drift=allowed)
    assert allowed[0] in str(refused.value)
    assert tiny_runs.snapshot(trained) == before


@pytest.mark.wide(6)
def test_other_images_in_the_same_folder_are_other_data(tmp_path):
    images = tiny_runs.images_of_digits(tmp_path / "images")
    data = {"name": "folder", "data_dir": str(images), "holdout": 0.0}
    config, more = brief_config(data=data), longer(data=data)
    assert train.train(config, tmp_path / "run") == 0
    (first,) = json.loads((tmp_path / "run" / "manifest.json").read_text())["attempts"]
    shutil.copytree(images, tmp_path / "elsewhere")
    shutil.copy(images / "0" / "0.png", images / "0" / "more.png")
    before = tiny_runs.snapshot(tmp_path / "run")
    with pytest.raises(UserError, match=r"data\.fingerprint: '.*--allow_drift=data\.fingerprint"):
        train.train(more, tmp_path / "run")
    assert tiny_runs.snapshot(tmp_path / "run") == before
    # The same images elsewhere are the same data.
    shutil.copytree(tmp_path / "run", tmp_path / "second")
    more.data.data_dir = str(tmp_path / "elsewhere")
    assert train.train(more, tmp_path / "second") == 0
    more.data.data_dir = str(images)
    assert train.train(more, tmp_path / "run", allow_drift=["data.fingerprint"]) == 0
    _, entry = json.loads((tmp_path / "run" / "manifest.json").read_text())["attempts"]
    there, here = first["data"]["train"], entry["data"]["train"]
    assert entry["allowed_drift"] == [{"field": drift.DATA, "there": there, "here": here}]
    assert there != here


@pytest.mark.parametrize("decay", ["cosine", "constant"])
@pytest.mark.wide(6)
def test_a_decaying_rate_that_is_stretched_is_told_and_taken_down(tmp_path, capsys, decay):
    """Half a cosine over 4 steps is at 0 where that over 8 is at half its peak."""
    optim = {"decay": decay, "warmup_steps": 0, "learning_rate": 1e-3}
    config = brief_config(optim=optim, train={"num_steps": 4})
    assert train.train(config, tmp_path) == 0
    config.train.num_steps = 8
    capsys.readouterr()
    assert train.train(config, tmp_path) == 0
    said = capsys.readouterr().err
    _, entry = json.loads((tmp_path / "manifest.json").read_text())["attempts"]
    assert tiny_runs.final(tmp_path)["step"] == 8
    if decay == "constant":
        assert "optim.decay" not in said
        assert entry["allowed_drift"] == []
        return
    rate = 1e-3 * 0.5 * (1 + math.cos(math.pi * 4 / 8))
    assert (
        f"over 4 steps and is over 8 from here on: the learning rate goes on at {rate:.3g}, not 0;"
        in said
    )
    assert entry["allowed_drift"] == [{"field": "train.num_steps", "there": 4, "here": 8}]
