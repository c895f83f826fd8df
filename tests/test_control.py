"""A branch of control: nothing at first, a copy of the way down, trained alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from ml_collections import ConfigDict

from ddpm_jax import data, experiment
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files, defaults
from ddpm_jax.data.shapes import palette
from ddpm_jax.errors import UserError
from ddpm_jax.models import UNet
from ddpm_jax.runtime import leaves

FIELDS = {
    "data": {"name": "shapes", "image_size": (16, 16), "channels": 3, "batch_size": 8},
    "model": {
        "channels": 8,
        "channel_multipliers": (1, 2),
        "attention_resolutions": (8,),
        "num_blocks": 1,
        "num_groups": 4,
    },
    "diffusion": {"num_steps": 20},
    "optim": {"learning_rate": 1e-3, "warmup_steps": 0},
    "ema": {"decay": 0.9},
    "train": {
        "num_steps": 4,
        "log_every": 1,
        "checkpoint_every": 2,
        "sample_every": 0,
        "validate_every": 0,
        "min_free_gb": 0.0,
    },
    "sample": {"sampler": "ddim", "num_steps": 3, "batch_size": 16},
    "mesh": {"data": 1},
}
CONTROLS = ("outline", "palette")


def config_of(**changes) -> ConfigDict:
    groups = {name: FIELDS[name] | changes.get(name, {}) for name in FIELDS}
    return config_files.override(defaults.get_config(), groups)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The workdir of a run that is to be controlled."""
    workdir = tmp_path_factory.mktemp("base") / "run"
    assert train.train(config_of(), workdir) == 0
    return workdir


def controlled(base, **changes):
    model = {"conditions": CONTROLS, "control": CONTROLS} | changes.pop("model", {})
    own = {"train": {"init_from": str(base)}, "optim": {"frozen": ("!control/*",)}}
    own |= {name: own.get(name, {}) | value for name, value in changes.items()}
    return config_of(model=model, **own)


@pytest.mark.parametrize("scale_shift_norm", [False, True])
def test_a_new_branch_changes_nothing_and_a_trained_one_does(scale_shift_norm):
    fields = {
        "block_channels": (8, 16),
        "num_blocks": 1,
        "attention_levels": (1,),
        "num_groups": 4,
        "scale_shift_norm": scale_shift_norm,
    }
    plain, controlled = UNet(**fields), UNet(**fields, controls=(("sketch", 2),))
    key, xt, time = jax.random.key(0), jax.random.normal(jax.random.key(1), (2, 8, 8, 3)), 0.3
    hint = {"sketch": jax.random.normal(jax.random.key(2), (2, 8, 8, 2))}
    params = controlled.init(key, xt, jnp.asarray(time))["params"]
    # The last convolution begins at zero too, and would hide every difference.
    params["conv_out"]["kernel"] = jax.random.normal(key, params["conv_out"]["kernel"].shape)
    base = {name: leaf for name, leaf in params.items() if name != "control"}
    want = plain.apply({"params": base}, xt, jnp.asarray(time))
    found = controlled.apply({"params": params}, xt, jnp.asarray(time), hint)
    np.testing.assert_array_equal(found, want)
    branch = params["control"]
    for name in [name for name in branch if name.startswith("zero_")]:
        branch[name]["kernel"] += 0.1
    moved = controlled.apply({"params": params}, xt, jnp.asarray(time), hint)
    assert np.abs(moved - want).max() > 1e-3
    # The hint is read once its own last layer has moved.
    branch["hint_out"]["kernel"] += 0.1
    seen = controlled.apply({"params": params}, xt, jnp.asarray(time), hint)
    other = controlled.apply({"params": params}, xt, jnp.asarray(time))
    assert np.abs(seen - other).max() > 1e-3


def test_it_begins_as_the_way_down_and_moves_alone(base, tmp_path):
    config = controlled(base)
    first = jax.device_get(experiment.build(config).init_state().params)
    theirs = leaves.named(jax.device_get(experiment.load(base).params))
    own = leaves.named(first)
    branch = {name for name in own if name.startswith("control/")}
    copied = {name for name in branch if name.removeprefix("control/") in theirs}
    new = {name.split("/")[1].split("_")[0] for name in branch - copied}
    assert new == {"zero", "hint"}
    assert {name.split("/")[1].split("_")[0] for name in copied} == {"conv", "down", "mid"}
    for name in {*own} - branch | copied:
        np.testing.assert_array_equal(own[name], theirs[name.removeprefix("control/")])

    assert train.train(config, tmp_path / "run") == 0
    after = leaves.named(experiment.load(tmp_path / "run", raw_params=True).params)
    moved = {name for name in own if (np.asarray(after[name]) != own[name]).any()}
    assert moved <= branch
    assert {name for name in moved if "/zero_" in name}
    # A run that goes on, or begins with this one, keeps the branch as it is.
    again = controlled(tmp_path / "run", train={"init_from": str(tmp_path / "run")})
    kept = leaves.named(jax.device_get(experiment.build(again).init_state().params))
    ema = leaves.named(experiment.load(tmp_path / "run").params)
    for name in branch:
        np.testing.assert_array_equal(kept[name], ema[name])


@pytest.mark.wide(2)
def test_a_stopped_one_ends_with_the_same_bits_and_is_measured(base, tmp_path):
    assert train.train(controlled(base), tmp_path / "a", until=3) == 75
    assert train.train(controlled(base), tmp_path / "a") == 0
    assert train.train(controlled(base), tmp_path / "b") == 0
    assert tiny_runs.final(tmp_path / "a") == tiny_runs.final(tmp_path / "b")
    report = evaluate.evaluate(str(tmp_path / "a"), metrics=["controlled"], num_samples=20)
    figures = report["samples"][0]["metrics"]
    assert {"controlled", "colour", "position"} <= {*figures}
    assert report["held_out_data"]["metrics"]["controlled"]["value"] == 1


def test_a_palette_has_the_mean_colours_of_sixteen_parts():
    image = np.random.default_rng(0).integers(0, 256, (10, 8, 3)).astype(np.uint8)
    found = palette(image)
    np.testing.assert_array_equal(found[0, 0], image[:2, :2].mean(axis=(0, 1)).round())
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 16
    even = np.full((8, 8, 3), 7, np.uint8)
    np.testing.assert_array_equal(palette(even), even)


def test_a_palette_is_no_part_of_what_the_data_are():
    """It says nothing that the image does not, so runs from before it was there go on."""
    source = data.build_source("shapes", "train", image_size=(16, 16), channels=3)

    class WithoutIt(type(source)):
        def __getitem__(self, index):
            return {
                name: one for name, one in super().__getitem__(index).items() if name != "palette"
            }

    without = WithoutIt.__new__(WithoutIt)
    without.__dict__ = source.__dict__
    assert "palette" in source[0]
    assert data.fingerprint(without) == data.fingerprint(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control": ("colour",), "conditions": ("colour",)}, "colour is no image among"),
        ({"control": ("outline",), "conditions": ()}, "outline is no image among"),
        (
            {"name": "dit", "channels": 8, "num_heads": 2, "control": ("outline",)}
            | {"conditions": ("outline",)},
            "a diffusion transformer has no skips",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        experiment.build(config_of(model=changes))


def test_a_model_without_a_branch_is_not_measured_by_it(base):
    with pytest.raises(UserError, match="--metrics=controlled: this model has no branch"):
        evaluate.evaluate(str(base), metrics=["controlled"])
