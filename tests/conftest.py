"""Strict settings: 8 virtual devices, no silent broadcasting, one compile cache; wide matrices."""

import fcntl
import gc
import json
import os
import shutil
import tempfile
import types

import compiling

# Before jax is imported: the number of CPU devices and the cache are read once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "ddpm_jax_tests_xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

# What the caller's XLA_FLAGS names stays as it is there. Scripts that a test starts inherit them,
# so bits that processes write are of one compiler.
os.environ["XLA_FLAGS"] = compiling.flags(os.environ.get("XLA_FLAGS", ""), compiling.QUICKLY)

import jax
import pytest
import wide_matrices

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="every case of every wide matrix")


def pytest_configure(config):
    # xdist would hand out the files with most tests first: those of few and long tests came last,
    # on one worker, while the other had nothing left to do.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(config, items):
    """Files with slow tests first; of a matrix marked wide(n) the part of this commit."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if config.getoption("--full"):
        return
    marks = {item.nodeid: item.get_closest_marker("wide") for item in items}
    marked = {name: mark.args[0] for name, mark in marks.items() if mark is not None}
    k = wide_matrices.number_of_commits(config.rootpath)
    left_out = marked.keys() - wide_matrices.selected(marked, k)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
    items[:] = [item for item in items if item.nodeid not in left_out]


def pytest_collection_finish():
    """Look for garbage less often, and never among what was imported.

    Tracing makes so many small objects that a tenth of its time went into looking through them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    """Forget compiled programs where a process grew large: workers grew to 4 GB."""
    compiling.stay_small()


def made_once(tmp_path_factory, name, make):
    """(workdir, what make(workdir) said); made by the first worker that asks, read by the others.

    What a worker changed in it, the others would see: tests copy what they change.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers of this session
    workdir, said = root / name / "run", root / name / "said.json"
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).mkdir()
            said.write_text(json.dumps(make(workdir)))
    return types.SimpleNamespace(workdir=workdir, **json.loads(said.read_text()))


@pytest.fixture
def at(monkeypatch):
    """at({step: act}): calls act() after that step, before it is saved or looked after."""
    from ddpm_jax.reporting.progress import Progress

    advance, begin = Progress.advance, Progress.__init__

    def arrange(acts):
        now = {}

        def begin_at(self, start, *args, **kwargs):
            now["step"] = start
            begin(self, start, *args, **kwargs)

        def advance_and_act(self):
            advance(self)
            now["step"] += 1
            if now["step"] in acts:
                acts[now["step"]]()

        monkeypatch.setattr(Progress, "__init__", begin_at)
        monkeypatch.setattr(Progress, "advance", advance_and_act)

    return arrange


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A tiny run that scripts/train.py finished: workdir, stdout, stderr. Not to be changed."""
    import tiny_runs

    def make(workdir):
        done = tiny_runs.fresh_script("train", *tiny_runs.tiny_flags(workdir))
        assert done.returncode == 0, done.stderr
        return {"stdout": done.stdout, "stderr": done.stderr}

    return made_once(tmp_path_factory, "finished", make)


@pytest.fixture(scope="session")
def unconditional_run(tmp_path_factory):
    """A tiny run without classes on a folder of 8x12 RGB images: workdir, stderr. Not to change."""
    import contextlib
    import io

    import numpy as np
    import tiny_runs
    from PIL import Image

    from ddpm_jax.commands.train import train

    def make(workdir):
        folder = workdir.parent / "images"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for k in range(24):
            Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).save(folder / f"{k}.png")
        (folder / "broken.png").write_bytes(b"no image")
        data = {"name": "folder", "data_dir": str(folder), "image_size": (8, 12), "channels": 3}
        config = tiny_runs.brief_config(
            data=data | {"on_error": "skip"},
            model={"num_classes": 0},
            diffusion={"label_dropout": 0.0},
            sample={"guidance_scale": 1.0, "grid_size": 3},
            train={"num_steps": 4, "log_every": 2, "sample_every": 4, "validate_every": 4},
            optim={"warmup_steps": 0},
        )
        with contextlib.redirect_stderr(io.StringIO()) as said:
            assert train.train(config, workdir) == 0
        return {"stderr": said.getvalue()}

    return made_once(tmp_path_factory, "unconditional", make)


@pytest.fixture(scope="session")
def clip_run(tmp_path_factory):
    """A tiny CLIP that was trained without a stop: workdir, stderr. Not to be changed.

    Of its data a pair is held out.
    """
    import contextlib
    import io

    import small_clips

    from ddpm_jax.commands.train import train

    def make(workdir):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            assert train.train(small_clips.config(**small_clips.OF_THE_RUN), workdir) == 0
        return {"stderr": said.getvalue()}

    return made_once(tmp_path_factory, "clip", make)
