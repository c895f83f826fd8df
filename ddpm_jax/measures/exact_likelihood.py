"""How likely a model of tokens finds held-out images, exactly, for `evaluate`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax.build import conditioning, language
from ddpm_jax.data import fingerprint
from ddpm_jax.diffusion.condition_dropout import NULL_VALUE
from ddpm_jax.errors import UserError
from ddpm_jax.measures import real_data, results
from ddpm_jax.measures.metric import Details, OfModel
from ddpm_jax.trained.language import token_log_probs
from ddpm_jax.trained.loaded import Loaded

BATCH_SIZE = 64


def check(metric: str, loaded: Loaded, flags: Mapping[str, Any]) -> None:
    """Raises UserError for a model that has no p(x), one that always saw its label."""
    c = loaded.experiment.config
    if c.model.num_classes and not conditioning.ever_hidden(c, "label"):
        raise UserError(
            f"--metrics={metric} measures p(x), and this model was never trained without its "
            "label: train with config.model.label_dropout above 0, or without classes"
        )


def measure(of: OfModel) -> Details:
    """The bits of held-out images for each value of a pixel, by the chain rule.

    Nothing is drawn and nothing bounded: the interval is over the images alone.

    Raises:
      ValueError: for fewer than 2 images, or a likelihood that is no number.
    """
    experiment = of.loaded.experiment
    images, _ = real_data.arrays(of.source, experiment.codec)
    if len(images) < 2:
        raise ValueError(f"need at least 2 images, got {len(images)}")
    tokens = np.asarray(language.sequences(images))
    none = np.full(BATCH_SIZE, NULL_VALUE)
    found = []
    for start in range(0, len(tokens), BATCH_SIZE):
        places = np.minimum(np.arange(start, start + BATCH_SIZE), len(tokens) - 1)
        each = token_log_probs(experiment, of.loaded.params, tokens[places], none)
        found.append(each[: len(tokens) - start].sum(axis=1))
    bits = -np.concatenate(found) / math.log(2) / tokens.shape[1]
    if not np.isfinite(bits).all():
        raise ValueError("the likelihood came out as no number: the model diverged")
    mean, error = bits.mean(), bits.std(ddof=1) / math.sqrt(len(bits))
    settings = {"num_values": of.source.info.levels, "num_examples": len(bits)}
    report = {
        "unit": "bits per dimension",
        **settings,
        "mean": float(mean),
        "standard_error": float(error),
    }
    protocol = settings | {"fingerprint": fingerprint(of.source)}
    return Details(report, {"per_dim": results.normal(float(mean), float(error))}, protocol)


def table(report: dict[str, Any]) -> str:
    """The figure of `measure` as lines of a Markdown table, and a line that says of what."""
    return "\n".join(
        [
            f"| {report['unit']} | held-out data | standard error |",
            "| --- | --- | --- |",
            f"| exact | {report['mean']:.3f} | {report['standard_error']:.3f} |",
            "",
            f"{report['num_examples']} images: probabilities of pixels of {report['num_values']} "
            "values, by the chain rule.",
        ]
    )
