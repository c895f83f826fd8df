"""What a result depends on beside its config and data: code, packages, settings, machine."""

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = (
    "ddpm_jax",
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "libtpu",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "flax",
    "optax",
    "chex",
    "orbax-checkpoint",
    "grain",
    "array_record",
    "tensorflow-datasets",
    "diffrax",
    "equinox",
    "numpy",
    "scipy",
    "ml_dtypes",
    "ml_collections",
    "pillow",
    "scikit-learn",
    "safetensors",
)
# Of jax.config: what changes numbers.
JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
    "jax_numpy_dtype_promotion",
    "jax_disable_jit",
)
# All that is ever read of the environment: it holds secrets, which a manifest must not.
VARIABLES = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_PLATFORMS",
    "JAX_NUM_CPU_DEVICES",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_DEFAULT_PRNG_IMPL",
    "JAX_THREEFRY_PARTITIONABLE",
    "JAX_DEBUG_NANS",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE",
)
GIT_SECONDS = 10.0  # a repository on a dead network drive must not hold a run up


def describe() -> dict[str, dict[str, Any]]:
    """Code, versions, settings and machine of this process, as JSON holds them.

    Returns:
      {"git": see `git_state`, "versions": {package: version} with python, "jax": {setting: value},
      "variables": those of VARIABLES that are set, "machine": {system, cpu, threads},
      "devices": {platform, kind, count}}; null stands for what is not known or not installed.
    """
    devices = jax.devices()
    return {
        "git": git_state(Path(__file__).parents[1]),
        "versions": {"python": platform.python_version(), **_versions()},
        "jax": {name.removeprefix("jax_"): _setting(name) for name in JAX_SETTINGS},
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "machine": {"system": platform.platform(), "cpu": _cpu(), "threads": _threads()},
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
    }


def git_state(folder: Path) -> dict[str, Any]:
    """Which commit the code in a folder is.

    Args:
      folder: of the code; if git does not track it (an installed package in somebody's repository,
        say), or there is no git, or it does not answer, all is null.

    Returns:
      {"commit", "dirty": whether anything differs from it, or files of the folder are unknown to
      it, "diff_sha256": of what `git diff HEAD` prints}.
    """
    unknown = {"commit": None, "dirty": None, "diff_sha256": None}
    try:
        if not _git(folder, "ls-files", "--", "."):
            return unknown
        commit = _git(folder, "rev-parse", "HEAD").decode().strip()
        diff = _git(folder, "diff", "HEAD", "--no-ext-diff", "--no-color")
        new = _git(folder, "ls-files", "--others", "--exclude-standard", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return unknown
    sha256 = hashlib.sha256(diff).hexdigest()
    return {"commit": commit, "dirty": bool(diff or new), "diff_sha256": sha256}


def _git(folder: Path, *arguments: str) -> bytes:
    # Without what a hook or another repository's shell may have set: GIT_DIR names a repository.
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=variables | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=GIT_SECONDS,
        check=True,
    ).stdout


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _setting(name: str) -> Any:
    value = getattr(jax.config, name, None)  # settings come and go with jax's versions
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _cpu() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, ValueError):
        pass
    return platform.processor() or None


def _threads() -> int | None:
    """How many threads this process may run at once."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
