"""A run as a member of a group."""

import dataclasses
from pathlib import Path

from ddpm_jax.build.experiment import Experiment
from ddpm_jax.measures.manifest import Manifest
from ddpm_jax.training.checkpoints import Checkpoints


@dataclasses.dataclass(eq=False)
class Member:
    """A run of a group, in a workdir of its own.

    Attributes:
      experiment: the group's, with this member's config.
      workdir, manifest, checkpoints: where it is kept.
      left: why the group leaves it as it is: finished, frozen, trained alone since; "" for one that
        moves. It keeps its place in the program, whose bits depend on how many they are.
      failed: why it will not finish in this group; "" for one that has or may.
    """

    experiment: Experiment
    workdir: Path
    manifest: Manifest
    checkpoints: Checkpoints
    left: str = ""
    failed: str = ""

    @property
    def moves(self) -> bool:
        """Whether it is trained by the group, so far."""
        return not self.left and not self.failed
