"""A source of latents that were made beforehand, in place of its images."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.data.base import Example, Reader, Source, Tolerant
from ddpm_jax.data.captions import CAPTION, Captioned
from ddpm_jax.runtime.shards import Shards

PART_ROWS = 256  # of a file
X0, MIRRORED = "x0", "mirrored"

# (examples' images [n, H, W, C], as they are stored) -> their latents, float32 [n, ...]
Make = Callable[[np.ndarray], np.ndarray]


class LatentSource:
    """The examples of another source, whose images nobody reads any more."""

    def __init__(self, source: Source, arrays: Mapping[str, np.ndarray]):
        """Nothing is copied.

        Args:
          source: of images; of it captions alone are read.
          arrays: [N, ...] by name, in memory or not: "x0", "label", conditions; "mirrored", the x0
            of the mirrored image, where images are mirrored.
        """
        self.info, self._source, self._arrays = source.info, source, arrays
        self._reader: Source | Reader = source.reader if isinstance(source, Tolerant) else source

    @property
    def skipped(self) -> int:
        """How many broken images were replaced while latents were made."""
        return self._source.skipped

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        place = range(len(self))[index]
        example: Example = {name: np.array(values[place]) for name, values in self._arrays.items()}
        if isinstance(self._reader, Captioned):
            example[CAPTION] = self._reader.caption(place)
        return example

    def mirror(self, example: Example) -> Example:
        """The example of the mirrored image."""
        return {**example, X0: example[MIRRORED]}


def cached(
    source: Source,
    make: Make,
    described: Mapping[str, Any],
    directory: Path,
    *,
    flip: bool = False,
    conditions: tuple[str, ...] = (),
) -> LatentSource:
    """The latents of a source's images, read from a directory; what is missing or damaged is made.

    Args:
      source: of images.
      make: what makes latents of them.
      described: as JSON, all that they depend on beside what is here: the data, the encoder.
      directory: where the folder of the latents is, named by a digest of the description.
      flip: make those of mirrored images too.
      conditions: values that are kept of each example beside its label.

    Raises:
      UserError: where a file cannot be written, or an image cannot be read.
    """
    description = {**described, "flip": flip, "conditions": list(conditions)}
    shards = Shards(directory, description, len(source), PART_ROWS)

    def part(rows: range) -> dict[str, np.ndarray]:
        examples = [source[row] for row in rows]
        images = np.stack([example["image"] for example in examples])
        mirrored = {MIRRORED: make(images[:, :, ::-1])} if flip else {}
        return {
            X0: make(images),
            **mirrored,
            **{
                name: np.stack([np.asarray(example[name], np.int32) for example in examples])
                for name in ("label", *conditions)
            },
        }

    return LatentSource(source, shards.together(part))
