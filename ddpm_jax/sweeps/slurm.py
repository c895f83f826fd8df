"""A sweep on a Slurm cluster: arrays of ordinary jobs, one task a training, and what squeue says.

Slurm does the scheduling: nothing of ours runs on the login node after submission. What a task does
stands in one readable file, D/slurm/ARRAY.sbatch.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.sweeps import sbatch, workdirs
from ddpm_jax.sweeps.sweep_file import Sweep

FOLDER = "slurm"
SUBMITTED = "submitted.jsonl"  # {"job", "tasks": [names]} of each array
USUAL_ARRAY = 1001  # MaxArraySize where Slurm does not say
# Of a job in squeue: it will run, or does; others are over.
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED")
ACTIVE = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING")


def run(
    sweep: Sweep,
    workdir: str | Path,
    *,
    attempts: int,
    at_once: int | None = None,
    words: Sequence[str] = (),
    dry_run: bool = False,
) -> list[str]:
    """Write the arrays of all trainings that are not done or queued, and submit them.

    Args:
      sweep: the sweep; `sweep.slurm` are options of sbatch.
      workdir: its folder, on a file system that the nodes share.
      attempts: tries of a failing cell.
      at_once: tasks at a time; None for as many as the site lets run.
      words: more flags of every command, such as --code_path.
      dry_run: write the files and submit nothing.

    Returns:
      Lines that say what was written and submitted.

    Raises:
      UserError: where there is no sbatch, it refuses, or an option is not the sweep file's to set.
    """
    check(sweep, dry_run)
    workdir = Path(workdir).absolute()
    queued = set() if dry_run else {*queue(workdir)}
    todo = [name for name in unfinished(sweep, workdir, attempts) if name not in queued]
    if not todo:
        return [f"nothing to submit: every cell is done, failed or queued ({len(queued)} queued)"]
    folder = workdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    size = _largest_array()
    said: list[str] = []
    jobs = {t: job for job, tasks in submitted(workdir).items() for t in tasks if t in queued}
    number = 1 + max([int(path.stem.split("-")[1]) for path in folder.glob("array-*.sbatch")] + [0])
    for stage in _stages(sweep, todo):
        for first in range(0, len(stage), size):
            tasks, name = stage[first : first + size], f"array-{number}"
            number += 1
            _write(folder / f"{name}.cells", "".join(f"{one}\n" for one in tasks))
            path = folder / f"{name}.sbatch"
            _write(
                path,
                sbatch.script(sweep, workdir / FOLDER, name, len(tasks), attempts, at_once, words),
            )
            after = _after(sweep, tasks, jobs)
            if dry_run:
                said.append(f"{len(tasks)} tasks in {path}: sbatch {' '.join([*after, str(path)])}")
                jobs |= dict.fromkeys(tasks, f"JOB_OF_{name}")
                continue
            job = _submit(path, after)
            jobs |= dict.fromkeys(tasks, job)
            line = json.dumps({"job": job, "tasks": tasks}).encode()
            files.append(folder / SUBMITTED, line + b"\n", lines=True)
            said.append(f"submitted job {job}: {len(tasks)} tasks, {path}")
    return said


def _stages(sweep: Sweep, todo: Sequence[str]) -> list[list[str]]:
    """The tasks in stages: each needs the workdirs of earlier ones alone, or of what is trained."""
    cells, later = sweep.trainings(), {*todo}

    def depth(name: str) -> int:
        needed = [n for n in cells[name].needs.values() if n in later]
        return 1 + max(map(depth, needed)) if needed else 0

    stages: dict[int, list[str]] = {}
    for name in todo:
        stages.setdefault(depth(name), []).append(name)
    return [stages[k] for k in sorted(stages)]


def _after(sweep: Sweep, tasks: Sequence[str], jobs: Mapping[str, str]) -> list[str]:
    """The words of sbatch for an array that begins when the jobs are over that it needs.

    However they ended: a task whose own need was not trained says so, and no other waits for it.

    Args:
      sweep: the sweep.
      tasks: of the array.
      jobs: those that are queued, by the names of their tasks.
    """
    cells = sweep.trainings()
    needed = (name for task in tasks for name in cells[task].needs.values())
    found = dict.fromkeys(jobs[name] for name in needed if name in jobs)
    return [f"--dependency=afterany:{':'.join(found)}"] if found else []


def check(sweep: Sweep, dry_run: bool) -> None:
    """Refuse what cannot be submitted. Raises UserError as `run`."""
    for name in sweep.slurm:
        if str(name).replace("_", "-") in sbatch.OURS:
            raise UserError(f"--sweep={sweep.path}: slurm sets {name!r}, which the launcher sets")
    if not dry_run and shutil.which("sbatch") is None:
        raise UserError(
            "--launcher=slurm: there is no sbatch on PATH; start it on a login node of the "
            "cluster, or write the script alone with --dry_run"
        )


def queue(workdir: Path) -> dict[str, str]:
    """{training: "queued" or "running"} of what squeue knows of this sweep; {} without Slurm."""
    jobs = submitted(workdir)
    if not jobs or shutil.which("squeue") is None:
        return {}
    try:
        listed = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%F %K %T", f"--jobs={','.join(jobs)}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):  # all of them are over, or it does not answer
        return _each(jobs) if len(jobs) > 1 else {}
    return _read(listed, jobs)


def _each(jobs: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Job by job: squeue refuses a list of which one is long over."""
    found: dict[str, str] = {}
    for job, tasks in jobs.items():
        done = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%F %K %T", f"--jobs={job}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode == 0:
            found |= _read(done.stdout, {job: tasks})
    return found


def _read(listed: str, jobs: Mapping[str, Sequence[str]]) -> dict[str, str]:
    states: dict[str, str] = {}
    for line in listed.splitlines():
        words = line.split()
        if len(words) != 3 or words[0] not in jobs or not words[1].isdecimal():
            continue
        tasks, number = jobs[words[0]], int(words[1])
        if number < len(tasks) and words[2] in (*WAITING, *ACTIVE):
            states[tasks[number]] = "running" if words[2] in ACTIVE else "queued"
    return states


def submitted(workdir: Path) -> dict[str, list[str]]:
    """The tasks of every array that was submitted, by its job's number."""
    jobs = {}
    for line in workdirs.json_lines(workdir / FOLDER / SUBMITTED):
        if isinstance(line.get("job"), str) and isinstance(line.get("tasks"), list):
            jobs[line["job"]] = [str(name) for name in line["tasks"]]
    return jobs


def unfinished(sweep: Sweep, workdir: Path, attempts: int) -> Iterable[str]:
    """Trainings with something to do; those that failed too often wait for `retry`."""
    from ddpm_jax.sweeps import status

    states, _ = status.look(sweep, workdir, attempts)
    over = (workdirs.State.DONE, workdirs.State.FAILED)
    todo = {cell.training for cell in sweep.cells if states[cell.name] not in over}
    return [name for name in sweep.trainings() if name in todo]


def _largest_array() -> int:
    """MaxArraySize: the number of tasks, since their indices begin at 0."""
    try:
        said = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return USUAL_ARRAY
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.MULTILINE)
    return max(int(found.group(1)), 1) if found else USUAL_ARRAY


def _submit(path: Path, words: Sequence[str]) -> str:
    done = subprocess.run(
        ["sbatch", "--parsable", *words, str(path)], capture_output=True, text=True, check=False
    )
    job = done.stdout.strip().split(";")[0]
    if done.returncode or not job.isdecimal():
        reason = " ".join((done.stderr or done.stdout).split())
        raise UserError(f"sbatch refuses {path}: {reason}; see slurm = dict(...) of the sweep file")
    return job


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror})") from error
