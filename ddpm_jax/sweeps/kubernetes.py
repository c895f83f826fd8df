"""A sweep as a Kubernetes Indexed Job: one file, D/k8s/job.json, for `kubectl apply -f`.

It is written and not sent. Its shape is that of the published schema of batch/v1 (Kubernetes 1.29
and later, where backoffLimitPerIndex is there); no cluster has run it. Every pod needs the sweep's
folder under the same path, on a volume that all nodes share.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_jax.errors import UserError
from ddpm_jax.sweeps import sbatch, slurm, workdirs
from ddpm_jax.sweeps.sweep_file import Sweep

FOLDER = "k8s"

SCRIPT = """\
set -u
NAME=$(sed -n "$((JOB_COMPLETION_INDEX + 1))p" {cells})
CELL={root}/cells/$NAME
exec >>"$CELL/log.txt" 2>&1
{python} -m ddpm_jax train --flagfile="$CELL/flags.txt" --workdir="$CELL" \
  --lock_wait={wait}{words} || exit $?
for flags in "$CELL"/measure-*.txt; do
  [ -e "$flags" ] || continue
  result=sweep-$(basename "$flags" .txt | sed 's/^measure-//')
  [ -e "$CELL/eval/$result.json" ] && continue
  {python} -m ddpm_jax evaluate --flagfile="$flags"{words} || exit $?
done
"""


def write(
    sweep: Sweep,
    workdir: str | Path,
    *,
    attempts: int,
    at_once: int | None = None,
    words: Sequence[str] = (),
) -> list[str]:
    """Write the Job of all trainings that are not done; returns lines that say so.

    A Job's pods do not wait for each other: cells that need the workdirs of others are left to the
    next Job.

    Exit code 75, stopped and saved, is ignored: the pod is started again and it counts as no
    failure. Other failures are tried again, `attempts` times in all of each index.

    Args:
      sweep: `sweep.k8s` has image, and what else `sweep_file.K8S` names.
      workdir: the sweep's folder, as the pods see it too.
      attempts, at_once, words: as of `slurm.run`.

    Raises:
      UserError: without an image, or for a folder that cannot be written.
    """
    if not sweep.k8s.get("image"):
        raise UserError(
            f"--sweep={sweep.path}: --launcher=k8s needs k8s = dict(image=...), with this package "
            "in it"
        )
    workdir = Path(workdir).absolute()
    unfinished, cells = [*slurm.unfinished(sweep, workdir, attempts)], sweep.trainings()
    todo = [
        name
        for name in unfinished
        if all(workdirs.is_trained(workdir, needed) for needed in cells[name].needs.values())
    ]
    later = len(unfinished) - len(todo)
    if not todo:
        waiting = f"; {later} need others that failed: sweep.py retry" if later else ""
        return [f"nothing to write: every cell is done or failed{waiting}"]
    folder = workdir / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cells.txt").write_text("".join(f"{name}\n" for name in todo))
        content = job(sweep, workdir, len(todo), attempts, at_once, words)
        (folder / "job.json").write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror})") from error
    said = [f"{len(todo)} pods in {folder / 'job.json'}: kubectl apply -f {folder / 'job.json'}"]
    if later:
        said.append(
            f"{later} cells need others that are not trained: once they are, run this again"
        )
    return said


def job(
    sweep: Sweep,
    workdir: Path,
    num_tasks: int,
    attempts: int,
    at_once: int | None,
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """The Job, as JSON. Source: the API reference of batch/v1 Job."""
    options = sweep.k8s
    script = SCRIPT.format(
        cells=shlex.quote(str(workdir / FOLDER / "cells.txt")),
        root=shlex.quote(str(workdir)),
        python=shlex.quote(str(options.get("python", "python"))),
        wait=sbatch.LOCK_WAIT,
        words="".join(f" {shlex.quote(word)}" for word in words),
    )
    container: dict[str, Any] = {
        "name": "cell",
        "image": options["image"],
        "command": ["bash", "-c", script],
    }
    pod: dict[str, Any] = {"restartPolicy": "Never", "containers": [container]}
    if options.get("resources"):
        container["resources"] = dict(options["resources"])
    if claim := options.get("volume_claim"):
        mount = str(options.get("mount_path", workdir))
        container["volumeMounts"] = [{"name": "sweep", "mountPath": mount}]
        pod["volumes"] = [{"name": "sweep", "persistentVolumeClaim": {"claimName": claim}}]
    ignored = {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [workdirs.STOPPED]}}
    # A pod that a node's drain or a preemption ended is no failure of the cell either.
    disrupted = {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    name = "".join(c if c.isalnum() else "-" for c in sweep.path.stem.lower()).strip("-")[:50]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name or "sweep",
            **({"namespace": options["namespace"]} if options.get("namespace") else {}),
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": num_tasks,
            "parallelism": min(at_once or num_tasks, num_tasks),
            "backoffLimitPerIndex": attempts - 1,
            "maxFailedIndexes": num_tasks,
            "podFailurePolicy": {"rules": [ignored, disrupted]},
            "template": {"spec": pod},
        },
    }
