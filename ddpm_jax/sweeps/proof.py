"""What a proof compares, and what it says: two finished sweeps of one file, bit for bit."""

import collections
from pathlib import Path
from typing import Any

from ddpm_jax.sweeps import workdirs
from ddpm_jax.sweeps.sweep_file import Sweep

TABLES = ("report.md", "report.csv", "report.json")


def table(found: dict[str, Any]) -> str:
    """What was found, in lines."""
    kinds = collections.Counter(kill["what"] for kill in found["kills"])
    lines = [
        "every cell ended once, in the same bits; the tables are equal to the byte"
        if found["equal"]
        else "NOT THE SAME:",
        *found["differences"],
        f"{found['cells']} cells, {len(found['kills'])} disturbances: "
        + ", ".join(f"{count} {what}" for what, count in sorted(kinds.items())),
        "in the phases "
        + ", ".join(f"{phase} {count}" for phase, count in found["phases"].items()),
    ]
    if found["not_hit_twice"]:
        lines.append(f"not hit twice: {', '.join(found['not_hit_twice'])}")
    return "\n".join(lines)


def compare(sweep: Sweep, a: Path, b: Path) -> list[str]:
    """What differs of two finished sweeps of one file, in lines; [] for nothing.

    Every training has one final.json with the same state_sha256 and no step twice in metrics.jsonl,
    and the tables are the same bytes.
    """
    lines = []
    for name in sweep.trainings():
        finals = [
            workdirs.json_file(workdirs.folder(root, name) / "final.json") or {} for root in (a, b)
        ]
        states = [final.get("state_sha256") for final in finals]
        if None in states or states[0] != states[1]:
            lines.append(f"{name}: state_sha256 {states[0]} and {states[1]}")
        for root in (a, b):
            folder = workdirs.folder(root, name)
            if len([*folder.rglob("final.json")]) != 1:
                lines.append(f"{folder}: final.json is not there once")
            steps = [
                line["step"]
                for line in workdirs.json_lines(folder / "metrics.jsonl")
                if "loss" in line and "step" in line
            ]
            if len(steps) != len(set(steps)):
                lines.append(f"{folder / 'metrics.jsonl'}: a step stands there twice")
    for name in TABLES:
        texts = [(root / name).read_bytes() if (root / name).exists() else None for root in (a, b)]
        if texts[0] is None or texts[0] != texts[1]:
            lines.append(f"{name} is not the same")
    return lines
