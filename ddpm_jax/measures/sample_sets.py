"""Sets of samples to be measured: drawn once, kept on disk with their features."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ddpm_jax.evaluation.features import Extractor, Features
from ddpm_jax.measures import feature_space
from ddpm_jax.runtime.shards import Arrays, Shards
from ddpm_jax.trained.drawing import Drawing

PART_IMAGES = 256  # at least, of a file, but where the drawing says fewer
IMAGES = "images"


class SampleSet:
    """The samples of a drawing, part by part; what is on disk is not drawn again."""

    def __init__(self, drawing: Drawing, cache: Path, title: str):
        """Nothing is drawn yet.

        Args:
          drawing: what is drawn.
          cache: the folder of its parts.
          title: of the progress bar.
        """
        self._drawing = drawing
        self._title = title
        self._cache = cache
        self._size = -(-min(PART_IMAGES, drawing.part) // drawing.batch_size) * drawing.batch_size
        self._parts = self._shards({"samples": drawing.description})

    def images(self) -> np.ndarray:
        """uint8 [num, H, W, C], to be read; no more than a part of them is held in memory."""
        with self._bar() as bar:
            return self._parts.together(lambda rows: self._draw(rows, bar))[IMAGES]

    def features(self, extractor: Extractor) -> Features:
        """The features of all samples; of images and features no more than a part's are held."""
        measured = feature_space.kept_as(extractor)
        parts = self._shards({"samples": self._drawing.description, **measured})
        with self._bar() as bar:

            def make(rows: range) -> Arrays:
                _, drawn = self._parts.part(rows.start, lambda rows: self._draw(rows, bar))
                return feature_space.of_images(extractor, drawn[IMAGES])

            return Features(**parts.together(make))

    def _shards(self, description: dict[str, Any]) -> Shards:
        return Shards(self._cache, description, self._drawing.num, self._size)

    def _draw(self, rows: range, bar: tqdm) -> Arrays:
        batches = []
        for batch in self._drawing.batches(rows):
            batches.append(batch)
            bar.update(len(batch))
        return {IMAGES: np.concatenate(batches)}

    def _bar(self) -> tqdm:
        """Of what is still to be drawn."""
        return tqdm(
            total=self._drawing.num,
            initial=self._parts.ready(),
            unit="image",
            desc=self._title,
            leave=False,
            disable=not sys.stderr.isatty(),
        )
