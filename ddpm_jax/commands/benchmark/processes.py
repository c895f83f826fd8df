"""Whole processes of this package, and those that work a turn at a time when they are asked."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORKER = "ddpm_jax.commands.benchmark.worker"


class Failed(Exception):
    """A process that could not do its work; the message is the last thing that it said."""


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, which finds this package also where it is not installed.

    Args:
      arguments: of Python.
      variables: of its environment, beside this process's.
    """
    command = [sys.executable, "-P", *arguments]
    environment = _environment(variables)
    return subprocess.run(command, check=True, capture_output=True, env=environment, text=True)


class Worker:
    """A process that sets up one piece of work, and repeats it whenever it is asked to.

    Between two turns it waits for a line, so another worker has the machine. Use as a context
    manager: leaving it ends the process.

    Args:
      spec: what `worker.main` takes; JSON.
      variables: of its environment, beside this process's.
    """

    def __init__(self, spec: Mapping[str, Any], variables: Mapping[str, str] | None = None):
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (until close)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", WORKER],
            env=_environment(variables or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self.facts = self.ask(spec)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer to one request.

        Raises:
          Failed: where it ended instead.
        """
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # it has ended: there is no answer either
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            said = [line.strip() for line in self._errors if line.strip()]
            raise Failed(said[-1][:300] if said else f"it ended with exit code {code}")
        return json.loads(line)

    def turn(self, repeats: int) -> tuple[float, float]:
        """Seconds, and CPU seconds, of a repetition of its work, of so many, all finished."""
        answer = self.ask({"repeats": repeats})
        return answer["seconds"] / repeats, answer["cpu_seconds"] / repeats

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    searched = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, searched)), **variables}
