"""What a frozen tower makes of the texts of a data set: made once, kept on disk, then read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.data.captions import STATES, TEXT, EncodeTexts
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import digests
from ddpm_jax.runtime.shards import Shards

PART_ROWS = 256  # of a file
ROWS = "rows"

# rows int32 [N, L] -> the tower's states, float32 [N, ...]
States = Callable[[np.ndarray], np.ndarray]


class TextStates:
    """The states of the tokens of some texts, by the texts' rows."""

    def __init__(self, rows: np.ndarray, states: np.ndarray):
        """Nothing is copied.

        Args:
          rows: int32 [N, L], all different.
          states: float32 [N, L, W] or another shape of each, in memory or not.
        """
        self._places = {row.tobytes(): k for k, row in enumerate(rows)}
        self._states = states

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the states of one row: (L, W)."""
        return self._states.shape[1:]

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The states of rows [B, L], float32 [B, ...]. Raises UserError for a row that is new."""
        try:
            places = [self._places[row.tobytes()] for row in rows]
        except KeyError as error:
            raise UserError(
                "config.data.cache_text=True: a caption is not among those that were cached when "
                "the run began: its data change while they are read; set False"
            ) from error
        return np.stack([self._states[place] for place in places])

    def beside(self, encode: EncodeTexts) -> EncodeTexts:
        """`encode`, with the states of the rows beside them."""

        def encoded(captions: Sequence[str]) -> Mapping[str, np.ndarray]:
            rows = encode(captions)
            assert isinstance(rows, np.ndarray)
            return {TEXT: rows, STATES: self.of(rows)}

        return encoded


def cached(
    rows: np.ndarray, make: States, described: Mapping[str, Any], directory: Path
) -> TextStates:
    """The states of rows, read from a directory; what is missing or damaged there is made.

    Args:
      rows: int32 [N, L], in any order and more than once.
      make: the tower.
      described: as JSON, all that its states depend on beside the rows.
      directory: where the folder of the states is, named by a digest of rows and description.

    Raises:
      UserError: where a file cannot be written.
    """
    different = np.unique(rows.astype(np.int32), axis=0)
    description = {**described, ROWS: digests.sum_of(different)}
    shards = Shards(directory, description, len(different), PART_ROWS)

    def part(of: range) -> dict[str, np.ndarray]:
        return {STATES: make(different[of.start : of.stop]).astype(np.float32)}

    return TextStates(different, shards.together(part)[STATES])


def rows_of(captions: Iterable[str], encode: EncodeTexts) -> np.ndarray:
    """The different rows of captions, int32 [N, L], a thousand captions at a time."""
    every, found = sorted({*captions}), []
    for start in range(0, len(every), 1000):
        rows = encode(every[start : start + 1000])
        assert isinstance(rows, np.ndarray)
        found.append(rows)
    return np.concatenate(found)
