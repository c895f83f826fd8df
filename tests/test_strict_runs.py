"""mesh.strict: a run has the same bits on any number of devices, and where it changes them."""

import dataclasses
import socket

import jax
import numpy as np
import pytest
import script_server
import tiny_runs
from tiny_runs import brief_config, tiny_config

from ddpm_jax import experiment
from ddpm_jax.commands.train import dry_run, train
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import recorded
from ddpm_jax.measures import manifest
from ddpm_jax.runtime import digests, sharding
from ddpm_jax.training.objectives.base import Objective

DIT = {"name": "dit", "num_heads": 2, "patch_size": 4}


def strict_config(make=brief_config, shards=8, **changes):
    """With dropout, clipping and several averages."""
    groups = {
        "mesh": {"strict": True, "strict_shards": shards},
        "model": {"dropout": 0.1},
        "optim": {"grad_clip": 0.5},
        "ema": {"decays": (0.9,)},
        "train": {"num_steps": 6, "checkpoint_every": 3, "log_every": 1},
    }
    for group, fields in changes.items():
        groups[group] = groups.get(group, {}) | fields
    return make(**groups)


def ended(config, num_steps=10):
    """The digest of the state after some steps, and the metrics of each."""
    built = experiment.build(config)
    state, train_step = built.init_state(), built.train_step()
    rng, metrics = np.random.default_rng(0), []
    for _ in range(num_steps):
        x0 = rng.uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
        batch = {"x0": x0, "label": np.arange(8, dtype=np.int32)}
        placed = sharding.put_batch(batch, sharding.batch_sharding(built.mesh))
        state, seen = train_step(state, placed)
        metrics.append(jax.device_get(seen))
    return digests.digests(state), metrics


@pytest.mark.parametrize(
    ("model", "shards", "meshes"),
    [
        (DIT, 8, [{"data": 2}, {"data": 8}, {"data": 2, "fsdp": 4}]),
        ({}, 2, [{"data": 2}]),
    ],
    ids=["dit", "unet"],
)
@pytest.mark.wide(6)
def test_networks_have_the_same_bits_on_any_devices(model, shards, meshes, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 64)
    model = model | {"dropout": 0.1}
    digest, metrics = ended(strict_config(tiny_config, shards, model=model, mesh={"data": 1}))
    for mesh in meshes:
        now, seen = ended(strict_config(tiny_config, shards, model=model, mesh=mesh))
        assert now == digest
        for one, other in zip(seen, metrics, strict=True):
            jax.tree.map(np.testing.assert_array_equal, one, other)


def finals(workdir):
    """The digests of a run's end, and the losses of its lines."""
    lines = [line["loss"] for line in tiny_runs.metrics(workdir)]
    return tiny_runs.final(workdir), lines


@pytest.mark.wide(3)
def test_a_run_goes_on_on_other_devices_to_the_same_bits(tmp_path):
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    assert train.train(strict_config(shards=4, mesh={"data": 2}), whole) == 0
    assert train.train(strict_config(shards=4, mesh={"data": 1}), moved, until=4) == 75
    assert train.train(strict_config(shards=4, mesh={"data": 4}), moved) == 0
    assert finals(moved) == finals(whole)
    attempts = manifest.read(moved / "manifest.json")
    assert [entry["mesh"]["data"] for entry in attempts] == [1, 4]
    assert all(entry["config"]["mesh"]["strict"] for entry in attempts)


@pytest.mark.slow
@pytest.mark.wide(3)
def test_two_processes_have_the_same_bits(tmp_path):
    """Of four devices each, as one process with one device."""
    config = strict_config(mesh={"data": 1})
    assert train.train(config, tmp_path / "one") == 0
    fields = {
        "mesh.strict": True,
        "mesh.data": 8,
        "model.dropout": 0.1,
        "optim.grad_clip": 0.5,
        "ema.decays": (0.9,),
        "train.num_steps": 6,
        "train.checkpoint_every": 3,
        "train.log_every": 1,
    }
    flags = tiny_runs.tiny_flags(tmp_path / "two", tiny_runs.BRIEF | fields)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"--coordinator=localhost:{free.getsockname()[1]}"
    both = [
        script_server.Started(
            ["scripts/train.py", *flags, address, "--num_processes=2", f"--process_id={k}"],
            tiny_runs.environment() | {"JAX_NUM_CPU_DEVICES": "4"},
        )
        for k in (0, 1)
    ]
    for process in both:
        code = process.wait(timeout=300)
        assert code == 0, process.said()[1]
    assert finals(tmp_path / "two") == finals(tmp_path / "one")


@pytest.mark.wide(3)
def test_a_dry_run_counts_a_strict_step():
    plain, strict = (
        dry_run.dry_run(strict_config(mesh={"strict": strict, "data": 2}))
        for strict in (False, True)
    )
    for name in ("parameters", "state_bytes", "model_flop_per_step"):
        assert strict[name] == plain[name]
    assert 0.8 < strict["flop_per_step"] / plain["flop_per_step"] < 3
    assert strict["residual_bytes"] < plain["residual_bytes"]


def test_an_objective_that_needs_its_batch_whole_is_not_strict():
    built = experiment.build(strict_config(mesh={"data": 1}))
    whole = Objective(built.objective.outcome)
    with pytest.raises(
        UserError, match=r"config\.mesh\.strict=True: .* its batch whole.*set False"
    ):
        dataclasses.replace(built, objective=whole).train_step()


def test_other_devices_are_told_to_be_harmless():
    there, here = ({"mesh": {"data": n}, "process_count": n, "jax": n} for n in (1, 8))
    lines = recorded.differences(there, here, "here", ("mesh", "process_count", "jax"))
    assert len(lines) == 3
    noted = recorded.noted(lines, strict_config())
    assert [line.endswith("(the same bits, by mesh.strict)") for line in noted] == [
        line.startswith(("mesh.data: 1 there", "process_count: 1 there")) for line in lines
    ]
    assert recorded.noted(lines, brief_config()) == lines
