"""The speed beside diffusers is measured on equal work, in turns; failures are told in a line."""

import contextlib
import dataclasses

import pytest

from ddpm_jax.commands.benchmark import (
    clip_steps,
    latent_unet,
    loading,
    ours,
    sampling_speed,
    train_steps,
    turns,
)
from ddpm_jax.commands.benchmark.options import Options
from ddpm_jax.commands.benchmark.processes import Failed, Worker

OPTIONS = Options(None, "", quick=True)
TIMES = {"seconds": 2.0}
TINY = {"channels": 8, "channel_multipliers": (1,), "num_blocks": 1, "num_groups": 4}


def tiny_step(name, **model):
    """The spec of a training step of a network of NETWORKS, its batch 2, changed."""
    network = train_steps.NETWORKS[name]
    spec = train_steps.spec(network._replace(batch=(2, 2)), "float32", OPTIONS)
    spec["changes"]["model"] |= model
    return spec


@pytest.fixture
def peers():
    """diffusers' side in this process, whose settings are as before afterwards."""
    pytest.importorskip("diffusers")
    import torch

    from ddpm_jax.commands.benchmark import peers

    threads = torch.get_num_threads()
    yield peers
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("highest")


def both(peers, spec, folder):
    """The facts of ours and of theirs, and of both a turn done."""
    spec = {**spec, "exchange": str(folder), "mode": "eager"}
    if "dit" in spec:
        peers.start({**spec, "what": "weights"})
    mine = ours.start(spec)
    theirs = peers.start({**spec, "facts": mine.facts})
    mine.run(1)
    theirs.run(1)
    return mine.facts, theirs.facts


@pytest.mark.wide(3)
def test_a_step_beside_theirs_has_the_same_loss(peers, tmp_path):
    mine, theirs = both(peers, tiny_step("digits_unet", **TINY), tmp_path)
    assert theirs["parameters"] == mine["parameters"] > 1000
    # One network, one batch, one draw of t and eps.
    assert 0 <= theirs["loss_difference"] < 1e-4
    assert mine["flop_per_step"] > 1000


@pytest.mark.wide(3)
def test_a_transformer_too_with_its_labels(peers, tmp_path):
    spec = tiny_step("dit_b2", channels=32, num_blocks=2, num_heads=2)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
    mine, theirs = both(peers, {**spec, "dit": {**spec["dit"], **sizes}}, tmp_path)
    assert theirs["parameters"] == mine["parameters"]
    assert 0 <= theirs["loss_difference"] < 1e-4


def test_both_loops_draw_the_same_images(peers, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling_speed, "STEPS", 4)  # of 1000: theirs counts in whole strides
    monkeypatch.setattr(sampling_speed, "NETWORK", {"num_classes": 0, **TINY})
    _, theirs = both(peers, sampling_speed.spec(8, 2), tmp_path)
    assert 0 <= theirs["image_difference"] < 1e-2


LATENT_UNET = {
    "block_channels": (8, 16),
    "num_blocks": (1, 1),
    "down_depths": ((1,), ()),
    "up_depths": ((1, 1), ()),
    "num_heads": (2, 2),
    "only_tokens": (False, False),
    "tokens_channels": 12,
    "num_groups": 4,
}


@pytest.mark.wide(3)
def test_a_network_that_reads_a_text_has_the_same_output(peers, tmp_path):
    _, theirs = both(peers, latent_unet.spec("float32", 8, 2, **LATENT_UNET), tmp_path)
    assert 0 < theirs["output_difference"] < 2e-5


@pytest.mark.wide(6)
@pytest.mark.slow
def test_the_memory_of_reading_is_measured():
    rows = loading.loading(**LATENT_UNET)
    (whole, half) = rows["float32"], rows["bfloat16"]
    assert whole["parameter_bytes"] == 2 * half["parameter_bytes"]
    assert whole["tensors"] == half["tensors"] > 100
    assert whole["growth_over_parameters"] > 0
    assert whole["seconds"] > 0


@pytest.mark.wide(3)
def test_a_clips_step_beside_theirs_has_the_same_loss(peers, tmp_path):
    pytest.importorskip("transformers")
    from ddpm_jax.commands.benchmark import clip_peer

    tower = {"width": 16, "depth": 1, "num_heads": 2}
    spec = clip_steps.spec(
        "float32", 4, embed_dim=8, image_options={"patch_size": 112, **tower}, text_options=tower
    )
    spec = {**spec, "exchange": str(tmp_path), "mode": "eager"}
    mine = ours.start(spec)
    theirs = clip_peer.start({**spec, "facts": mine.facts})
    assert theirs.facts["parameters"] == mine.facts["parameters"] > 1000
    # One network and one batch; the loss is far from that of chance, log 4.
    assert 0 <= theirs.facts["loss_difference"] < 1e-4
    mine.run(1)
    theirs.run(1)


def test_a_peer_stands_beside_what_it_has():
    both = dataclasses.replace(OPTIONS, sides=(("diffusers", "eager"), ("transformers", "eager")))
    assert both.beside(clip_steps.PEER) == (("transformers", "eager"),)
    assert both.beside(train_steps.PEER) == (("diffusers", "eager"),)


@pytest.mark.wide(3)
def test_a_resumed_run_is_compared_bit_for_bit():
    spec = tiny_step("dit_b2", channels=32, num_blocks=1, num_heads=2, num_classes=0)
    spec = {**spec, "what": "resume", "exchange": None}
    assert ours.start(spec).facts == {"resumed_bit_for_bit": True}


def test_a_network_that_fails_leaves_the_others_measured(monkeypatch):
    def compared(spec, sides, *, rounds):
        if spec["changes"]["data"]["image_size"] == (64, 64):
            raise Failed("out of memory")
        return {"flop_per_step": 6, "batch": 8, "devices": 1, "device_kind": "cpu", "ours": TIMES}

    monkeypatch.setattr(turns, "compared", compared)
    two = {name: train_steps.NETWORKS[name] for name in ("cifar10_unet", "dit_b2")}
    large = {"data": {"image_size": (64, 64)}}
    two["cifar10_unet"] = two["cifar10_unet"]._replace(changes=large)
    monkeypatch.setattr(train_steps, "NETWORKS", two)
    rows = train_steps.train_steps(OPTIONS)
    assert rows["cifar10_unet float32"] == {"failed": "out of memory"}
    assert rows["dit_b2 float32"]["images_per_second"] == 4.0
    assert rows["dit_b2 float32"]["mfu"] == "unknown"
    one = dataclasses.replace(OPTIONS, networks=("dit_b2",))
    assert [*train_steps.train_steps(one)] == ["dit_b2 float32"]


class Sleeper:
    """A worker that says how long it took: 4 s and 8 CPU seconds, or half of that."""

    def __init__(self, spec, variables=None):
        if spec["side"] == "nobody":
            raise Failed("there is nobody")
        self.facts, self._scale = {"batch": 3}, 1 if spec["side"] == "ours" else 0.5

    def turn(self, repeats):
        return 4.0 * self._scale, 8.0 * self._scale


def test_ratios_are_ours_over_theirs_and_a_side_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(turns, "REST", 0.0)
    monkeypatch.setattr(turns, "Worker", lambda *words: contextlib.nullcontext(Sleeper(*words)))
    sides = [("diffusers", "eager"), ("nobody", "eager")]
    row = turns.compared({"what": "train_step"}, sides, rounds=3)
    assert row["ours"] == {"seconds": 4.0, "cpu_seconds": 8.0}
    assert row["diffusers eager"]["ratio"] == row["diffusers eager"]["cpu_ratio"] == 2.0
    assert row["nobody eager"] == {"failed": "there is nobody"}
    assert row["batch"] == 3


@pytest.mark.wide(3)
def test_a_process_answers_its_turns_and_one_that_ends_is_told_of():
    spec = {**tiny_step("digits_unet", **TINY), "side": "ours", "exchange": None}
    with Worker(spec, {"JAX_NUM_CPU_DEVICES": "1"}) as worker:
        assert worker.facts["batch"] == 2
        assert all(seconds > 0 for seconds in worker.turn(2))
    with pytest.raises(Failed, match="KeyError: 'nobody'"):
        Worker({**spec, "side": "nobody"})
