"""Sweeps whose every figure is made up: the files that trainings and evaluations would leave."""

import json
import textwrap

import numpy as np

from ddpm_jax.sweeps import sweep_file, workdirs

STEPS = 100
STATE = "9f"  # of every cell, at that step
HEAD = """
    from ddpm_jax.sweeps import grid, seeds, zip_
    from configs import digits

    get_config = digits.get_config
"""
PROTOCOL = {
    "seed": 0,
    "parameters": "ema",
    "data": "digits",
    "num_samples": 500,
    "repeats": 1,
    "guides": {},
    "sampling": {"sampler": "ddim", "num_steps": 50},
    "extractor": {"name": "pixels"},
    "reference": {"split": "train", "num": 1437, "fingerprint": "2b"},
    "real": {"train": {"fingerprint": "3c"}},
}
MEASURED = 'evaluate = dict(metrics=("fid", "label_accuracy", "spread"), num_samples=500)'


def sweep(folder, cells, more=MEASURED):
    """A sweep file in a folder, read: `cells` is what sweep() returns, `more` stands beside it."""
    path = folder / "made_up.py"
    text = textwrap.dedent(HEAD) + f"\ndef sweep():\n    return {cells}\n\n{more}\n"
    path.write_text(text)
    return sweep_file.read(path)


def write(made, workdir, figures, *, validation=None, protocol=None, curve=None):
    """A finished workdir of every cell for which `figures(cell)` gives {name: value}.

    Args:
      made: the sweep.
      workdir: its folder.
      figures: of a cell; None for one that is not done.
      validation: of a cell, the last validation loss.
      protocol: of a cell, fields of its protocol that are not the usual ones.
      curve: of a cell, its losses at equal steps.
    """
    for cell in made.cells:
        found = figures(cell)
        if found is None:
            continue
        folder = workdirs.folder(workdir, cell.training)
        (folder / "eval").mkdir(parents=True, exist_ok=True)
        (folder / "final.json").write_text(json.dumps({"step": STEPS, "state_sha256": STATE}))
        (folder / "config.json").write_text(json.dumps({"train": {"num_steps": STEPS}}))
        losses = np.full(5, 1.0) if curve is None else curve(cell)
        lines = [
            {"step": int(step), "loss": float(loss)}
            for step, loss in zip(np.linspace(STEPS / 5, STEPS, len(losses)), losses, strict=True)
        ]
        if validation is not None:
            lines.append({"step": STEPS, "validation_loss": validation(cell)})
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
        if cell.evaluate:
            content = result(cell, found, {} if protocol is None else protocol(cell))
            workdirs.result(workdir, cell).write_text(json.dumps(content))


def result(cell, figures, protocol):
    """What evaluate writes of a cell."""
    steps = cell.values.get("sample.num_steps", 50)
    sampled = {name.rpartition(".")[2]: value for name, value in cell.sampling.items()}
    of_model = {name: value for name, value in figures.items() if name.startswith("bpd")}
    return {
        "format": 2,
        "protocol": {
            **PROTOCOL,
            "sampling": {**PROTOCOL["sampling"], **sampled},
            **protocol,
        },
        "run": {"checkpoint_step": STEPS, "checkpoint": STATE},
        "samples": [
            {
                "guidance_scale": 1.0,
                "nfe": steps,
                "metrics": {n: {"value": v} for n, v in figures.items() if n not in of_model},
            }
        ],
        "held_out_data": {"metrics": {n: {"value": v} for n, v in of_model.items()}},
    }
