"""Whole processes of this package."""

import os
import subprocess
import sys
from pathlib import Path


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, which finds this package also where it is not installed."""
    searched = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, searched))}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, check=True, capture_output=True, env=environment, text=True)
