"""How near samples are to their prompts in a CLIP's embedding, for `evaluate`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.build import conditioning
from ddpm_jax.build.datasets import dataset
from ddpm_jax.data import Dataset, evenly_spaced
from ddpm_jax.errors import UserError
from ddpm_jax.measures import captions, results
from ddpm_jax.measures.captions import CaptionPrompts
from ddpm_jax.measures.clip_judge import FLAG, ClipJudge
from ddpm_jax.measures.drawer import Drawer
from ddpm_jax.measures.results import Figure

PERCENT = 100.0


class Scored(NamedTuple):
    """Images uint8 [N, H, W, C] of `prompts`, and the CLIP that compares them."""

    prompts: CaptionPrompts
    images: np.ndarray
    judge: ClipJudge


def of(row: Dataset, prompts: Any, images: np.ndarray, judges: Mapping[str, Any]) -> Scored:
    """What `measure` takes."""
    return Scored(prompts, images, judges[FLAG])


def check(metric: str, loaded: Drawer, flags: Mapping[str, Any]) -> None:
    """Whether there are captions to draw by, and a CLIP that compares them with what is drawn.

    Args:
      metric: the name of the one that is to be measured, for messages.
      loaded: the model.
      flags: of the command; what FLAG names stands there as FLAG.

    Raises:
      UserError: for a model that reads no text, data without captions, and no CLIP.
    """
    config, own = loaded.experiment.config, loaded.experiment.own
    if not conditioning.reads_text(config):
        raise UserError(
            f"--metrics={metric}: this model reads no text; train one with text among "
            "config.model.conditions"
        )
    if not dataset(config, own).captions:
        raise UserError(f"--metrics={metric}: {config.data.name} has no captions to draw by")
    if flags.get(FLAG) is None:
        raise UserError(
            f"--metrics={metric}: name the CLIP that compares samples and prompts with --{FLAG}, a "
            "run's workdir or a folder of transformers"
        )


def prompts(loaded: Drawer, num: int) -> CaptionPrompts:
    """Held-out captions and their images, evenly spaced, cycled if there are fewer."""
    source = loaded.experiment.source("validation")
    rows = evenly_spaced(source, num)
    return captions.of_rows(source, [rows[k % len(rows)] for k in range(num)])


def measure(scored: Scored) -> tuple[Figure, Figure]:
    """100 max(cosine, 0) of images and their prompts, mean; and of another image's prompts.

    Source: Hessel et al. 2021, "CLIPScore", with the weight 100 of torchmetrics and of the papers
    on text-to-image models, where theirs is 2.5.
    """
    images = scored.judge.embed_images(scored.images).astype(np.float64)
    texts = scored.judge.embed_texts(scored.prompts.captions).astype(np.float64)
    return _mean(images, texts), _mean(images, np.roll(texts, -1, axis=0))


def _mean(images: np.ndarray, texts: np.ndarray) -> Figure:
    scores = PERCENT * np.maximum(np.sum(images * texts, axis=1), 0)
    if len(scores) == 1:
        return Figure(float(scores[0]))
    return results.normal(float(scores.mean()), float(scores.std(ddof=1) / len(scores) ** 0.5))
