"""Samples that are to show something: how they are drawn, and what judges them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.data import Dataset
from ddpm_jax.measures import attributes, captioned, captions, clip_score, variations
from ddpm_jax.measures.drawer import Judges
from ddpm_jax.measures.metric import Needs
from ddpm_jax.trained.drawing import Drawing


class Prompted(NamedTuple):
    """How samples are drawn that are to show something, and what judges them.

    Attributes:
      drawing: (loaded, prompts, seed, task=, **scales) -> the samples.
      answered: (the data set, prompts, images, the judges) -> what a metric's `measure` takes.
    """

    drawing: Callable[..., Drawing]
    answered: Callable[[Dataset, Any, np.ndarray, Judges], Any]


def _of_attributes(
    row: Dataset, prompts: Any, images: np.ndarray, judges: Judges
) -> attributes.Answered:
    assert row.describe is not None  # each metric's `check` refuses other data
    return attributes.Answered(row.describe, prompts, images)


def _of_captions(
    row: Dataset, prompts: Any, images: np.ndarray, judges: Judges
) -> captions.CaptionsAnswered:
    return captions.CaptionsAnswered(row.agrees, prompts, images)


def _of_variations(
    row: Dataset, prompts: Any, images: np.ndarray, judges: Judges
) -> variations.VariationsAnswered:
    return variations.VariationsAnswered(row.describe, prompts, images)


# By what a metric needs.
PROMPTED: dict[Needs, Prompted] = {
    Needs.ATTRIBUTES: Prompted(attributes.drawing, _of_attributes),
    Needs.CAPTIONS: Prompted(captions.drawing, _of_captions),
    Needs.VARIATIONS: Prompted(variations.drawing, _of_variations),
    Needs.CAPTIONED: Prompted(captions.drawing, captioned.of),
    Needs.CLIP_SCORED: Prompted(captions.drawing, clip_score.of),
}
