"""What the checkpoints of a run are worth: listed, verified, exported."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from ddpm_jax.commands.loading import load
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import digests, files, leaves
from ddpm_jax.training import step_files
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.step_files import Damaged, Unreadable


def show(workdir: Path) -> int:
    """Print a line a step: digest, size, validation loss, what it is; verifies nothing."""
    with Checkpoints(workdir, read_only=True) as saved:
        saved.check(None)
        records, latest, best = saved.records(), saved.latest(), saved.best()
        evaluated = any(record.distance is not None for record in records.values())
        rows: list[tuple[str, ...]] = [
            ("step", "state_sha256", "MB", "validation loss", *["distance"] * evaluated, "")
        ]
        for step in saved.steps():
            if step not in records:
                rows.append((str(step), *[""] * (3 + evaluated), "damaged"))
                continue
            record = records[step]
            size = sum(int(entry.split()[0]) for entry in record.files.values()) / 1e6
            measured = [record.validation_loss, *[record.distance] * evaluated]
            shown = ["" if value is None else f"{value:.6g}" for value in measured]
            kind = [name for name, of in (("latest", latest), ("best", best)) if step == of]
            row = (str(step), record.state_sha256[:16], f"{size:.1f}", *shown, ", ".join(kind))
            rows.append(row)
        rows += [(p.name, *[""] * (3 + evaluated), "set aside") for p in saved.set_aside()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())
    return 0


def verify(workdir: Path, step: int | None) -> int:
    """Compare every file of every step, or of one, with its digests; 1 if one is not whole."""
    damaged = 0
    with Checkpoints(workdir, read_only=True) as saved:
        saved.check(step)
        for one in saved.steps() if step is None else [step]:
            try:
                record = saved.verify(one)
                print(f"step {one}: whole, state_sha256 {record.state_sha256}")
            except Damaged as error:
                damaged += 1
                print(f"step {one}: DAMAGED: {error}")
            except Unreadable as error:
                damaged += 1
                print(f"step {one}: NOT WHOLE: {error}")
    return 1 if damaged else 0


def export(
    workdir: Path,
    step: int | None,
    out: Path,
    raw_params: bool,
    code: Sequence[str] = (),
    *,
    ema: str | None = None,
) -> int:
    """Write the parameters of a step, a moving average unless raw, as one safetensors file.

    Tensors are named by their place, such as down_0/conv/kernel; the file's metadata hold the step
    and the digest of what was exported, of raw parameters that of final.json.

    Raises:
      UserError: for no such run or checkpoint, a name that is not a .safetensors file, or a folder
        that cannot be written.
    """
    if out.suffix != ".safetensors":
        raise UserError(f"--out={out}: name a .safetensors file")
    loaded = load(workdir, code, step=step, ema=ema, raw_params=raw_params)
    tensors = {name: np.asarray(leaf) for name, leaf in leaves.named(loaded.params).items()}
    metadata = {"step": str(loaded.step), "parameters": loaded.parameters}
    metadata["sha256"] = digests.digest(loaded.params)
    metadata["config"] = json.dumps(loaded.experiment.config.to_dict(), sort_keys=True)
    try:
        with files.whole(out) as partial:
            safetensors.numpy.save_file(tensors, partial, metadata)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"--out={out}: cannot write it ({step_files.reason(error)})") from error
    print(
        f"step {loaded.step:,}: {len(tensors)} tensors, "
        f"{sum(t.size for t in tensors.values()):,} parameters in {out}",
        file=sys.stderr,
    )
    return 0
