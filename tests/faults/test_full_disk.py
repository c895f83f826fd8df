"""Disks that are full, read-only or stuck: told at once, and the run ends as an undisturbed one."""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest
import tensorboard_events
import tiny_runs
from tensorboardX.proto.event_pb2 import Event
from tiny_runs import brief_config

from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files
from ddpm_jax.data import Batches
from ddpm_jax.errors import Stuck, UserError
from ddpm_jax.measures.watch import Watch
from ddpm_jax.reporting.not_fatal import NotFatal
from ddpm_jax.reporting.progress import Progress
from ddpm_jax.runtime import files
from ddpm_jax.training import checkpoints, step_files
from ddpm_jax.training.checkpoints import Checkpoints

NUM_STEPS, INTERVAL = 8, 2


def config(**changes):
    groups = {"train": {"num_steps": NUM_STEPS, "keep_checkpoints": 9, "log_every": 1}}
    for group, fields in changes.items():
        groups[group] = groups.get(group, {}) | fields
    return brief_config(**groups)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The workdir of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("straight")
    assert train.train(config(), workdir) == 0
    return workdir


def steps_of(workdir):
    with Checkpoints(workdir, read_only=True) as saved:
        return saved.steps()


def assert_whole(workdir, steps):
    """The workdir has these checkpoints, and each holds what was written."""
    with Checkpoints(workdir, read_only=True) as saved:
        assert saved.steps() == steps
        assert saved.latest() == steps[-1]
        for step in steps:
            saved.verify(step)


def ended_alike(workdir, straight):
    return tiny_runs.final(workdir) == tiny_runs.final(straight)


def save_ended():
    """Wait for the save that is on its way."""
    for thread in threading.enumerate():
        if thread.name == checkpoints.WRITER:
            thread.join(20)
            assert not thread.is_alive()


# --- saves that fail


class Unwritable:
    """Ways in which a checkpoint cannot be written: begin, end, and what is said of it."""

    def __init__(self, monkeypatch, workdir):
        self.patch, self.workdir = monkeypatch, workdir
        self.hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def limited(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, self.hard))

    def unlimited(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.hard, self.hard))

    def in_place_of_the_folder(self):
        folder = self.workdir / "checkpoints"
        folder.rename(self.workdir / "away")
        folder.touch()

    def the_folder_again(self):
        folder = self.workdir / "checkpoints"
        folder.unlink()
        (self.workdir / "away").rename(folder)

    def read_only(self):
        def refuse(*_):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        self.rename = os.rename
        self.patch.setattr(checkpoints.os, "rename", refuse)

    def writable(self):
        self.patch.setattr(checkpoints.os, "rename", self.rename)

    def broken(self):
        self.save = step_files.ocp.Checkpointer.save

        def fail(*_, **__):
            raise RuntimeError("boom\nand a traceback")

        self.patch.setattr(step_files.ocp.Checkpointer, "save", fail)

    def mended(self):
        self.patch.setattr(step_files.ocp.Checkpointer, "save", self.save)


WAYS = {
    "size limit": ("limited", "unlimited", "."),
    "a file for the folder": ("in_place_of_the_folder", "the_folder_again", "directory|exists"),
    "read-only": ("read_only", "writable", "Read-only file system"),
    "exception": ("broken", "mended", "boom"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.wide(4)
def test_a_save_that_fails_is_told_and_the_next_ones_work(
    way, straight, tmp_path, at, capsys, monkeypatch
):
    begin, end, reason = WAYS[way]
    disk = Unwritable(monkeypatch, tmp_path)
    said_by = {}

    def spoil():
        save_ended()
        getattr(disk, begin)()

    def failed():
        save_ended()
        said_by[4] = capsys.readouterr().err

    def mend():
        said_by[5] = capsys.readouterr().err
        getattr(disk, end)()
        # As Orbax's threads do that write on after the save has failed.
        (tmp_path / "checkpoints" / ".4.partial").mkdir(exist_ok=True)

    try:
        at({3: spoil, 5: failed, 6: mend, 8: save_ended})
        assert train.train(config(), tmp_path) == 0
    finally:
        disk.unlimited()
    # The save at step 4 fails while step 5 runs, whose end tells it.
    line = rf"step 4 could not be saved \(.*({reason}).*\); the run goes on, and tries again"
    assert len(re.findall(line, said_by[4] + said_by[5])) == 1, said_by
    assert "could not be saved" not in capsys.readouterr().err
    assert_whole(tmp_path, [2, 6, 8])
    assert ended_alike(tmp_path, straight)
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.wide(3)
def test_a_last_save_that_fails_is_an_error_and_the_same_command_ends_alike(
    straight, tmp_path, at, monkeypatch
):
    disk = Unwritable(monkeypatch, tmp_path)

    def spoil():
        save_ended()
        disk.limited()

    at({7: spoil})
    try:
        with pytest.raises(UserError, match=r"step 8 could not be saved in .*same command again$"):
            train.train(config(), tmp_path)
    finally:
        disk.unlimited()
    assert not (tmp_path / "final.json").exists()
    assert_whole(tmp_path, [2, 4, 6])
    at({})
    assert train.train(config(), tmp_path) == 0
    assert ended_alike(tmp_path, straight)


# --- saves that are stuck


@pytest.fixture
def stuck(monkeypatch):
    """A lock that writing a checkpoint waits for, held or not."""
    lock, write = threading.Lock(), step_files.write

    def wait_and_write(*args):
        with lock:
            write(*args)

    monkeypatch.setattr(step_files, "write", wait_and_write)
    return lock


@pytest.mark.wide(3)
def test_a_save_that_is_stuck_is_told_and_the_next_ones_work(straight, tmp_path, at, stuck, capsys):
    def hold():
        save_ended()
        stuck.acquire()

    def past_the_deadline():
        time.sleep(2.2)
        assert "is stuck" not in capsys.readouterr().err

    def told():
        assert capsys.readouterr().err.count("the save of step 4 is stuck: no end after 2 s") == 1
        assert steps_of(tmp_path) == [2]

    def release():
        stuck.release()
        save_ended()

    at({3: hold, 5: past_the_deadline, 6: told, 7: release})
    assert train.train(config(train={"save_deadline": 2.0}), tmp_path) == 0
    said = capsys.readouterr().err
    assert said.count("step 6 was not saved: the save of step 4 is stuck") == 1
    assert "no end after" not in said
    # What was stuck came to its end, and the save after it worked.
    assert_whole(tmp_path, [2, 4, 8])
    assert ended_alike(tmp_path, straight)


@pytest.mark.wide(3)
def test_a_stop_while_a_save_is_stuck_ends_in_time(straight, tmp_path, at, stuck):

    def hold():
        save_ended()
        stuck.acquire()

    at({3: hold})
    began = time.monotonic()
    try:
        with pytest.raises(Stuck, match=r"step 4 could not be saved: .* is stuck; mend that"):
            train.train(config(train={"save_deadline": 0.5}), tmp_path, until=4)
        assert time.monotonic() - began < 30
        assert steps_of(tmp_path) == [2]
        ended = json.loads((tmp_path / "manifest.json").read_text())["attempts"][-1]
        assert (ended["exit_code"], ended["ended"][:6]) == (2, "Stuck:")
    finally:
        stuck.release()
    save_ended()
    assert steps_of(tmp_path) == [2, 4]
    at({})
    assert train.train(config(), tmp_path) == 0
    assert ended_alike(tmp_path, straight)


# --- everything on one small disk


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path):
    """Write to a file until there is no space for a single byte more."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    assert shutil.disk_usage(path.parent).free == 0


def line_of(length):
    """A line of step 0 as long as that, and a little more."""
    return json.dumps({"step": 0, "x": "x" * length}).encode() + b"\n"


def event_of(length):
    """A frame with an event as long as that, and a little more."""
    return tensorboard_events.framed(Event(file_version="x" * length))


def fill_page(path, content_of):
    """Append to a file, to some bytes before the end of a page of the file system."""
    size = path.stat().st_size if path.exists() else 0
    with path.open("ab") as file:
        file.write(content_of((4096 - 80 - size) % 4096))


@pytest.fixture
def nans(monkeypatch):
    """Steps 4 and 8 have batches of NaN."""
    batch_at = Batches.batch_at

    def poisoned(self, step):
        batch = batch_at(self, step)
        if step + 1 in (4, 8):
            batch["x0"] = np.full_like(batch["x0"], np.nan)
        return batch

    monkeypatch.setattr(Batches, "batch_at", poisoned)


@pytest.mark.wide(6)
def test_a_full_disk_stops_no_run(small_disk, tmp_path, at, nans, capsys):
    seen = config(train={"sample_every": 2}, sample={"num_steps": 2})
    workdir, blob = small_disk / "run", small_disk / "blob"

    def fill_up():
        save_ended()
        # The next line will be cut within.
        for name in ("metrics.jsonl", "skipped_steps.jsonl"):
            fill_page(workdir / name, line_of)
        (events,) = (workdir / "tensorboard").iterdir()
        fill_page(events, event_of)
        fill(blob)

    def empty():
        save_ended()
        blob.unlink()

    at({3: fill_up, 6: empty, 8: save_ended})
    assert train.train(seen, workdir) == 0
    said = capsys.readouterr().err
    for name in ("metrics.jsonl", "skipped_steps.jsonl", "samples", "tensorboard", "manifest.json"):
        told = rf"cannot write \S+{name} \(No space left on device\); the run goes on\n"
        assert len(re.findall(told, said)) == 1, (name, said)
        assert len(re.findall(rf"{name} is written again\n", said)) == 1, (name, said)
    assert said.count("step 4 could not be saved (") == 1
    assert "Traceback" not in said

    assert_whole(workdir, [2, 6, 8])
    assert {path.name for path in (workdir / "samples").iterdir()} == {
        f"step_00000{k}.png" for k in (2, 6, 8)
    }
    logged = [line["step"] for line in tiny_runs.metrics(workdir)]
    assert logged == [1, 2, 0, 6, 7, 8]
    skipped = (workdir / "skipped_steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in skipped] == [0, 8]
    assert set(tensorboard_events.images(workdir / "tensorboard")["samples"]) == {2, 6, 8}
    losses = tensorboard_events.scalars(workdir / "tensorboard")["loss"]
    assert set(losses) == {1, 2, 6, 7}  # no number at step 8
    (attempt,) = json.loads((workdir / "manifest.json").read_text())["attempts"]
    assert list(attempt["checkpoints"]) == ["2", "6", "8"]
    at({})
    assert train.train(seen, tmp_path / "straight") == 0
    assert ended_alike(workdir, tmp_path / "straight")


def test_a_disk_that_is_full_from_the_beginning_is_said_in_a_line(
    small_disk, straight, monkeypatch
):
    workdir = small_disk / "run"
    shutil.copytree(straight, workdir)
    (workdir / "final.json").unlink()
    fill(small_disk / "blob")
    before = tiny_runs.snapshot(workdir / "checkpoints")
    for name in ("config.json", "final.json"):
        with pytest.raises(UserError, match=rf"cannot write \S+/{name} \(No space .* again$"):
            train.train(config(), workdir)
        if name == "config.json":  # make room for that alone, and for the file beside it
            os.truncate(small_disk / "blob", (small_disk / "blob").stat().st_size - 4096)
            monkeypatch.setattr(config_files, "write", lambda *_: None)
    assert tiny_runs.snapshot(workdir / "checkpoints") == before
    (small_disk / "blob").unlink()
    assert train.train(config(), workdir) == 0
    assert ended_alike(workdir, straight)


# --- the parts


def test_what_is_not_fatal_is_told_once_until_it_works_again():
    said = []
    one = NotFatal("the file", said.append)

    def attempt(error=None):
        with one:
            if error:
                raise error

    attempt()
    for _ in range(3):
        attempt(OSError(errno.ENOSPC, "No space"))
    attempt()
    attempt()
    attempt(OSError("odd"))
    assert said == [
        "cannot write the file (No space); the run goes on",
        "the file is written again",
        "cannot write the file (odd); the run goes on",
    ]
    with pytest.raises(ZeroDivisionError):
        attempt(ZeroDivisionError())


def test_what_is_appended_is_there_whole_or_not_at_all(small_disk):
    path = small_disk / "lines"
    files.append(path, b"first\n", lines=True)
    fill(small_disk / "blob")
    with pytest.raises(OSError, match="No space"):
        files.append(path, b"x" * 5000 + b"\n", lines=True)
    assert path.read_bytes() == b"first\n"
    (small_disk / "blob").unlink()
    with path.open("ab") as file:
        file.write(b"torn")
    files.append(path, b"second\n", lines=True)
    files.append(path, b"third\n", lines=True)
    assert path.read_bytes() == b"first\ntorn\nsecond\nthird\n"


def test_a_file_that_could_not_be_written_leaves_no_half(small_disk):
    path = small_disk / "content.json"
    files.write_json(path, {"a": 1})
    fill(small_disk / "blob")
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": "x" * 5000})
    assert files.read_json(path) == {"a": 1}
    assert {p.name for p in small_disk.iterdir()} == {"content.json", "blob"}


def test_little_space_is_told_once_and_again_when_it_had_recovered(
    straight, tmp_path, monkeypatch, capsys
):
    free = iter([0.5, 0.4, 3.0, 0.3])

    def usage(path):
        return shutil._ntuple_diskusage(0, 0, 1e9 * next(free))

    saved = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, *_: saved.append(None))
    watch = Watch.__new__(Watch)
    watch.config, watch.workdir, watch.progress = config(), tmp_path, Progress(0, 1, 1)
    watch._validated, watch._evaluated, watch._scarce = (-1, 0.0), (-1, 0.0), False
    monkeypatch.setattr(shutil, "disk_usage", usage)
    told = []
    with Checkpoints(tmp_path) as at_hand:
        for step in range(4):
            watch.save(at_hand, step, None)
            told.append(capsys.readouterr().err)
    assert [re.findall(r"only ([\d.]+) GB are free", line) for line in told] == [
        ["0.50"],
        [],
        [],
        ["0.30"],
    ]
    assert "config.train.min_free_gb=1:" in told[0]
