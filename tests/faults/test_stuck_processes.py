"""Processes that are stuck, stopped for good, or two on one workdir; clocks that jump."""

import datetime
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import script_server
import tensorboard_events
import tiny_runs
from tiny_runs import brief_config

from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.measures import manifest
from ddpm_jax.reporting.progress import Progress
from ddpm_jax.reporting.writers import MetricWriter
from ddpm_jax.runtime import last_acts
from ddpm_jax.training import watchdog
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.watchdog import Watchdog

VICTIM = Path(__file__).with_name("stuck_victim.py")
DEADLINE = 15.0  # the program must be compiled within


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The workdir of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("straight")
    assert train.train(brief_config(), workdir) == 0
    return workdir


@pytest.fixture
def victim(tmp_path):
    """victim(place, **fields): starts a run that gets stuck; returns it when it is."""
    started = []

    def start(place, **changes):
        mark = tmp_path / "mark"
        flags = tiny_runs.tiny_flags(tmp_path / "run", tiny_runs.BRIEF, **changes)
        process = script_server.Started(
            [str(VICTIM), place, str(mark), *flags], tiny_runs.environment()
        )
        started.append(process)
        while not mark.exists() and process.poll() is None:
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)


def attempts(workdir):
    return json.loads((workdir / "manifest.json").read_text())["attempts"]


def assert_whole(workdir, steps):
    with Checkpoints(workdir, read_only=True) as saved:
        assert saved.steps() == steps
        for step in steps:
            saved.verify(step)


def assert_ends_alike(workdir, straight):
    """The same command again ends as the run that nothing disturbed."""
    assert train.train(brief_config(), workdir) == 0
    assert tiny_runs.final(workdir) == tiny_runs.final(straight)


# --- the watchdog


@pytest.mark.wide(3)
def test_a_step_that_never_ends_ends_the_process(victim, straight, tmp_path):
    process = victim("step", train__step_deadline=DEADLINE)
    began = time.monotonic()
    code, (_, said) = process.wait(timeout=60), process.said()
    assert code == 124, said
    assert time.monotonic() - began < DEADLINE + 5
    line = "error: no step for 15 seconds (config.train.step_deadline): the process is stuck and"
    assert line in said
    # Whose stack it is, and that there are others.
    stacks = said.partition(line)[2]
    assert "in wait_for_a_machine_that_is_dead" in stacks, said
    assert stacks.count("hread 0x") > 2
    assert_whole(tmp_path / "run", [2])
    (attempt,) = attempts(tmp_path / "run")
    assert (attempt["exit_code"], attempt["ended"][:6]) == (124, "stuck:")
    assert_ends_alike(tmp_path / "run", straight)


def test_what_is_slow_but_alive_is_left_alone(monkeypatch):
    ends = []
    monkeypatch.setattr(watchdog.os, "_exit", ends.append)
    with watchdog.Watchdog(2.0) as dog:
        for _ in range(15):  # longer than its deadline in all
            time.sleep(0.2)
            dog.tick()
    assert ends == []


@pytest.fixture
def exits(monkeypatch):
    """The codes with which a watchdog ended the process, which goes on."""
    codes = []

    def leave(code):
        codes.append(code)
        threading.Event().wait()  # for whatever else the thread would do

    monkeypatch.setattr(watchdog.os, "_exit", leave)
    monkeypatch.setattr(last_acts, "LAST_SECONDS", 0.2)
    return codes


def await_(codes):
    end = time.monotonic() + 10
    while not codes and time.monotonic() < end:
        time.sleep(0.01)
    return codes


@pytest.mark.parametrize("last", ["raises", "hangs"])
def test_nothing_done_last_keeps_the_process_from_ending(exits, last, capfd):
    def raises():
        raise RuntimeError

    acts = {"raises": raises, "hangs": threading.Event().wait}
    with Watchdog(0.1, acts[last]):
        assert await_(exits) == [124]
    assert "test_nothing_done_last" in capfd.readouterr().err


def test_a_stderr_that_nobody_reads_keeps_no_process_from_ending(exits, monkeypatch):
    class Full:
        def write(self, text):
            threading.Event().wait()

    monkeypatch.setattr(watchdog.sys, "stderr", Full())
    with Watchdog(0.1):
        assert await_(exits) == [124]


# --- signals, and a save that is stuck


@pytest.mark.wide(3)
def test_a_second_signal_ends_at_once_though_a_save_is_stuck(victim, straight, tmp_path):
    process = victim("sync")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None  # it waits for the save
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == -signal.SIGINT
    assert time.monotonic() - began < 2
    assert_whole(tmp_path / "run", [2])
    assert_ends_alike(tmp_path / "run", straight)


@pytest.mark.wide(6)
def test_a_run_whose_last_save_is_stuck_ends_all_the_same(victim, tmp_path):
    # Python itself would wait for the threads that put files on disk, for ever.
    process = victim("sync", train__save_deadline=2.0)
    process.send_signal(signal.SIGTERM)
    code, (_, said) = process.wait(timeout=30), process.said()
    assert code == 2, said
    assert said.splitlines()[-1].startswith("error: step 4 could not be saved: writing to ")
    assert "Traceback" not in said
    assert_whole(tmp_path / "run", [2])
    assert attempts(tmp_path / "run")[-1]["exit_code"] == 2


# --- two processes


@pytest.mark.wide(3)
def test_a_workdir_is_one_process_s_until_that_is_gone(victim, straight, tmp_path):
    workdir = tmp_path / "run"
    process = victim("step")
    while not (workdir / "checkpoints" / "2").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)
    before = tiny_runs.snapshot(workdir)
    with pytest.raises(UserError, match=rf"is in use by process {process.pid} on \S+: wait for it"):
        train.train(brief_config(), workdir)
    assert tiny_runs.snapshot(workdir) == before
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert_ends_alike(workdir, straight)


# --- the clock


@pytest.mark.wide(3)
def test_a_clock_that_jumps_changes_nothing(straight, tmp_path, monkeypatch, capsys):
    hour, year = -3600.0, 365 * 86400.0
    real, offset, advance = time.time, [0.0], Progress.advance
    jumps = {2: hour, 4: year, 5: hour}
    seen = []

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(time.time(), tz)

    def advance_and_jump(self):
        advance(self)
        seen.append(None)
        offset[0] = jumps.get(len(seen), offset[0])

    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    monkeypatch.setattr(manifest, "datetime", Clock)
    monkeypatch.setattr(Progress, "advance", advance_and_jump)
    config = brief_config(
        train={"log_every": 1, "keep_checkpoints": 9, "step_deadline": 60.0, "save_deadline": 30.0}
    )
    assert train.train(config, tmp_path, until=4) == 75
    assert train.train(config, tmp_path) == 0
    assert tiny_runs.final(tmp_path) == tiny_runs.final(straight)
    assert_whole(tmp_path, [2, 4, 6])
    lines = tiny_runs.metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    # A step takes a millisecond to a minute; an hour or a year more would show.
    assert all(1 / 60 < line["steps_per_second"] < 1e5 for line in lines[1:])
    said = capsys.readouterr().err
    assert "stuck" not in said
    first, second = attempts(tmp_path)
    assert first["started_at"] > first["ended_at"] or second["started_at"] > second["ended_at"]
    # The second start's clock was a year ahead, then behind: TensorBoard reads files by name.
    losses = tensorboard_events.scalars(tmp_path / "tensorboard")["loss"]
    assert list(losses) == [1, 2, 3, 4, 5, 6]


def test_event_files_keep_their_order_when_the_clock_goes_back(tmp_path, monkeypatch):
    for step, now in enumerate((2e9, 1e9, 1e9), start=1):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        MetricWriter(tmp_path, step - 1).scalars(step, {"loss": 1.0})
    assert list(tensorboard_events.scalars(tmp_path / "tensorboard")["loss"]) == [1, 2, 3]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3
