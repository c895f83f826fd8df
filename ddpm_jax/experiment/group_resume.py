"""Where a group of runs goes on: at the newest step that all of its members have."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddpm_jax.build import replicas
from ddpm_jax.build.starting_weights import StartingWeights
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import running
from ddpm_jax.experiment.member import Member
from ddpm_jax.measures import manifest
from ddpm_jax.training import replicated
from ddpm_jax.training.state import TrainState, reseeded
from ddpm_jax.training.step_files import Damaged

Say = Callable[[str], None]


def resume(
    members: Sequence[Member],
    group: Mapping[str, Any],
    say: Say,
    weights: StartingWeights | None = None,
) -> tuple[list[TrainState], int]:
    """The states of all members, and the step that those go on from which still move.

    A member that is finished, frozen, or was trained alone since, is left as it is
    (`Member.left`).

    Args:
      members: with `left` and `failed` to be filled in.
      group: as the manifest names it.
      say: takes a line for the user.
      weights: that those begin with which have no checkpoint, where they were read already.

    Raises:
      UserError: for a workdir of another group, or members that have no step in common.
    """
    experiment = members[0].experiment
    like = experiment.state_shapes()
    newest = [m.checkpoints.restore_newest(like, say) for m in members]
    for member, saved in zip(members, newest, strict=True):
        _leave(member, saved, group)
    moving = [k for k, m in enumerate(members) if not m.left]
    states = {k: saved[0] for k, saved in enumerate(newest) if saved}
    start, common = _newest_common([members[k] for k in moving], [newest[k] for k in moving], say)
    states |= dict(zip(moving, common, strict=False))
    begin = [k for k in range(len(members)) if k not in states or (k in moving and not start)]
    seeds = [m.experiment.config.seed for m in members]
    fresh = replicas.init_states(experiment, [seeds[k] for k in begin], weights)
    states |= dict(zip(begin, fresh, strict=True))
    return [reseeded(states[k], seeds[k]) for k in range(len(members))], start


def _leave(member: Member, saved: tuple[TrainState, int] | None, group: Mapping[str, Any]) -> None:
    """Say in the member why the group leaves it as it is, if it does."""
    config = member.experiment.config.train
    if running.finished_step(member.workdir) >= config.num_steps:
        member.left = "finished"
        return
    if saved is None:
        return
    state, step = saved
    entry = manifest.last(member.workdir)
    before = group if entry is None else entry["group"]
    if before and before != group:
        raise UserError(
            f"{member.workdir} was trained in another group, of {', '.join(before['members'])}: "
            "another group has other bits; train that one on, or take another --workdir"
        )
    if not before:
        member.left = member.failed = f"trained alone up to step {step:,}: train it on alone"
    elif replicated.is_frozen(state, config.max_skipped):
        member.left = member.failed = (
            f"frozen at step {step:,} after too many skipped steps: train it on alone, or give "
            "its group another --workdir"
        )


def _newest_common(
    members: Sequence[Member], newest: Sequence[tuple[TrainState, int] | None], say: Say
) -> tuple[int, list[TrainState]]:
    """The newest step that all have, and their states there; 0 and none before the first."""
    while True:
        saved = [set(m.checkpoints.steps()) for m in members]
        if not any(saved):
            return 0, []
        common = set.intersection(*saved)
        if not common and not all(saved) and max(map(len, saved)) == 1:
            return 0, []  # it ended while the first step was saved, which comes again
        if not common:
            steps = "; ".join(
                f"{m.workdir.name} {', '.join(map(str, sorted(has))) or 'none'}"
                for m, has in zip(members, saved, strict=True)
            )
            raise UserError(
                f"the members of this group have no checkpoint of the same step ({steps}): train "
                "each of them on alone, or the group in another --workdir"
            )
        states = _at(max(common), members, newest, say)
        if states is not None:
            return max(common), states


def _at(
    step: int,
    members: Sequence[Member],
    newest: Sequence[tuple[TrainState, int] | None],
    say: Say,
) -> list[TrainState] | None:
    """The states at a step; None where one is damaged, which is then set aside."""
    states = []
    for member, saved in zip(members, newest, strict=True):
        if saved and saved[1] == step:
            states.append(saved[0])
            continue
        try:
            states.append(member.checkpoints.restore(step, member.experiment.state_shapes()))
        except Damaged as error:
            say(f"{error}; set aside as {member.checkpoints.put_aside(step).name}")
            return None
    return states
