"""What works on a sweep: which phase each is in, and signals to it."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from ddpm_jax.sweeps import watched
from ddpm_jax.sweeps.watched import COMPILE, EVALUATE, SAVE, STEP, JobSteps, Process

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
# What squeue prints: a step of ours that began at NOW, its script, a job of someone else's.
LISTED = "17_1.0 {at}\n17_1.batch {at}\n17_0.extern {at}\n99_0.0 {at}\n"


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep's folder with two cells of job 17, and Slurm commands that log what they are told."""
    for name in ("a", "b"):
        (tmp_path / "cells" / name / "checkpoints").mkdir(parents=True)
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "submitted.jsonl").write_text('{"job": "17", "tasks": ["a", "b"]}\n')
    commands = tmp_path / "bin"
    commands.mkdir()
    local = NOW.astimezone().strftime("%Y-%m-%dT%H:%M:%S")
    listed = LISTED.format(at=local).replace("\n", "\\n")
    for name, does in (
        ("squeue", f"printf '{listed}'"),
        ("scancel", f'echo "$@" >{tmp_path}/told; [ "$2" = 17_1.0 ]'),
    ):
        (commands / name).write_text(f"#!/bin/sh\n{does}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    return tmp_path


def attempt(sweep, seconds, *, ended=None, start=0, logged=0):
    """Cell b's manifest: an attempt that began `seconds` after NOW; and how far it logged."""
    at = datetime.fromtimestamp(NOW.timestamp() + seconds, UTC).isoformat(timespec="seconds")
    content = {"attempts": [{"started_at": at, "ended": ended, "start": start}]}
    (sweep / "cells" / "b" / "manifest.json").write_text(json.dumps(content))
    line = json.dumps({"step": logged, "loss": 1.0})
    (sweep / "cells" / "b" / "metrics.jsonl").write_text(f"{line}\n")


def test_job_steps_are_found_and_told_by_their_phase(sweep):
    def phase():
        (found,) = JobSteps(sweep)()
        assert (found.id, found.cell) == ("17_1.0", "b")
        return found.phase

    assert phase() == COMPILE
    attempt(sweep, -60, logged=5)  # of a process that was killed before this one began
    assert phase() == COMPILE
    attempt(sweep, 2, start=10, logged=10)
    assert phase() == COMPILE
    attempt(sweep, 2, start=10, logged=15)
    assert phase() == STEP
    partial = sweep / "cells" / "b" / "checkpoints" / ".20.partial"
    partial.mkdir()
    os.utime(partial, (NOW.timestamp() - 9,) * 2)  # left there by an earlier one
    assert phase() == STEP
    os.utime(partial, (NOW.timestamp() + 9,) * 2)
    assert phase() == SAVE
    (sweep / "cells" / "b" / "final.json").write_text("{}")
    assert phase() == EVALUATE


def test_a_job_step_is_signalled_by_scancel(sweep):
    assert Process("17_1.0", "b", STEP).send("TERM")
    assert (sweep / "told").read_text() == "--signal=TERM 17_1.0\n"
    assert not Process("17_0.0", "a", STEP).send("KILL")  # it has ended


def test_a_process_here_is_signalled_itself():
    sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert Process(str(sleeping.pid), "a", STEP).send("KILL")
    assert sleeping.wait() == -9
    assert not Process(str(sleeping.pid), "a", STEP).send("KILL")


def test_without_slurm_there_are_no_job_steps(sweep, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert watched.JobSteps(sweep)() == []
