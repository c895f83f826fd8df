"""A sweep on a Slurm cluster: arrays of ordinary jobs, one task a training, and what squeue says.

Slurm does the scheduling: nothing of ours runs on the login node after submission. What a task does
stands in one readable file, D/slurm/ARRAY.sbatch.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.sweeps import workdirs
from ddpm_jax.sweeps.sweep_file import Sweep

FOLDER = "slurm"
SUBMITTED = "submitted.jsonl"  # {"job", "tasks": [names]} of each array
USUAL_ARRAY = 1001  # MaxArraySize where Slurm does not say
# Of a job in squeue: it will run, or does; others are over.
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED")
ACTIVE = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING")
# What the script says itself; options of the sweep file come after, and win.
OPTIONS = {"requeue": True, "signal": "TERM@120", "open-mode": "append"}
# Only ours: the tasks of the array, and where they write.
OURS = ("array", "output", "error", "job-name", "chdir", "wrap")
LOCK_WAIT = 600  # seconds for a task that was requeued to wait for its orphan

SCRIPT = """\
#!/usr/bin/env bash
{directives}

# Written by `sweep.py run --launcher=slurm`: each task trains one cell, then measures it.
# Exit code 75 is stopped and saved: the task is queued again, and goes on. Another failure is tried
# again here, {attempts} times in all; then this script ends with srun's own exit code.
set -u
ROOT={root}
NAME=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$ROOT/slurm/{array}.cells")
CELL=$ROOT/cells/$NAME
PYTHON={python}

# The last step that its manifest tells of.
reached() {{
  grep -o '"reached": [0-9]*' "$CELL/manifest.json" 2>/dev/null \\
    | tail -n 1 | grep -o '[0-9]*$' || echo 0
}}

# Stopped and saved: where the site does not queue exit code 75 again, the task does it itself.
again() {{
  if ! scontrol show config | grep -q '^RequeueExit  *=.*\\b75\\b'; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    sleep 60  # it ends this script
  fi
  exit 75
}}

# Ends where the task is no longer this script's: after a lost node it was queued again, and what is
# left of this one has nothing to try.
still_mine() {{
  job=$(scontrol show job "$SLURM_JOB_ID" 2>&1)
  case $job in
    *JobState=RUNNING*) grep -q "Restarts=${{SLURM_RESTART_COUNT:-0}} " <<<"$job" || exit 1 ;;
    *JobState=* | *"Invalid job id"*) exit 1 ;;
  esac  # else the controller does not answer, and srun waits for it
}}

# run WHAT COMMAND...: as often as it may fail. How each try ended stands in tries.jsonl, which
# `sweep.py status` reads.
run() {{
  what=$1; shift
  for try in $(seq {attempts}); do
    srun {srun}"$PYTHON" -m ddpm_jax "$@"{words} >>"$CELL/log.txt" 2>&1
    code=$?
    [ "$code" = 0 ] || still_mine
    printf '{{"exit_code": %d, "step": %d, "what": "%s"}}\\n' \\
      "$code" "$(reached)" "$what" >>"$CELL/tries.jsonl"
    case $code in
      0) return 0 ;;
      75 | 130 | 143) again ;;  # stopped by a signal
    esac
  done
  exit "$code"
}}

run train train --flagfile="$CELL/flags.txt" --workdir="$CELL" --lock_wait={lock_wait}{coordinator}
for flags in "$CELL"/measure-*.txt; do
  [ -e "$flags" ] || continue
  result=sweep-$(basename "$flags" .txt | sed 's/^measure-//')
  [ -e "$CELL/eval/$result.json" ] || run "$result" evaluate --flagfile="$flags"
done
"""


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
    said = []
    number = 1 + max([int(path.stem.split("-")[1]) for path in folder.glob("array-*.sbatch")] + [0])
    for first in range(0, len(todo), size):
        tasks, name = todo[first : first + size], f"array-{number}"
        number += 1
        _write(folder / f"{name}.cells", "".join(f"{one}\n" for one in tasks))
        path = folder / f"{name}.sbatch"
        _write(path, script(sweep, workdir, name, len(tasks), attempts, at_once, words))
        if dry_run:
            said.append(f"{len(tasks)} tasks in {path}: sbatch {path}")
            continue
        job = _submit(path)
        line = json.dumps({"job": job, "tasks": tasks}).encode()
        files.append(folder / SUBMITTED, line + b"\n", lines=True)
        said.append(f"submitted job {job}: {len(tasks)} tasks, {path}")
    return said


def check(sweep: Sweep, dry_run: bool) -> None:
    """Refuse what cannot be submitted. Raises UserError as `run`."""
    for name in sweep.slurm:
        if str(name).replace("_", "-") in OURS:
            raise UserError(f"--sweep={sweep.path}: slurm sets {name!r}, which the launcher sets")
    if not dry_run and shutil.which("sbatch") is None:
        raise UserError(
            "--launcher=slurm: there is no sbatch on PATH; start it on a login node of the "
            "cluster, or write the script alone with --dry_run"
        )


def script(
    sweep: Sweep,
    workdir: Path,
    array: str,
    num_tasks: int,
    attempts: int,
    at_once: int | None,
    words: Sequence[str] = (),
) -> str:
    """The text of an array's sbatch file."""
    options: dict[str, Any] = {
        "job-name": sweep.path.stem,
        "array": f"0-{num_tasks - 1}" + (f"%{at_once}" if at_once else ""),
        "output": f"{workdir / FOLDER}/{array}-%a.log",
        **OPTIONS,
        **{str(name).replace("_", "-"): value for name, value in sweep.slurm.items()},
    }
    directives = "\n".join(
        f"#SBATCH --{name}" + ("" if value is True else f"={value}")
        for name, value in options.items()
        if value is not None and value is not False
    )
    several = any(_number(options.get(name)) > 1 for name in ("nodes", "ntasks", "ntasks-per-node"))
    return SCRIPT.format(
        directives=directives,
        attempts=attempts,
        root=shlex.quote(str(workdir)),
        array=array,
        python=shlex.quote(sys.executable),
        # A task that is lost ends the others, which say which it was; one that has saved and ends
        # must not have Slurm kill those that still do.
        srun="--kill-on-bad-exit=0 " if several else "",
        words="".join(f" {shlex.quote(word)}" for word in words),
        lock_wait=LOCK_WAIT,
        coordinator=" --coordinator=auto" if several else "",
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


def _submit(path: Path) -> str:
    done = subprocess.run(
        ["sbatch", "--parsable", str(path)], capture_output=True, text=True, check=False
    )
    job = done.stdout.strip().split(";")[0]
    if done.returncode or not job.isdecimal():
        reason = " ".join((done.stderr or done.stdout).split())
        raise UserError(f"sbatch refuses {path}: {reason}; see slurm = dict(...) of the sweep file")
    return job


def _number(value: Any) -> int:
    """Of nodes=2 or "2-4": the largest."""
    digits = re.findall(r"\d+", str(value)) if value is not None else []
    return max(map(int, digits), default=0)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror})") from error
