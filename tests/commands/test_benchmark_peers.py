"""The speed beside diffusers is measured on equal work."""

import pytest

from ddpm_jax.commands.benchmark import peers

pytest.importorskip("diffusers")


@pytest.mark.wide(3)
def test_both_loops_draw_the_same_images(monkeypatch):
    monkeypatch.setattr(peers, "STEPS", 4)  # of 1000: theirs counts in whole strides
    monkeypatch.setattr(peers, "ROUNDS", 1)
    monkeypatch.setattr(peers, "SIZES", {8: (2,)})
    found = peers.ddim_speed()
    assert 0.9e6 < found["parameters"] < 1.1e6
    row = found["8x8, batch 2"]
    # One network, one start, one sampler: what is left is the rounding of float32.
    assert 0 <= row["difference"] < 1e-2
    assert row["ours"] > 0
    assert row["ratio"] == pytest.approx(row["diffusers"] / row["ours"])
