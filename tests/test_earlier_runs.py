"""Workdirs that an earlier version of this package wrote: they load, draw, measure and resume.

They are of commit b56274f, the last one before options became dicts; `expected.json` holds what
that commit made of them.
"""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_runs

from ddpm_jax import experiment
from ddpm_jax.build import frozen
from ddpm_jax.measures import manifest
from ddpm_jax.runtime import digests

RUNS = Path(__file__).parent / "earlier_runs"
EXPECTED = json.loads((RUNS / "expected.json").read_text())
NAMES = sorted(path.name for path in RUNS.iterdir() if path.is_dir())


def this_machine():
    """What decides the bits of a training on a CPU: its instructions, its cores, jax's version."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    wanted = ("flags", "model name")
    parts = [line for line in lines if line.split("\t")[0] in wanted]
    text = "\n".join([*parts, sys.platform, jax.__version__])
    return hashlib.sha256(text.encode()).hexdigest()


def copied(name, folder):
    """A copy of an earlier run, for what writes into it."""
    return Path(shutil.copytree(RUNS / name, Path(folder) / name))


def near(drawn, name):
    """Equal within one grey level: another machine rounds otherwise."""
    expected = np.asarray(EXPECTED[name]["samples"], np.int16)
    assert drawn.shape == expected.shape
    assert np.abs(drawn.astype(np.int16) - expected).max() <= 1


def test_each_is_small():
    for name in NAMES:
        size = sum(path.stat().st_size for path in (RUNS / name).rglob("*") if path.is_file())
        assert size < 300_000, name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.wide(4)
def test_it_loads_with_the_digest_that_it_was_saved_with(name):
    loaded = experiment.load(RUNS / name)
    attempts = json.loads((RUNS / name / "manifest.json").read_text())["attempts"]
    assert loaded.checkpoint == attempts[-1]["checkpoints"]["4"]


def test_a_run_can_be_frozen_for_another_ones_objective():
    """Parameters and the digest of their checkpoint, of whatever kind the run is."""
    teacher = frozen.read(RUNS / "denoiser")
    loaded = experiment.load(RUNS / "denoiser")
    assert teacher.checkpoint == loaded.checkpoint
    jax.tree.map(np.testing.assert_array_equal, teacher.params, loaded.params)
    student = dataclasses.replace(loaded.experiment, frozen={"teacher": teacher.params})
    digest = manifest.parts_of(student)["frozen"]["teacher"]
    assert digest == digests.digest(teacher.params)


def test_a_denoiser_draws_what_it_drew():
    near(experiment.load(RUNS / "denoiser").sample(2, labels=[3]), "denoiser")


def test_a_learned_schedule_draws_what_it_drew():
    near(experiment.load(RUNS / "learned_schedule").sample(2), "learned_schedule")


def test_an_upsampler_draws_what_it_drew():
    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    drawn = experiment.load(RUNS / "upsampler").sample(2, conditions={"low_resolution": small})
    near(drawn, "upsampler")


@pytest.mark.wide(3)
def test_a_classifier_reads_what_it_read():
    loaded = experiment.load(RUNS / "classifier")
    image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    time = np.array([3.0], np.float32)
    logits = loaded.model.apply({"params": loaded.params}, image, time)
    np.testing.assert_allclose(logits, EXPECTED["classifier"]["logits"], atol=1e-5)


@pytest.mark.wide(6)
@pytest.mark.slow
def test_a_stopped_one_ends_where_it_would_have_ended(tmp_path):
    """Bit for bit where the machine is the one that made it; elsewhere as near as rounding is."""
    workdir = copied("stopped", tmp_path)
    call = (
        "import sys; from ddpm_jax.config import config_files; from ddpm_jax.commands.train import "
        "train; sys.exit(train.train(config_files.read(sys.argv[1]), sys.argv[1]))"
    )
    # As it was made: the suite's own settings of XLA round otherwise.
    settings = {name: v for name, v in tiny_runs.environment().items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", call, workdir],
        cwd=tiny_runs.ROOT,
        env=settings,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    final = tiny_runs.final(workdir)
    if this_machine() == EXPECTED["machine"]:
        assert final == EXPECTED["stopped"]
    assert final["step"] == 8
    params = experiment.load(workdir, raw_params=True).params
    norms = [float(np.linalg.norm(leaf)) for leaf in jax.tree.leaves(params)]
    np.testing.assert_allclose(norms, EXPECTED["norms"], rtol=1e-4, atol=1e-5)
