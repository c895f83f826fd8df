"""Two runs that parted: what differs around them, and the first step and tensor that differ."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from ddpm_jax.errors import UserError
from ddpm_jax.experiment import lineage, replayed
from ddpm_jax.experiment.lineage import Common, Lineage
from ddpm_jax.experiment.replayed import Programs, Replayed, Seen, Stages
from ddpm_jax.measures.manifest import Entry
from ddpm_jax.runtime import bits, digests, environment, leaves
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step_files import Damaged, Unreadable

# What a bisection can come to.
EQUAL = "equal"  # by their digests; nothing was replayed
DIFFER = "differ"  # the replays do, and `first` says where
REPLAYS_AGREE = "replays agree"  # and the runs' checkpoints do not, or nothing else is on record
UNSTEADY = "unsteady"  # one replay from one state does not come out the same twice

Hosts = tuple[TrainState, TrainState]  # of a and of b
Say = Callable[[str], None]


def bisect(
    run_a: str | Path, run_b: str | Path, stream: TextIO, *, code: Sequence[str] = ()
) -> dict[str, Any]:
    """Find the first step, and in it the first tensor, in which two runs differ.

    Both are trained again with the present code and packages, each by the config of its own
    manifest, from the last equal checkpoint that is still on disk, or from step 0. They are
    compared after 1, 2, 4, ... steps more; where they differ, the step is found by halving. That
    step is then computed stage by stage: batch, draws, loss, gradient, update, parameter, optimizer
    state, moving average, history, key. Nothing is written.

    Args:
      run_a, run_b: workdirs of runs of one network.
      stream: where progress is told, a line at a time.
      code: modules that hold the runs' own parts, "package.module".

    Returns:
      What JSON holds:
      a, b: the workdirs.
      verdict: EQUAL, DIFFER, REPLAYS_AGREE or UNSTEADY.
      differences: {group: lines} of the manifests, from the last equal checkpoint on.
      not_replayed: lines on what is not here as it was there, so that no replay can show it.
      altered: {"a", "b": steps whose checkpoint on disk is not the one that was written}.
      checkpoints: {"equal", "parts", "last"} as in `Common`, and "replayed_from".
      first: {"step", "stage", "tensor"} and what `bits.difference` says of it, or None.
      stages: of that step, each as `bits.compare`; skipped: {"a", "b"}, by the guard; examples:
        {"a", "b"}, their places in the data, where the batches differ.
      reproduced: {"a", "b"}, whether each replay has the recorded digest at `parts`; None where
        nothing was replayed that far.
      on_disk: stages of the two checkpoints of step `parts`, where both are on disk, else None.

    Raises:
      UserError: for a workdir without a run, two of different networks, no common step, parts that
        came from Python or were not handed over.
    """
    runs = lineage.read("a", run_a), lineage.read("b", run_b)
    if runs[0].workdir.resolve() == runs[1].workdir.resolve():
        raise UserError(f"--a and --b both name {run_a}: name two runs")

    def say(line: str) -> None:
        print(line, file=stream, flush=True)

    common = lineage.common(*runs)
    compared_from = common.equal or 0
    record: dict[str, Any] = {
        "a": str(run_a),
        "b": str(run_b),
        "verdict": EQUAL,
        "differences": lineage.differences(*runs, compared_from),
        "not_replayed": [],
        "altered": {"a": runs[0].altered, "b": runs[1].altered},
        "checkpoints": {**common._asdict(), "replayed_from": None},
        "first": None,
        "stages": None,
        "skipped": None,
        "examples": None,
        "reproduced": None,
        "on_disk": None,
    }
    if common.parts is None and common.equal == common.last:
        return record
    return record | _replayed(runs, common, say, code)


def _replayed(
    runs: tuple[Lineage, Lineage], common: Common, say: Say, code: Sequence[str]
) -> dict[str, Any]:
    """What the record holds beside the manifests."""
    here = environment.describe()
    target = common.parts or common.last
    a, b, start, kept = _beginning(runs, common, target, here, say, code)
    around = {flag: dict.fromkeys(side.surroundings) for flag, side in (("a", a), ("b", b))}
    found = {
        "verdict": REPLAYS_AGREE,
        "not_replayed": [
            *(f"a and b: {line}" for line in around["a"] if line in around["b"]),
            *(f"a: {line}" for line in around["a"] if line not in around["b"]),
            *(f"b: {line}" for line in around["b"] if line not in around["a"]),
        ],
        "checkpoints": {**common._asdict(), "replayed_from": start},
        "on_disk": _on_disk(a, b, common.parts),
    }
    say(f"replaying both from step {start:,}")
    stages = _compared(replayed.parts(kept[0]), replayed.parts(kept[1]))
    if first := _first(stages, start):
        return found | {"verdict": DIFFER, "first": first, "stages": stages}
    step, kept = _search(a, b, kept, start, target, say)
    if step is None:
        return found | {"reproduced": _reproduced(runs, kept, common.parts)}
    seen = a.look(kept[0], step), b.look(kept[1], step)
    stages = _compared(seen[0].stages, seen[1].stages)
    first = _first(stages, step)
    found |= {"verdict": DIFFER if first else UNSTEADY, "first": first, "stages": stages}
    found["skipped"] = {"a": seen[0].skipped, "b": seen[1].skipped}
    if stages["batch"]["differing"]:
        found["examples"] = {"a": seen[0].examples, "b": seen[1].examples}
    if first and common.parts:
        say(f"they part in step {step:,}; going on to step {common.parts:,}, which is on record")
        ends = _ends((a, b), seen, step, common.parts)
        found["reproduced"] = _reproduced(runs, ends, common.parts)
    return found


def _beginning(
    runs: tuple[Lineage, Lineage],
    common: Common,
    target: int,
    here: Entry,
    say: Say,
    code: Sequence[str],
) -> tuple[Replayed, Replayed, int, Hosts]:
    """The two replays, the last step from which both can begin, and the states after it."""
    digests_a, digests_b = (run.digests for run in runs)
    replays = functools.partial(_replays, runs, target, here, {}, code)
    on_disk = sorted(runs[0].on_disk.keys() | runs[1].on_disk.keys(), reverse=True)
    for start in (step for step in on_disk if step < target and step <= (common.equal or 0)):
        if digests_a.get(start, 0) != digests_b.get(start, 1):
            continue
        a, b = replays(start)
        for side in (a, b):
            if start in side.run.on_disk and (host := _restored(side, start, say)):
                return a, b, start, (host, host)
    if first := max(run.first for run in runs):
        raise UserError(
            f"--a={runs[0].workdir} and --b={runs[1].workdir} have no common step to begin with: "
            f"no equal checkpoint is on disk, and what came before step {first:,} is not on record"
        )
    a, b = replays(0)
    return a, b, 0, (a.initial(), b.initial())


def _replays(
    runs: tuple[Lineage, Lineage],
    stop: int,
    here: Entry,
    programs: dict[str, Programs],
    code: Sequence[str],
    start: int,
) -> tuple[Replayed, Replayed]:
    a, b = (
        Replayed(flag, run, (start, stop), here, programs, code)
        for flag, run in zip("ab", runs, strict=True)
    )
    _check_networks(a, b)
    return a, b


def _restored(side: Replayed, step: int, say: Say) -> TrainState | None:
    with Checkpoints(side.run.workdir, read_only=True) as checkpoints:
        try:
            return digests.on_host(checkpoints.restore(step, side.shapes()))
        except (Damaged, Unreadable) as error:
            say(f"{error}; beginning elsewhere")
            return None


def _check_networks(a: Replayed, b: Replayed) -> None:
    """Refuse runs whose parameters have other names or shapes. Raises UserError."""
    left, right = (
        {name: digests.kind(leaf) for name, leaf in leaves.named(side.shapes().params).items()}
        for side in (a, b)
    )
    for name in [*left, *right]:
        if left.get(name) != right.get(name):
            there, here = (side.get(name, "not there") for side in (left, right))
            raise UserError(
                f"--a={a.run.workdir} and --b={b.run.workdir} are of two networks: parameter "
                f"{name} is {there} in a and {here} in b; compare runs of one network"
            )


def _search(
    a: Replayed, b: Replayed, kept: Hosts, start: int, target: int, say: Say
) -> tuple[int | None, Hosts]:
    """The first step after which the replays differ, and the states before it.

    None, and the states after `target`, where they do not.
    """

    def advanced(stop: int) -> Hosts:
        return a.train(kept[0], start, stop), b.train(kept[1], start, stop)

    stride = 1
    while start < target:
        stop = min(start + stride, target)
        after = advanced(stop)
        if _agree(after):
            kept, start, stride = after, stop, 2 * stride
            say(f"equal up to step {start:,} of {target:,}")
            continue
        while stop - start > 1:
            middle = (start + stop) // 2
            after = advanced(middle)
            if _agree(after):
                kept, start = after, middle
            else:
                stop = middle
        return stop, kept
    return None, kept


def _agree(hosts: Hosts) -> bool:
    stages = _compared(replayed.parts(hosts[0]), replayed.parts(hosts[1]))
    return not any(stage["differing"] for stage in stages.values())


def _compared(left: Stages, right: Stages) -> dict[str, dict[str, Any]]:
    return {stage: bits.compare(left[stage], right[stage]) for stage in left}


def _first(stages: dict[str, dict[str, Any]], step: int) -> dict[str, Any] | None:
    for name, stage in stages.items():
        if stage["first"] is not None:
            return {"step": step, "stage": name, **stage["first"]}
    return None


def _ends(sides: tuple[Replayed, Replayed], seen: tuple[Seen, Seen], step: int, stop: int) -> Hosts:
    """The states after step `stop`, each from its own after `step`."""
    a, b = (
        side.train(one.after, step, stop) if step < stop else one.after
        for side, one in zip(sides, seen, strict=True)
    )
    return a, b


def _reproduced(
    runs: tuple[Lineage, Lineage], hosts: Hosts, step: int | None
) -> dict[str, bool] | None:
    """Whether each replay came to what its run has on record at a step."""
    if step is None:
        return None
    return {
        name: digests.digests(host)["state_sha256"] == run.digests[step]
        for name, run, host in zip("ab", runs, hosts, strict=True)
    }


def _on_disk(a: Replayed, b: Replayed, step: int | None) -> dict[str, Any] | None:
    """How the two checkpoints of a step differ, where both are there and whole."""
    if step is None or not all(step in side.run.on_disk for side in (a, b)):
        return None
    hosts = [_restored(side, step, lambda line: None) for side in (a, b)]
    if hosts[0] is None or hosts[1] is None:
        return None
    return _compared(replayed.parts(hosts[0]), replayed.parts(hosts[1]))
