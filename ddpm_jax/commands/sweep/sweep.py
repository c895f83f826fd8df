"""What the sweep command does."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ddpm_jax import cli
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.sweeps import (
    groups,
    kubernetes,
    local,
    plan,
    proof,
    prove,
    slurm,
    status,
    sweep_file,
    workdirs,
)
from ddpm_jax.sweeps.sweep_file import Sweep
from ddpm_jax.sweeps.workdirs import State


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    sweep: str
    workdir: Path
    jobs: int | None
    attempts: int
    words: tuple[str, ...]
    launcher: str
    dry_run: bool
    baseline: str | None
    allow: tuple[str, ...]
    kills: int
    kill_seed: int
    node_loss: str
    measure: bool
    vectorize: str | None
    group: int


def _plan(request: Request) -> int:
    sweep = sweep_file.read(request.sweep)
    plan.check_workdir(sweep, request.workdir)
    print(plan.table(sweep, request.workdir))
    more = {}
    if request.measure:
        cli.start_jax()
        from ddpm_jax.commands.sweep import measure  # imports jax

        more["forecast"] = measure.forecast(sweep, request.workdir.absolute())
        print(measure.table(more["forecast"]))
    plan.write(sweep, request.workdir, **more)
    return 0


def _run(request: Request) -> int:
    sweep = sweep_file.read(request.sweep)
    plan.check_workdir(sweep, request.workdir)
    if request.launcher == "slurm":
        slurm.check(sweep, request.dry_run)
    if request.vectorize is not None and request.launcher != "local":
        raise UserError(
            f"--vectorize={request.vectorize} is of --launcher=local: on a cluster each training "
            "is a task of its own; leave it out"
        )
    if request.dry_run and request.launcher == "local":
        raise UserError("--dry_run is of --launcher=slurm or k8s: sweep.py plan shows the cells")
    states = _states(sweep, request)
    if any(state is not State.DONE for state in states.values()):
        is_local = request.launcher == "local"
        _checked(request, (request.vectorize or groups.AUTO) if is_local else None)
    request.workdir.mkdir(parents=True, exist_ok=True)
    with files.alone(request.workdir):
        plan.write(sweep, request.workdir)
        return LAUNCHERS[request.launcher](sweep, request)


def _local(sweep: Sweep, request: Request) -> int:
    return local.run(
        sweep,
        request.workdir,
        jobs=request.jobs or 1,
        attempts=request.attempts,
        words=request.words,
    )


def _slurm(sweep: Sweep, request: Request) -> int:
    for line in slurm.run(
        sweep,
        request.workdir,
        attempts=request.attempts,
        at_once=request.jobs,
        words=request.words,
        dry_run=request.dry_run,
    ):
        print(line)
    return 0


def _k8s(sweep: Sweep, request: Request) -> int:
    for line in kubernetes.write(
        sweep,
        request.workdir,
        attempts=request.attempts,
        at_once=request.jobs,
        words=request.words,
    ):
        print(line)
    return 0


def _status(request: Request) -> int:
    sweep = sweep_file.read(request.sweep)
    plan.check_workdir(sweep, request.workdir)
    queue = slurm.queue(request.workdir.absolute())
    print(status.table(sweep, request.workdir, request.attempts, queue=queue))
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


def _prove(request: Request) -> int:
    sweep = sweep_file.read(request.sweep)
    if request.launcher == "slurm":
        slurm.check(sweep, dry_run=False)
    if request.launcher not in prove.KINDS:
        raise UserError(f"--launcher={request.launcher}: prove knows {', '.join(prove.KINDS)}")
    _checked(request, None)
    found = prove.prove(
        sweep,
        request.workdir,
        kills=request.kills,
        seed=request.kill_seed,
        jobs=request.jobs or 1,
        launcher=request.launcher,
        node_loss=request.node_loss,
        words=request.words,
    )
    print(proof.table(found))
    return 0 if found["equal"] else 1


def _states(sweep: Sweep, request: Request) -> dict[str, State]:
    return status.look(sweep, request.workdir, request.attempts)[0]


def _check(request: Request) -> int:
    cli.start_jax()
    from ddpm_jax.commands.sweep import check  # imports jax, as no other action does

    sweep = sweep_file.read(request.sweep)
    count = check.check(sweep, request.workdir.absolute())
    print(f"{count:,} settings can be built")
    if request.vectorize is not None:
        from ddpm_jax.commands.sweep import vectorize

        made = vectorize.decide(sweep, request.workdir, request.vectorize)
        plan.write(sweep, request.workdir, groups=made)
    return 0


def _group(request: Request) -> int:
    cli.start_jax()
    from ddpm_jax.commands.sweep import vectorize

    return vectorize.train(sweep_file.read(request.sweep), request.workdir, request.group)


def _checked(request: Request, vectorize: str | None) -> None:
    """`check` in a process of its own, which ends again: the driver is small.

    Unless `vectorize` is None it also decides what is trained in one program.
    """
    argv = [sys.executable, "-m", "ddpm_jax", "sweep", "check", f"--sweep={request.sweep}"]
    argv += [f"--workdir={request.workdir}", *request.words]
    if vectorize is not None:
        argv.append(f"--vectorize={vectorize}")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing said why"]
        raise UserError(lines[-1].removeprefix("error: "))


LAUNCHERS: dict[str, Callable[[Sweep, Request], int]] = {
    "local": _local,
    "slurm": _slurm,
    "k8s": _k8s,
}
ACTIONS: dict[str, Callable[[Request], int]] = {
    "plan": _plan,
    "check": _check,
    "group": _group,
    "run": _run,
    "status": _status,
    "retry": _retry,
    "report": _report,
    "prove": _prove,
}
