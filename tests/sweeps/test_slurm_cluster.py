"""A real Slurm of one node: what is stopped, killed or lost of a sweep or a run goes on."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_runs

from ddpm_jax.measures import manifest
from ddpm_jax.sweeps import local, plan, slurm, status, sweep_file, workdirs
from ddpm_jax.sweeps.workdirs import State

TOOL = Path(__file__).parent / "one_node_slurm.sh"
NEEDED = ("sbatch", "slurmctld", "slurmd", "munged")
TEXT = """
from configs import digits
from ddpm_jax.sweeps import seeds

def get_config():
    config = digits.get_config()
    config.data.batch_size = 8
    config.model.update(
        name="dit", channels=8, num_heads=2, patch_size=4, num_blocks=1, num_groups=4
    )
    config.diffusion.num_steps = 10
    config.sample.num_steps = 5
    config.train.update(
        num_steps=800, log_every=50, checkpoint_every=100, sample_every=0, validate_every=0
    )
    config.mesh.data = 1
    return config

def sweep():
    return seeds(2)

slurm = dict(time="00:20:00")
"""


@pytest.fixture(scope="module", params=["the site requeues", "the task requeues itself"])
def cluster(request, tmp_path_factory):
    """A cluster's folder, SLURM_CONF set; one whose site queues exit code 75 again, one not."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or os.getuid():
        pytest.skip(f"no {', '.join(missing) or 'root'} here: apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    extra = {"EXTRA": "RequeueExit=75"} if request.param.startswith("the site") else {}
    started = subprocess.run(
        ["bash", TOOL, "start", folder, str(port)],
        env=os.environ | extra, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if started.returncode:
        pytest.skip(f"Slurm does not start here: {started.stderr.strip()[-200:]}")
    before = dict(os.environ)
    os.environ |= {"SLURM_CONF": str(folder / "slurm.conf"), **tiny_runs.environment()}
    os.environ["PYTHONPATH"] = str(tiny_runs.ROOT)
    yield folder
    subprocess.run(["scancel", "--user=root"], check=False)
    subprocess.run(["bash", TOOL, "stop", folder], check=False)
    os.environ.clear()
    os.environ.update(before)


def until(happens, seconds=240):
    """Wait for it."""
    late = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < late, "it did not happen in time"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.wide(6)
def test_stops_and_a_lost_node_end_in_the_same_bits(cluster, tmp_path):
    (tmp_path / "two.py").write_text(TEXT)
    sweep = sweep_file.read(tmp_path / "two.py")
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    plan.write(sweep, quiet)
    assert local.run(sweep, quiet, jobs=1, attempts=1) == 0

    plan.write(sweep, disturbed)
    (said,) = slurm.run(sweep, disturbed, attempts=2)
    job = said.split()[2].rstrip(":")
    first, second = (workdirs.folder(disturbed, name) for name in sweep.trainings())
    until(lambda: (first / "metrics.jsonl").exists())
    # What waits or runs is not submitted again.
    assert slurm.run(sweep, disturbed, attempts=2)[0].startswith("nothing to submit")
    subprocess.run(["scancel", "--signal=TERM", f"{job}_0"], check=True)
    until(lambda: (first / "tries.jsonl").exists())
    assert workdirs.json_lines(first / "tries.jsonl")[0]["exit_code"] == 75
    until(lambda: (second / "metrics.jsonl").exists())
    subprocess.run(["bash", TOOL, "lose", cluster], check=True)
    time.sleep(1)
    assert not (second / "final.json").exists()
    until(lambda: "down" in subprocess.run(
        ["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, check=True
    ).stdout)  # fmt: skip
    subprocess.run(["bash", TOOL, "restore", cluster], check=True)

    def done():
        states, _ = status.look(sweep, disturbed, 2)
        return set(states.values()) == {State.DONE}

    until(done)
    # What the lost node left of the task has tried nothing more.
    tries = [line["exit_code"] for line in workdirs.json_lines(second / "tries.jsonl")]
    assert {*tries} <= {0, *workdirs.ENDED, 137}, tries
    for name in sweep.trainings():
        ends = [tiny_runs.final(workdirs.folder(one, name)) for one in (quiet, disturbed)]
        assert ends[0] == ends[1]
        steps = [
            line["step"] for line in tiny_runs.metrics(workdirs.folder(disturbed, name))
            if "loss" in line
        ]  # fmt: skip
        assert len(steps) == len(set(steps))


@pytest.mark.slow
@pytest.mark.wide(2)
@pytest.mark.parametrize("cluster", ["the task requeues itself"], indirect=True)
def test_a_run_of_two_tasks_loses_one_is_queued_again_and_finishes(cluster, tmp_path):
    workdir, log = tmp_path / "run", tmp_path / "log.txt"
    flags = tiny_runs.tiny_flags(
        workdir, tiny_runs.BRIEF, train__num_steps=400, train__log_every=1,
        train__checkpoint_every=20, model__channels=64, mesh__fsdp=2,
    )  # fmt: skip
    submitted = subprocess.run(
        ["sbatch", "--parsable", "--nodes=1", "--ntasks-per-node=2", "--time=00:20:00",
         f"--output={log}", "scripts/launch/slurm.sh", *flags],
        cwd=tiny_runs.ROOT, env=os.environ | {"PYTHON": sys.executable},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    until(lambda: (workdir / "checkpoints/20").is_dir())
    os.kill(task(job, "1"), signal.SIGKILL)
    until(lambda: (workdir / "final.json").is_file())
    said = log.read_text()
    assert "error: process 1 of 2 (on " in said
    assert "this process ends too, with exit code 76" in said
    lost, last = manifest.read(workdir / "manifest.json")
    assert (lost["exit_code"], last["exit_code"]) == (76, 0)
    assert last["start"] >= 20
    assert last["process_count"] == 2


def task(job, number):
    """The process id of a task of a job, known by what Slurm set for it."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={number}".encode()}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = set(path.read_bytes().split(b"\0"))
            words = path.with_name("cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted <= variables and b"ddpm_jax" in words and b"train" in words:
            return int(path.parent.name)
    raise AssertionError(f"task {number} of job {job} does not run")
