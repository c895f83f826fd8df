"""How tensors of a file or of a run fit the parameters of their names, and whether any can."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import leaves

MOST_NAMED = 3  # of a kind, in an error


class Fit(NamedTuple):
    """How tensors fit the parameters of their names.

    Attributes:
      shared: names of both, of one shape.
      missing: parameters without a tensor.
      unexpected: tensors without a parameter.
      reshaped: {name: what to say of it} of both with different shapes.
    """

    shared: set[str]
    missing: list[str]
    unexpected: list[str]
    reshaped: dict[str, str]

    @classmethod
    def of(cls, ours: Mapping[str, str], theirs: Mapping[str, str]) -> "Fit":
        """Of {name: "dtype[shape]"} of the parameters and of the tensors."""
        both = ours.keys() & theirs.keys()
        reshaped = {
            name: f"{name} ({theirs[name]} there, {ours[name]} here)"
            for name in sorted(both)
            if _shape(ours[name]) != _shape(theirs[name])
        }
        missing, unexpected = sorted(ours.keys() - both), sorted(theirs.keys() - both)
        return cls(both - reshaped.keys(), missing, unexpected, reshaped)

    def check(self) -> None:
        """Raises ValueError unless all fit."""
        parts = {
            "without a tensor": self.missing,
            "that this network has not": self.unexpected,
            "of another shape": list(self.reshaped.values()),
        }
        listed = [f"{len(all_)} {what}: {few(all_)}" for what, all_ in parts.items() if all_]
        if listed:
            raise ValueError(
                f"its weights are not this network's ({'; '.join(listed)}); set "
                "config.train.init_strict=false to take those that fit, and begin with the others "
                "as they are initialised"
            )

    def lines(self, source: str) -> list[str]:
        """What was left out."""
        parts = {
            f"parameters that {source} has not begin as initialised": self.missing,
            f"tensors of {source} that this network has not are left out": self.unexpected,
            "parameters of another shape begin as initialised": list(self.reshaped.values()),
        }
        return [f"{len(all_)} {what}: {few(all_)}" for what, all_ in parts.items() if all_]


def few(names: Sequence[str]) -> str:
    """The first of them, and how many there are beside."""
    more = f", and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _shape(kind: str) -> str:
    return kind.partition("[")[2]


def check_finite(named: str, tree: Any) -> None:
    """The weights of a network of others are finite.

    Args:
      named: the field that names it, with its value, for the message.
      tree: on the host.

    Raises:
      UserError: with the first few tensors that are not.
    """
    bad = [
        name
        for name, leaf in leaves.named(tree).items()
        if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all()
    ]
    if bad:
        raise UserError(
            f"{named}: {len(bad)} of its tensors are not finite ({few(bad)}); name other weights"
        )
