"""What a benchmark was asked for, the same record for every section."""

import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

# Where the package lies in its repository; an installed one has no configs beside it.
CONFIGS = Path(__file__).parents[3] / "configs"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and beside what.

    Attributes:
      config: the experiment of the sections that measure one's own.
      config_file: the file that it came from.
      quick: leave out what takes a CPU minutes.
      platform: "cpu", "gpu" or "tpu".
      devices: how many there are.
      sides: beside whom, as (side, mode): ("diffusers", "eager").
      networks: which of them train_step measures; all where none is named.
    """

    config: ConfigDict
    config_file: str
    quick: bool = False
    platform: str = "cpu"
    devices: int = 1
    sides: tuple[tuple[str, str], ...] = ()
    networks: tuple[str, ...] = ()

    def beside(self, peer: str) -> tuple[tuple[str, str], ...]:
        """The sides of one peer: what it has no such work of is measured of ours alone."""
        return tuple((side, mode) for side, mode in self.sides if side == peer)

    @property
    def rounds(self) -> int:
        """Turns of each side of a comparison."""
        return 3 if self.quick else 5

    @property
    def dtypes(self) -> tuple[str, ...]:
        """In which precision networks are measured; a CPU's bfloat16 is slow, and no news."""
        return ("float32",) if self.quick and self.platform == "cpu" else ("float32", "bfloat16")


def config_file(name: str) -> dict[str, Any]:
    """{"config_file": a file of the repository's configs/}, for a worker's spec."""
    return {"config_file": str(CONFIGS / name)}
