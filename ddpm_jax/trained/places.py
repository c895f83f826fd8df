"""Whether a run can stand where another one is asked for, by its kind's record alone."""

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.build.kinds import KINDS
from ddpm_jax.errors import UserError


def check_place(place: str, experiment: Experiment, named: str) -> None:
    """Raises UserError for a run of a kind that cannot stand in a place.

    Args:
      place: as `Kind.place` has it.
      experiment: the run's.
      named: the flag, field or keyword that named it, for the message.
    """
    kind = experiment.kind
    if kind.place != place:
        first, *others = [one for one in KINDS.values() if one.place == place]
        fit = " or ".join([first.one, *(one.noun for one in others)])
        raise UserError(f"{named}: that run is {kind.one}; name the run of {fit}")
