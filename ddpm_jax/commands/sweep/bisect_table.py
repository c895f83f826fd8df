"""What a bisection of two runs came to, in lines for a person to read."""

from typing import Any

from ddpm_jax.commands.sweep.bisect import DIFFER, EQUAL, REPLAYS_AGREE, UNSTEADY


def table(record: dict[str, Any]) -> str:
    """What a bisection came to, in lines for a person to read."""
    lines = [f"a: {record['a']}", f"b: {record['b']}", ""]
    for group, differing in record["differences"].items():
        lines += [f"{group}: {line}" for line in differing]
    if not any(record["differences"].values()):
        lines.append("the manifests differ in nothing that they hold")
    for name, steps in record["altered"].items():
        lines += [
            f"{name}: the checkpoint of step {step:,} is not the one that its manifest has"
            for step in steps
        ]
    lines += ["", _of_checkpoints(record["checkpoints"])]
    if record["not_replayed"]:
        lines += ["not as it was, so that no replay shows it:"]
        lines += [f"  {line}" for line in record["not_replayed"]]
    lines += ["", *_of_verdict(record)]
    if record["stages"]:
        lines += ["", *_of_stages(record["stages"])]
    if record["on_disk"] and record["verdict"] == REPLAYS_AGREE:
        lines += ["", f"the two checkpoints of step {record['checkpoints']['parts']:,} on disk:"]
        lines += _of_stages(record["on_disk"])
    return "\n".join(lines)


def _of_checkpoints(checkpoints: dict[str, Any]) -> str:
    equal, parts, start = (checkpoints[name] for name in ("equal", "parts", "replayed_from"))
    known = "no equal checkpoint" if equal is None else f"checkpoints equal up to step {equal:,}"
    known += "" if parts is None else f", different at step {parts:,}"
    return known if start is None else f"{known}; replayed from step {start:,}"


def _of_verdict(record: dict[str, Any]) -> list[str]:
    """What the replays showed, and how far that explains the runs."""
    verdict, checkpoints, first = record["verdict"], record["checkpoints"], record["first"]
    reproduced, parts = record["reproduced"], checkpoints["parts"]
    if verdict == EQUAL:
        return [f"equal in every bit up to step {checkpoints['last']:,}, the last that both have"]
    if verdict == UNSTEADY:
        return [
            "the replays differed, and did not when the step was looked at: here one state and one "
            "batch do not always give the same bits; set XLA's flags for determinism and try again"
        ]
    if verdict == DIFFER:
        lines = [f"first difference: step {first['step']:,}, {first['stage']}: {_of_tensor(first)}"]
        lines += _of_examples(record["examples"])
        skipped = record["skipped"] or {}
        lines += [f"{name} skips this step" for name, yes in skipped.items() if yes]
        if first["stage"] == "parameter" and first["step"] and not any(skipped.values()):
            lines.append(
                "the updates are equal where they are computed by themselves: the two compiled "
                "steps round differently"
            )
    elif parts is None:
        return [f"the replays are equal in every bit up to step {checkpoints['last']:,}"]
    elif reproduced and all(reproduced.values()):
        lines = [
            f"equal in every number up to step {parts:,}; the checkpoints differ by what the state "
            "of one alone holds"
        ]
    else:
        lines = [
            f"the replays are equal in every bit up to step {parts:,}, where the runs are not: "
            "what made them differ is neither in their configs nor in the data that are here, but "
            "in code, packages, hardware or threads, or happened while one of them ran"
        ]
    if reproduced:
        again = {True: "reproduces", False: "does not reproduce"}
        lines += [
            f"the replay {again[reproduced[name]]} {name}'s checkpoint of step {parts:,}"
            for name in "ab"
        ]
    return lines


def _of_examples(examples: dict[str, list[int]] | None) -> list[str]:
    if examples is None:
        return []
    a, b = examples["a"], examples["b"]
    if a == b:
        return ["the batches are of the same places in the data, which hold something else"]
    return [f"the batches are of other places in the data: {a} in a, {b} in b"]


def _of_stages(stages: dict[str, dict[str, Any]]) -> list[str]:
    width = max(map(len, stages))
    lines = []
    for name, stage in stages.items():
        said = f"{stage['differing']} of {stage['tensors']} tensors differ"
        if stage["first"]:
            said += f", first {_of_tensor(stage['first'])}"
        alone = [f"{len(names)} in {side} alone" for side, names in stage["alone"].items() if names]
        lines.append(f"  {name:<{width}}  {'; '.join([said, *alone])}")
    return lines


def _of_tensor(first: dict[str, Any]) -> str:
    """A tensor and its difference, as `bits.difference` has it."""
    if "elements" not in first:
        return f"{first['tensor'] or 'whole'} is {first['a']} in a and {first['b']} in b"
    a, b, away, relative = (
        "not finite" if first[name] is None else f"{first[name]:.6g}"
        for name in ("a", "b", "max_abs", "relative_l2")
    )
    where = ", ".join(map(str, first["index"]))
    return (
        f"{first['tensor'] or 'whole'}, {first['elements']:,} of {first['of']:,} elements, by up "
        f"to {away} (at [{where}]: {a} in a, {b} in b), relative L2 {relative}"
    )
