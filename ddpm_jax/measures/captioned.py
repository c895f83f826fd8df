"""What a captioner sees in samples, beside what their prompts tell, for `evaluate`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import data
from ddpm_jax.build import conditioning
from ddpm_jax.build.datasets import dataset
from ddpm_jax.data.datasets import Dataset, Follows
from ddpm_jax.errors import UserError
from ddpm_jax.measures import results
from ddpm_jax.measures.captions import CaptionPrompts
from ddpm_jax.measures.drawer import Drawer, Judges
from ddpm_jax.measures.results import Figure
from ddpm_jax.trained.captioning import LoadedCaptioner
from ddpm_jax.trained.places import check_place

WORKDIR = "captioner_workdir"  # the flag that names the judge
JUDGE = "captioner"  # its entry in the protocol of a result


class Captioned(NamedTuple):
    """Images uint8 [N, H, W, C] of `prompts`, who captions them, and what compares two captions."""

    follows: Follows
    prompts: CaptionPrompts
    images: np.ndarray
    judge: LoadedCaptioner


def of(row: Dataset, prompts: Any, images: np.ndarray, judges: Judges) -> Captioned:
    """What `measure` takes."""
    assert row.follows is not None  # `check` refuses other data
    return Captioned(row.follows, prompts, images, judges[JUDGE])


def check(metric: str, loaded: Drawer, flags: Mapping[str, Any]) -> None:
    """Whether a captioner can judge the samples of this model.

    Args:
      metric: the name of the one that is to be measured, for messages.
      loaded: the model.
      flags: of the command, with the run that one of them names, loaded, as JUDGE.

    Raises:
      UserError: for a model that reads no text, data whose captions nothing compares, and a judge
        that is missing, is no captioner, or was trained on other images.
    """
    c, own = loaded.experiment.config, loaded.experiment.own
    if not conditioning.reads_text(c):
        raise UserError(
            f"--metrics={metric}: this model reads no text; train one with text among "
            "config.model.conditions"
        )
    if dataset(c, own).follows is None:
        compared = [name for name, one in data.DATASETS.items() if one.follows]
        raise UserError(
            f"--metrics={metric}: nothing reads back what a caption of {c.data.name} tells, only "
            f"of {', '.join(compared)}"
        )
    judge = flags.get(JUDGE)
    if judge is None:
        raise UserError(f"--metrics={metric}: name a captioner's run with --{WORKDIR}")
    named = f"--{WORKDIR}={flags[WORKDIR]}"
    check_place("captioner", judge.experiment, named)
    theirs = judge.experiment
    if theirs.image_shape != loaded.experiment.image_shape:
        raise UserError(
            f"{named}: it sees images of {theirs.image_shape}, and this model draws "
            f"{loaded.experiment.image_shape}"
        )
    if dataset(theirs.config, theirs.own).build is not dataset(c, own).build:
        raise UserError(
            f"{named}: it was trained on {theirs.config.data.name}, and this model on {c.data.name}"
        )


def measure(answered: Captioned) -> tuple[Figure, ...]:
    """Shares of images whose captions tell what their prompts do; as the row names them.

    All that a prompt tells; the single facts of all prompts; all that another image's prompt tells,
    which is chance; and of captions of which something can be read at all.
    """
    captions = answered.judge.captions(answered.images)
    prompts = answered.prompts.captions
    shares = np.array([*map(answered.follows, prompts, captions)])
    shifted = [*prompts[1:], *prompts[:1]]
    others = np.array([*map(answered.follows, shifted, captions)])
    read = np.array([answered.follows(one, one) is not None for one in captions])
    num = len(captions)
    facts = float(shares[:, 0].sum() / shares[:, 1].sum())
    error = (shares[:, 0] - facts * shares[:, 1]).std(ddof=1) / shares[:, 1].mean() / num**0.5
    return (
        results.share(float((shares[:, 0] == shares[:, 1]).mean()), num),
        results.normal(facts, float(error)),
        results.share(float((others[:, 0] == others[:, 1]).mean()), num),
        results.share(float(read.mean()), num),
    )
