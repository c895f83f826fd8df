"""Adapters in a run: of a trained network, moved alone, resumed to the same bits, merged."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_runs
from test_control import base, config_of  # noqa: F401

from ddpm_jax import experiment
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.models import adapters
from ddpm_jax.runtime import leaves

ALONE = {"frozen": ("!lora/*",)}
TARGETS = ("*/query", "*_block_0/conv_0")


def adapted(base, **changes):  # noqa: F811
    groups = {
        "model": {"lora_rank": 2, "lora_alpha": 4.0, "lora_targets": TARGETS},
        "train": {"init_from": str(base)},
        "optim": ALONE,
    }
    return config_of(**{name: groups.get(name, {}) | changes.get(name, {}) for name in groups})


def test_they_alone_move_and_a_stopped_run_ends_with_the_same_bits(base, tmp_path):  # noqa: F811
    theirs = leaves.named(jax.device_get(experiment.load(base).params))
    config = adapted(base)
    assert train.train(config, tmp_path / "a", until=3) == 75
    assert train.train(config, tmp_path / "a") == 0
    assert train.train(config, tmp_path / "b") == 0
    assert tiny_runs.final(tmp_path / "a") == tiny_runs.final(tmp_path / "b")

    run = experiment.load(tmp_path / "b", raw_params=True)
    after = leaves.named(jax.device_get(run.params))
    own = {name for name in after if name.startswith("lora/")}
    assert {name.split("/")[1] for name in own} == {
        "down_0_block_0",
        "down_1_block_0",
        "down_1_attention_0",
        "mid_attention",
        "mid_block_0",
        "up_0_block_0",
        "up_1_block_0",
        "up_1_attention_0",
        "up_1_attention_1",
    }
    for name in {*after} - own:
        np.testing.assert_array_equal(after[name], theirs[name])
    assert all(np.abs(after[name]).max() > 0 for name in own if name.endswith("/up"))

    # Merged, it is a plain network with the same images.
    plain = experiment.load(base)
    merged = dataclasses.replace(plain, params=adapters.merged(run.params, 4.0 / 2))
    np.testing.assert_array_equal(merged.sample(2, num_steps=3), run.sample(2, num_steps=3))
    # One that goes on from here keeps its adapters.
    again = adapted(tmp_path / "b")
    begun = leaves.named(jax.device_get(experiment.build(again).init_state().params))
    average = leaves.named(jax.device_get(experiment.load(tmp_path / "b").params))
    for name in own:
        np.testing.assert_array_equal(begun[name], average[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"frozen": ()}}, "config.optim.frozen="),
        ({"train": {"init_from": ""}}, "name it, config.train.init_from=DIR"),
        ({"model": {"lora_targets": ("*/queri",)}}, "'\\*/queri' fits no layer"),
        ({"model": {"lora_rank": -1}}, "config.model.lora_rank=-1: need at least 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises((UserError, ValueError), match=message):
        experiment.build(adapted("base", **changes))
