"""A run so small that its training takes a second, by the command itself or in this process."""

import contextlib
import hashlib
import importlib
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import script_server
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from configs import digits
from ddpm_jax import cli
from ddpm_jax.config import config_files, defaults, earlier

ROOT = Path(__file__).parents[1]

# What makes configs/digits.py tiny; {"group.field": value}.
TINY = {
    "data.batch_size": 8,
    "model.channels": 8,
    "model.channel_multipliers": (1,),
    "model.num_blocks": 1,
    "model.num_groups": 4,
    "diffusion.num_steps": 10,
    "diffusion.label_dropout": 0.1,
    "optim.learning_rate": 1e-3,
    "optim.decay": "cosine",
    "optim.warmup_steps": 10,
    "ema.decay": 0.99,
    "train.num_steps": 800,
    "train.log_every": 10,
    "train.checkpoint_every": 100,
    "train.keep_checkpoints": 2,
    "train.sample_every": 400,
    "train.validate_every": 400,
    "train.validate_examples": 20,
    "sample.sampler": "ddim",
    "sample.guidance_scale": 2.0,
    "sample.num_steps": 5,
    "sample.batch_size": 16,
    "sample.grid_size": 20,
    "mesh.data": 1,
}


# A run of a few steps whose program is quick to trace and compile: a transformer of four tokens.
BRIEF = TINY | {
    "model.name": "dit",
    "model.num_heads": 2,
    "model.patch_size": 4,
    "optim.decay": "constant",
    "train.num_steps": 6,
    "train.log_every": 0,
    "train.checkpoint_every": 2,
    "train.sample_every": 0,
    "train.validate_every": 0,
}


def brief_config(**changes) -> ConfigDict:
    """The brief run's config, changed."""
    return tiny_config(BRIEF, **changes)


def tiny_config(fields=TINY, kind="denoiser", **changes) -> ConfigDict:
    """The tiny run's config, changed: tiny_config(train={"num_steps": 3}).

    Options may be named without their dict, sample={"eta": 0.5}, as earlier versions had them. Of
    another kind, fields that only a denoiser has are left out.
    """
    groups: dict = {}
    for name, value in fields.items():
        group, field = name.split(".")
        groups.setdefault(group, {})[field] = value
    config = config_files.override(digits.get_config(), groups)
    config = config if kind == "denoiser" else defaults.as_kind(kind, config)
    changes = {group: earlier.moved(group, fields) for group, fields in changes.items()}
    return config_files.override(config, changes)


def tiny_flags(workdir, fields=TINY, **changes) -> list[str]:
    """The flags of scripts/train.py for the same; a double underscore stands for the dot."""
    fields = fields | {name.replace("__", "."): value for name, value in changes.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["--config=configs/digits.py", f"--workdir={workdir}", *overrides]


def environment() -> dict[str, str]:
    """A script's environment: one CPU device, the tests' compile cache."""
    return os.environ | {"JAX_NUM_CPU_DEVICES": "1"}


def images_of_digits(folder) -> Path:
    """A folder of twenty random 8x8 grey images, labelled as digits are; returns it."""
    rng = np.random.default_rng(0)
    for k in range(20):
        path = Path(folder) / str(k % 10) / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
    return Path(folder)


def script(name, *words, timeout=300) -> subprocess.CompletedProcess:
    """Run scripts/NAME.py to its end in a forked process, from the root."""
    argv = [f"scripts/{name}.py", *map(str, words)]
    return script_server.run(argv, environment(), timeout=timeout)


def fresh_script(name, *words, **options) -> subprocess.CompletedProcess:
    """The same as a user's shell does it: by a Python of its own."""
    return subprocess.run(
        [sys.executable, f"scripts/{name}.py", *map(str, words)],
        cwd=ROOT,
        env=environment(),
        text=True,
        capture_output=True,
        check=False,
        **{"timeout": 300} | options,
    )


@contextlib.contextmanager
def command(name):
    """The module of a command, its flags defined in this process as long as the context lasts."""
    module = importlib.import_module(f"ddpm_jax.commands.{name}.command")
    before, path = set(flags.FLAGS), list(sys.path)
    module.define()
    try:
        yield module
    finally:
        flags.FLAGS.remove_flag_values(set(flags.FLAGS) - before)
        flags.FLAGS.unparse_flags()
        for flag in before:
            flags.FLAGS[flag].unparse()
        sys.path[:] = path


def in_process(name, *words) -> subprocess.CompletedProcess:
    """Run scripts/NAME.py in this process, up to its exit."""
    argv = [str(ROOT / "scripts" / f"{name}.py"), *map(str, words)]
    out, err = io.StringIO(), io.StringIO()
    with (
        command(name) as module,
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(module, "define", return_value=None),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.run_command(module, argv)
        except SystemExit as ended:
            code = ended.code or 0
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def forked(name, *words) -> script_server.Started:
    """Start scripts/NAME.py in a forked process, from the root."""
    argv = [f"scripts/{name}.py", *map(str, words)]
    return script_server.Started(argv, environment())


def start(name, *words, **options) -> subprocess.Popen:
    """The same by a Python of its own: what is on a terminal has to open it."""
    return subprocess.Popen(
        [sys.executable, f"scripts/{name}.py", *map(str, words)],
        cwd=ROOT,
        env=environment(),
        text=True,
        **options,
    )


def free_port() -> int:
    """A port of this machine that nothing listens at, nor at the next one."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            two.bind(("127.0.0.1", port + 1))
            return port


def snapshot(folder) -> dict[str, str]:
    """{relative path: sha256} of every file under a folder, and of every folder: "folder"."""
    folder = Path(folder)
    return {
        path.relative_to(folder).as_posix(): "folder"
        if path.is_dir()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
    }


def metrics(workdir) -> list[dict]:
    """The lines of metrics.jsonl."""
    text = (Path(workdir) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def final(workdir) -> dict:
    """What final.json holds."""
    return json.loads((Path(workdir) / "final.json").read_text())
