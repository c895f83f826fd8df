"""The benchmark of groups says what it measured."""

import pytest
import tiny_runs

from ddpm_jax.commands.benchmark import groups


@pytest.mark.wide(3)
def test_steps_in_turn_are_measured_beside_those_of_a_group(monkeypatch):
    monkeypatch.setattr(groups, "ROUNDS", 1)
    monkeypatch.setattr(groups, "BLOCK_STEPS", 1)
    monkeypatch.setattr(groups, "SMALL_DIT", {"channels": 16})
    seen = groups.group_speed(tiny_runs.brief_config(), 2)
    assert seen.pop("replicas") == 2
    assert [*seen] == ["dit", "small_dit"]
    assert seen["dit"]["parameters"] < seen["small_dit"]["parameters"]
    for one in seen.values():
        assert one["steps_in_turn"] > 0
        assert one["gain"] * one["group_step"] == pytest.approx(one["steps_in_turn"])
