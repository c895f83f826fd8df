"""A run in two processes is one run: it stops as one, goes on as one, and ends as in one."""

import signal
import time

import jax
import numpy as np
import pytest
import safetensors.numpy
import script_server
import tiny_runs

from ddpm_jax import experiment
from ddpm_jax.commands.train import train
from ddpm_jax.measures import manifest
from ddpm_jax.runtime import digests, leaves
from ddpm_jax.training.checkpoints import Checkpoints

# Wide enough for its larger kernels to be split between the processes.
CHANGES = {
    "model": {"channels": 64},
    "train": {
        "num_steps": 60, "checkpoint_every": 25, "log_every": 1, "sample_every": 60,
        "evaluate_every": 60, "evaluate_samples": 20, "evaluate_extractor": "pixels",
    },
    "mesh": {"data": 1, "fsdp": 2},
}  # fmt: skip


def started(workdir, weights):
    """Both processes of a run, as on two machines that share the workdir and a file of weights."""
    address = f"localhost:{tiny_runs.free_port()}"
    changes = {
        f"{group}__{name}": value
        for group, fields in CHANGES.items()
        for name, value in fields.items()
    }
    changes["train__init_from"] = weights
    flags = tiny_runs.tiny_flags(workdir, tiny_runs.BRIEF, **changes)
    return [
        tiny_runs.forked(
            "train", *flags, f"--coordinator={address}", "--num_processes=2",
            f"--process_id={number}",
        )
        for number in (0, 1)
    ]  # fmt: skip


def ended(processes):
    """(exit code, stderr) of each."""
    return [(process.wait(timeout=200), process.said()[1]) for process in processes]


@pytest.mark.slow
@pytest.mark.wide(3)
def test_two_processes_stop_and_end_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = tiny_runs.brief_config(**CHANGES)
    shapes = experiment.build(config).state_shapes().params
    weights = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.05, np.float32), shapes)
    path = str(tmp_path / "weights.safetensors")
    safetensors.numpy.save_file(leaves.named(weights), path)
    config.train.init_from = path
    assert train.train(config, tmp_path / "one") == 0

    # Both fill one cache of the data's features at the same time.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache_of_two"))
    workdir = tmp_path / "two"
    processes = started(workdir, path)
    metrics = workdir / "metrics.jsonl"
    until = time.monotonic() + 150
    while not (metrics.is_file() and len(metrics.read_bytes().splitlines()) >= 3):
        assert processes[0].poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)  # the one that does not write
    (code, said), (other_code, other_said) = ended(processes)
    assert (code, other_code) == (75, 75), said + other_said
    assert "stopped and saved at step" in said
    assert "stopped and saved" not in other_said  # one run speaks with one voice
    (saved,) = [int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name != "25"]
    assert saved == max(line["step"] for line in tiny_runs.metrics(workdir)) < 60

    (entry,), (two, *_) = (
        manifest.read(tmp_path / name / "manifest.json") for name in ("one", "two")
    )
    assert entry["init_from"] == two["init_from"]
    assert entry["init_from"]["sha256"] == digests.digest(weights)
    for code, said in ended(started(workdir, path)):
        assert code == 0, said
    assert tiny_runs.final(workdir) == tiny_runs.final(tmp_path / "one")
    last, other_last = (tiny_runs.metrics(tmp_path / name)[-1] for name in ("one", "two"))
    assert last["step"] == other_last["step"] == 60
    assert last["evaluation_fid"] == other_last["evaluation_fid"]
    one, two = (
        (tmp_path / name / "samples/step_000060.png").read_bytes() for name in ("one", "two")
    )
    assert one == two


def await_steps(processes, workdir, step):
    """Wait until the run has logged that step."""
    until = time.monotonic() + 500
    while not (workdir / "metrics.jsonl").is_file() or max(
        (line["step"] for line in tiny_runs.metrics(workdir)), default=0
    ) < step:  # fmt: skip
        assert [process.poll() for process in processes] == [None] * len(processes)
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.wide(3)
def test_a_lost_process_ends_the_others_and_any_number_goes_on(tmp_path):
    """Four processes lose the first; two of them go on and lose the second; one goes on."""
    changes = {
        "model": {"channels": 64},
        "train": {"num_steps": 200, "checkpoint_every": 5, "log_every": 1},
        "mesh": {"data": 1, "fsdp": 4},
    }
    workdir = tmp_path / "lost"
    for count, lost, step in ((4, 0, 8), (2, 1, 24)):
        address = f"localhost:{tiny_runs.free_port()}"
        words = {
            f"{group}__{name}": value
            for group, fields in changes.items()
            for name, value in fields.items()
        }
        flags = tiny_runs.tiny_flags(workdir, tiny_runs.BRIEF, **words)
        environment = tiny_runs.environment() | {"JAX_NUM_CPU_DEVICES": str(4 // count)}
        processes = [
            script_server.Started(
                ["scripts/train.py", *flags, f"--coordinator={address}",
                 f"--num_processes={count}", f"--process_id={k}"],
                environment,
            )
            for k in range(count)
        ]  # fmt: skip
        await_steps(processes, workdir, step)
        processes[lost].send_signal(signal.SIGKILL)
        began = time.monotonic()
        for k, (code, said) in enumerate(ended(processes)):
            assert code == (-signal.SIGKILL if k == lost else 76), said
            if k != lost:
                assert f"process {lost} of {count}" in said
                assert "Traceback" not in said
        assert time.monotonic() - began < 60
        last = manifest.read(workdir / "manifest.json")[-1]
        assert (last["exit_code"], last["process_count"]) == (76 if lost else None, count)
    assert f"process {lost} of {count}" in last["ended"]
    saved = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())
    assert (workdir / "checkpoints" / str(saved) / "shards/1.safetensors").is_file()

    # What two processes summed of their shards is what one process has in memory; it goes on.
    config = tiny_runs.brief_config(**changes)
    shapes = experiment.build(config).state_shapes()
    with Checkpoints(workdir, read_only=True) as checkpoints:
        record = checkpoints.verify(saved)
        restored = digests.digests(checkpoints.restore(saved, shapes))
    assert restored["state_sha256"] == record.state_sha256
    assert train.train(config, workdir, until=saved + 2) == 75
    last = manifest.read(workdir / "manifest.json")[-1]
    assert (last["start"], last["reached"], last["process_count"]) == (saved, saved + 2, 1)
