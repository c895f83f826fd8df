"""Where the package keeps what it can make again."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The package's folder in the user's cache directory."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "ddpm_jax"
