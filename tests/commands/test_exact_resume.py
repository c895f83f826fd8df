"""A run that was stopped ends in the state of a run that was not, bit for bit."""

import functools
import os
import pty
import re
import shutil
import signal
import termios
import threading
import time

import pytest
import tiny_runs
from tiny_runs import brief_config

from ddpm_jax.commands.train import train

NUM_STEPS = 24
REMEDY = "run the same command again to go on"


WATCHED = {"sample_every": 12, "validate_every": 12}


def short_config(**changes):
    """Few steps with everything that draws at random: dropout, label drops and flips."""
    groups = {
        "train": {"num_steps": NUM_STEPS, "checkpoint_every": 10, "log_every": 3},
        "model": {"dropout": 0.1},
        "data": {"flip": True},
        "ema": {"decays": (0.9,), "power_stds": (0.1, 0.2), "snapshots_every": 4},
    }
    for group, fields in changes.items():
        groups[group] = groups.get(group, {}) | fields
    return brief_config(**groups)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The workdir of a run that nothing stopped; it validates and draws on the way."""
    workdir = tmp_path_factory.mktemp("straight")
    assert train.train(short_config(train=WATCHED), workdir) == 0
    return workdir


def send(number):
    """Sends this process a signal, when it is called."""
    return functools.partial(os.kill, os.getpid(), number)


@pytest.mark.wide(2)
def test_a_run_that_goes_on_from_an_earlier_step_makes_its_snapshots_again(
    straight, tmp_path, capsys
):
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    (tmp_path / "final.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "24")
    other = bytearray((tmp_path / "averages" / "24.safetensors").read_bytes())
    other[-1] ^= 1
    (tmp_path / "averages" / "24.safetensors").write_bytes(other)
    assert train.train(short_config(train=WATCHED), tmp_path) == 0
    assert "snapshots after step 20 are made again: 24" in capsys.readouterr().err
    assert tiny_runs.final(tmp_path) == tiny_runs.final(straight)
    for step in range(4, 25, 4):
        name = f"averages/{step}.safetensors"
        assert (tmp_path / name).read_bytes() == (straight / name).read_bytes()


def test_stops_anywhere_leave_no_trace(straight, tmp_path, at, capsys):
    # The first step, on a checkpoint, and the last but one.
    stops = {1: signal.SIGTERM, 10: signal.SIGINT, 23: signal.SIGTERM}
    at({step: send(number) for step, number in stops.items()})
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    for step in stops:
        assert train.train(short_config(train=WATCHED), tmp_path) == 75
        said = capsys.readouterr().err.splitlines()[-1]
        assert (
            said == f"stopped and saved at step {step} of 24; run the same command again to go on"
        )
        assert not (tmp_path / "final.json").exists()
        assert (tmp_path / "checkpoints" / str(step)).is_dir()
    assert train.train(short_config(train=WATCHED), tmp_path) == 0
    assert "resuming at step 23" in capsys.readouterr().err
    assert tiny_runs.final(tmp_path) == tiny_runs.final(straight)
    ours, theirs = (tiny_runs.metrics(folder) for folder in (tmp_path, straight))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert [line["step"] for line in ours if "loss" in line] == [*range(3, 25, 3)]
    validation = [[x for x in lines if "validation_loss" in x] for lines in (ours, theirs)]
    assert validation[0] == validation[1]
    assert [line["step"] for line in validation[0]] == [12, 24]
    snapshots = [f"averages/{step}.safetensors" for step in range(4, 25, 4)]
    for name in ("samples/step_000012.png", "samples/step_000024.png", "config.json", *snapshots):
        assert (tmp_path / name).read_bytes() == (straight / name).read_bytes()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.wide(3)
def test_a_longer_run_goes_on_from_a_finished_one(straight, tmp_path, capsys):
    assert train.train(short_config(train={"num_steps": 11}), tmp_path) == 0
    shorter = tiny_runs.final(tmp_path)
    assert shorter["step"] == 11
    assert train.train(short_config(), tmp_path) == 0
    assert "resuming at step 11" in capsys.readouterr().err
    assert tiny_runs.final(tmp_path) == tiny_runs.final(straight)
    # What the digests could hide: that they see nothing.
    assert not set(every(shorter)) & set(every(tiny_runs.final(tmp_path)))


def every(final):
    """What a final.json holds, the digests of averages by name too."""
    final = dict(final)
    return [*final.pop("averages_sha256").values(), *final.values()]


def test_a_signal_at_the_last_step_is_a_finished_run(straight, tmp_path, at):
    at({NUM_STEPS: send(signal.SIGTERM)})
    assert train.train(short_config(), tmp_path) == 0
    assert tiny_runs.final(tmp_path) == tiny_runs.final(straight)


def test_a_run_that_lost_its_last_word_says_it_again(straight, tmp_path):
    # Killed behind the last checkpoint and before final.json.
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    (tmp_path / "final.json").unlink()
    assert train.train(short_config(train=WATCHED), tmp_path) == 0
    assert tiny_runs.final(tmp_path) == tiny_runs.final(straight)


def test_a_run_needs_neither_metrics_nor_checkpoints_on_the_way(straight, tmp_path):
    config = short_config(train={"log_every": 0, "checkpoint_every": 0})
    assert train.train(config, tmp_path) == 0
    names = {path.name for path in tmp_path.iterdir()}
    written = {"config.json", "final.json", "manifest.json", "metrics.jsonl"}
    assert names == written | {"averages", "checkpoints", "tensorboard", ".lock"}
    assert tiny_runs.metrics(tmp_path) == []
    # The last state is kept all the same.
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["24"]
    assert tiny_runs.final(tmp_path) == tiny_runs.final(straight)


def last_step(workdir):
    try:
        return max((line["step"] for line in tiny_runs.metrics(workdir)), default=0)
    except (FileNotFoundError, ValueError):  # not there yet, or a line half written
        return 0


def interrupt(process, workdir, step, number):
    """Send the signal as soon as the run has logged the step; return its exit code."""
    until = time.monotonic() + 120
    while last_step(workdir) < step:
        assert process.poll() is None, f"ended before step {step}"
        assert time.monotonic() < until
        time.sleep(0.003)
    process.send_signal(number)
    return process.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.wide(6)
def test_a_run_on_a_terminal_shows_a_bar_and_stops_at_ctrl_c(tmp_path):
    workdir = tmp_path / "run"
    assert train.train(brief_config(), workdir) == 0
    flags = tiny_runs.tiny_flags(
        workdir, tiny_runs.BRIEF, train__num_steps=800, train__checkpoint_every=100,
        train__log_every=10,
    )  # fmt: skip
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    process = tiny_runs.start("train", *flags, stderr=terminal)
    os.close(terminal)
    shown = []
    reader = threading.Thread(target=_read_all, args=(screen, shown))
    reader.start()
    assert interrupt(process, workdir, 60, signal.SIGINT) == 75
    reader.join()
    text = b"".join(shown).decode()
    assert "resuming at step 6" in text
    assert re.search(r"\r[^\r]*\| \d+/800 \[.*step/s.*images/s=.*loss=[01]\.\d{4}", text), text
    stopped = re.search(rf"stopped and saved at step (\d+) of 800; {REMEDY}", text)
    assert stopped, text
    assert 60 <= int(stopped[1]) < 800
    assert (workdir / "checkpoints" / stopped[1]).is_dir()


def _read_all(screen, shown):
    try:
        while chunk := os.read(screen, 65536):
            shown.append(chunk)
    except OSError:  # the other end is closed
        os.close(screen)
