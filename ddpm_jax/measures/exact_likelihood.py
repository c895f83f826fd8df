"""How likely a model of tokens finds held-out images or captions, exactly, for `evaluate`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax import data
from ddpm_jax.build import conditioning
from ddpm_jax.data import fingerprint
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import bigram
from ddpm_jax.measures import real_data, results
from ddpm_jax.measures.metric import Details, OfModel
from ddpm_jax.measures.results import Figure
from ddpm_jax.trained import language
from ddpm_jax.trained.loaded import Loaded

MOST_CAPTIONS = 2_000  # held-out ones; drawn shapes have no end
COUNTED = 20_000  # captions that the bigram model is counted on
ROWS = {"per_dim": "exact", "per_character": "exact", "per_character_bigram": "a bigram model"}


def check(metric: str, loaded: Loaded, flags: Mapping[str, Any]) -> None:
    """Raises UserError for a model that has no p(x), one that always saw its label."""
    c = loaded.experiment.config
    if c.model.num_classes and not conditioning.ever_hidden(c, "label"):
        raise UserError(
            f"--metrics={metric} measures p(x), and this model was never trained without its "
            "label: train with config.model.label_dropout above 0, or without classes"
        )


def measure(of: OfModel) -> Details:
    """The bits of held-out data by the chain rule, for each value of a pixel or each character.

    Nothing is drawn and nothing bounded: the interval is over the data alone.

    Raises:
      ValueError: for fewer than 2 examples, captions that do not fit the context, or a likelihood
        that is no number.
    """
    measured = of_captions if of.loaded.experiment.reads_text else of_images
    unit, settings, ratios = measured(of)
    figures = {name: figure(*ratio) for name, ratio in ratios.items()}
    report = {"unit": unit, **settings, "figures": {n: f.record() for n, f in figures.items()}}
    return Details(report, figures, settings | {"fingerprint": fingerprint(of.source)})


def of_images(of: OfModel) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The unit, the settings, and by name the bits of each image with the number of its values."""
    images, _ = real_data.arrays(of.source, of.loaded.experiment.codec)
    bits = language.bits(of.loaded, np.asarray(images).reshape(len(images), -1))
    settings = {"num_values": of.source.info.levels, "num_examples": len(bits)}
    sizes = np.full(len(bits), images[0].size)
    return "bits per dimension", settings, {"per_dim": (bits, sizes)}


def of_captions(of: OfModel) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The same of captions and their characters, with a bigram model's bits beside them."""
    captions = [
        language.plain(text)
        for text in data.captions_of(of.source, min(len(of.source), MOST_CAPTIONS))
    ]
    train = real_data.train(of.loaded)
    seen = [language.plain(text) for text in data.captions_of(train, min(len(train), COUNTED))]
    by_pairs = bigram.counted(seen)
    sizes = bigram.num_characters(captions)
    settings = {"num_examples": len(captions), "counted_on": len(seen)}
    bits = {
        "per_character": language.bits_of_texts(of.loaded, captions),
        "per_character_bigram": np.array([by_pairs(text) for text in captions]),
    }
    ratios = {name: (values, sizes) for name, values in bits.items()}
    return "bits per character", settings, ratios


def figure(bits: np.ndarray, sizes: np.ndarray) -> Figure:
    """All bits over all values, with the standard error of a ratio of means."""
    if len(bits) < 2:
        raise ValueError(f"need at least 2 examples, got {len(bits)}")
    if not np.isfinite(bits).all():
        raise ValueError("the likelihood came out as no number: the model diverged")
    ratio = bits.sum() / sizes.sum()
    error = (bits - ratio * sizes).std(ddof=1) / math.sqrt(len(bits)) / sizes.mean()
    return results.normal(float(ratio), float(error))


def table(report: dict[str, Any]) -> str:
    """The figures of `measure` as lines of a Markdown table, and a line that says of what."""
    lines = [f"| {report['unit']} | held-out data | 95% interval |", "| --- | --- | --- |"]
    for name, one in report["figures"].items():
        lines.append(
            f"| {ROWS[name]} | {one['value']:.3f} | {one['low']:.3f} to {one['high']:.3f} |"
        )
    count = report["num_examples"]
    if "num_values" in report:
        what = f"{count} images: probabilities of pixels of {report['num_values']} values"
    else:
        what = f"{count} captions, whose end counts as a character"
    return "\n".join([*lines, "", f"{what}, by the chain rule."])
