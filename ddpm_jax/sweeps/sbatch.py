"""What a task of a Slurm array does, as one readable file."""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.sweeps.sweep_file import Sweep

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

# What its flags name of other cells must be trained to the end; status tells a cell that is not.
for need in $(cat "$CELL/needs.txt" 2>/dev/null); do
  [ -e "$ROOT/cells/$need/final.json" ] && continue
  echo "$need, which this cell needs, is not trained" >>"$CELL/log.txt"
  printf '{{"exit_code": 1, "step": 0, "what": "train"}}\n' >>"$CELL/tries.jsonl"
  exit 1
done

run train train --flagfile="$CELL/flags.txt" --workdir="$CELL" --lock_wait={lock_wait}{coordinator}
for flags in "$CELL"/measure-*.txt; do
  [ -e "$flags" ] || continue
  result=sweep-$(basename "$flags" .txt | sed 's/^measure-//')
  [ -e "$CELL/eval/$result.json" ] || run "$result" evaluate --flagfile="$flags"
done
"""


def script(
    sweep: Sweep,
    folder: Path,
    array: str,
    num_tasks: int,
    attempts: int,
    at_once: int | None,
    words: Sequence[str] = (),
) -> str:
    """The text of an array's sbatch file.

    Args:
      sweep: `sweep.slurm` are options of sbatch.
      folder: of the arrays, in the sweep's.
      array: its name.
      num_tasks: of it.
      attempts, at_once, words: as of `slurm.run`.
    """
    options: dict[str, Any] = {
        "job-name": sweep.path.stem,
        "array": f"0-{num_tasks - 1}" + (f"%{at_once}" if at_once else ""),
        "output": f"{folder}/{array}-%a.log",
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
        root=shlex.quote(str(folder.parent)),
        array=array,
        python=shlex.quote(sys.executable),
        # A task that is lost ends the others, which say which it was; one that has saved and ends
        # must not have Slurm kill those that still do.
        srun="--kill-on-bad-exit=0 " if several else "",
        words="".join(f" {shlex.quote(word)}" for word in words),
        lock_wait=LOCK_WAIT,
        coordinator=" --coordinator=auto" if several else "",
    )


def _number(value: Any) -> int:
    """Of nodes=2 or "2-4": the largest."""
    digits = re.findall(r"\d+", str(value)) if value is not None else []
    return max(map(int, digits), default=0)
