"""Strict settings: 8 virtual devices, no silent broadcasting, one compile cache."""

import os
import tempfile

# Before jax is imported: the number of CPU devices and the cache are read once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "ddpm_jax_tests_xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A tiny run that scripts/train.py finished: workdir, stdout, stderr. Not to be changed."""
    import tiny_runs

    workdir = tmp_path_factory.mktemp("finished") / "run"
    done = tiny_runs.script("train", *tiny_runs.tiny_flags(workdir))
    assert done.returncode == 0, done.stderr
    done.workdir = workdir
    return done


@pytest.fixture(scope="session")
def unconditional_run(tmp_path_factory):
    """A tiny run without classes on a folder of 8x12 RGB images: workdir, stderr. Not to change."""
    import contextlib
    import io
    import types

    import numpy as np
    import tiny_runs
    from PIL import Image

    from ddpm_jax.commands import train

    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for k in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).save(folder / f"{k}.png")
    (folder / "broken.png").write_bytes(b"no image")
    data = {"name": "folder", "data_dir": str(folder), "image_size": (8, 12), "channels": 3}
    config = tiny_runs.tiny_config(
        data=data | {"on_error": "skip"},
        model={"num_classes": 0},
        diffusion={"label_dropout": 0.0},
        sample={"guidance_scale": 1.0, "grid_size": 3},
        train={"num_steps": 4, "log_every": 2, "sample_every": 4, "validate_every": 4},
        optim={"warmup_steps": 0},
    )
    workdir = tmp_path_factory.mktemp("unconditional") / "run"
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert train.train(config, workdir) == 0
    return types.SimpleNamespace(workdir=workdir, stderr=said.getvalue())
