"""What the sweep command does."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.sweeps import local, plan, status, sweep_file, workdirs


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    sweep: str
    workdir: Path
    jobs: int
    attempts: int
    words: tuple[str, ...]
    baseline: str | None = None
    allow: tuple[str, ...] = ()

    @classmethod
    def from_flags(cls) -> "Request":
        """Of this process's flags."""
        f = flags.FLAGS
        words = [f"--code_path={path}" for path in f.code_path]
        words += [f"--compile_cache={f.compile_cache}"] if f.compile_cache else []
        return cls(
            f.sweep, Path(f.workdir), f.jobs, f.attempts, tuple(words), f.baseline, tuple(f.allow)
        )


def _plan(request: Request) -> int:
    sweep = sweep_file.read(request.sweep)
    plan.check_workdir(sweep, request.workdir)
    plan.write(sweep, request.workdir)
    print(plan.table(sweep, request.workdir))
    return 0


def _run(request: Request) -> int:
    sweep = sweep_file.read(request.sweep)
    plan.check_workdir(sweep, request.workdir)
    if not all(state.name == "DONE" for state in _states(sweep, request).values()):
        _check(request)
    request.workdir.mkdir(parents=True, exist_ok=True)
    with files.alone(request.workdir):
        plan.write(sweep, request.workdir)
        return local.run(
            sweep,
            request.workdir,
            jobs=request.jobs,
            attempts=request.attempts,
            words=request.words,
        )


def _status(request: Request) -> int:
    sweep = sweep_file.read(request.sweep)
    plan.check_workdir(sweep, request.workdir)
    print(status.table(sweep, request.workdir, request.attempts))
    return 0


def _retry(request: Request) -> int:
    sweep = sweep_file.read(request.sweep)
    plan.check_workdir(sweep, request.workdir)
    folders = [workdirs.folder(request.workdir, name) for name in sweep.trainings()]
    again = sum(map(workdirs.forget_failures, folders))
    print(f"{again} cells may be tried again: sweep.py run", file=sys.stderr)
    return 0


def _report(request: Request) -> int:
    from ddpm_jax.commands.sweep import report  # which imports jax

    sweep = sweep_file.read(request.sweep)
    plan.check_workdir(sweep, request.workdir)
    print(report.write(sweep, request.workdir, request.baseline, request.allow), end="")
    names = ", ".join(report.FILES)
    print(f"wrote {names} in {request.workdir}", file=sys.stderr)
    return 0


def _states(sweep: sweep_file.Sweep, request: Request) -> dict[str, workdirs.State]:
    return status.look(sweep, request.workdir, request.attempts)[0]


def _check(request: Request) -> None:
    """Build every cell's experiment, in a process that imports jax and ends again."""
    argv = [sys.executable, "-m", "ddpm_jax.commands.sweep.check", f"--sweep={request.sweep}"]
    argv += [word for word in request.words if word.startswith("--code_path=")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing said why"]
        raise UserError(lines[-1].removeprefix("error: "))


ACTIONS: dict[str, Callable[[Request], int]] = {
    "plan": _plan,
    "run": _run,
    "status": _status,
    "retry": _retry,
    "report": _report,
}
