"""How a captioner's texts fit the pictures that they are of, for `evaluate`."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.build.datasets import dataset
from ddpm_jax.config.own_code import Own
from ddpm_jax.data import Source, evenly_spaced, fingerprint
from ddpm_jax.data.captions import CAPTION
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import bigram
from ddpm_jax.measures import exact_likelihood, images_of, real_data, results
from ddpm_jax.measures.metric import Details, OfModel
from ddpm_jax.trained import language
from ddpm_jax.trained.captioning import LoadedCaptioner
from ddpm_jax.trained.loaded import Loaded

MOST_PAIRS = 1_000  # held-out ones; drawn shapes have no end
ROWS = {
    "per_character": "given its own image",
    "per_character_shuffled": "given another image",
    "per_character_bigram": "a bigram model",
}


def agrees(config: ConfigDict, own: Own) -> bool:
    """Whether something says whether a caption is true of an image of these data."""
    return dataset(config, own).agrees is not None


def check_agrees(metric: str, loaded: Loaded, flags: Mapping[str, Any]) -> None:
    """Raises UserError for data whose captions nothing compares with images."""
    c, own = loaded.experiment.config, loaded.experiment.own
    if not agrees(c, own):
        compared = [name for name, one in data.DATASETS.items() if one.agrees]
        raise UserError(
            f"--metrics={metric}: nothing says whether a caption of {c.data.name} is true of an "
            f"image, only of {', '.join(compared)}"
        )


def bits(of: OfModel) -> Details:
    """Bits per character of held-out captions given their images, and given the next one's.

    The second is what the texts alone tell it; the end of a text counts as a character.

    Raises:
      ValueError: for captions that do not fit the context, or a likelihood that is no number.
    """
    loaded: LoadedCaptioner = of.loaded
    images, texts = _pairs(of.source)
    captions = [language.plain(text) for text in texts]
    x0 = loaded.experiment.codec.encode(images)
    train = real_data.train(loaded)
    most = min(len(train), exact_likelihood.COUNTED)
    by_pairs = bigram.counted([language.plain(text) for text in data.captions_of(train, most)])
    sizes = bigram.num_characters(captions)
    each = {
        "per_character": _bits(loaded, captions, x0),
        "per_character_shuffled": _bits(loaded, captions, np.roll(x0, -1, axis=0)),
        "per_character_bigram": np.array([by_pairs(text) for text in captions]),
    }
    figures = {name: exact_likelihood.figure(one, sizes) for name, one in each.items()}
    settings = {"num_examples": len(captions), "counted_on": most}
    content = {**settings, "figures": {name: one.record() for name, one in figures.items()}}
    return Details(content, figures, settings | {"fingerprint": fingerprint(of.source)})


def bits_table(content: dict[str, Any]) -> str:
    """The bits as a Markdown table."""
    lines = ["| bits per character of a caption | held-out data |", "| --- | --- |"]
    lines += [f"| {ROWS[name]} | {results.text(one)} |" for name, one in content["figures"].items()]
    return "\n".join([*lines, "", f"{content['num_examples']} captions, by the chain rule."])


def truth(of: OfModel) -> Details:
    """The share of held-out images of which their own caption, greedily drawn, is true.

    Beside it, of how many the caption of the next one is: chance.
    """
    loaded: LoadedCaptioner = of.loaded
    c, own = loaded.experiment.config, loaded.experiment.own
    is_true: Callable[[np.ndarray, str], bool] | None = dataset(c, own).agrees
    assert is_true is not None  # `check_agrees` sees to it
    images, _ = _pairs(of.source)
    captions = loaded.captions(images)
    shifted = [*captions[1:], captions[0]]
    figures = {
        name: results.share(
            float(np.mean([is_true(*pair) for pair in zip(images, texts, strict=True)])),
            len(images),
        )
        for name, texts in (("share", captions), ("shuffled", shifted))
    }
    content = {
        "num": len(images),
        "figures": {name: one.record() for name, one in figures.items()},
        "examples": captions[:4],
    }
    return Details(content, figures, {"num": len(images), "fingerprint": fingerprint(of.source)})


def truth_table(content: dict[str, Any]) -> str:
    """The shares as a Markdown table, with some captions."""
    own, other = (results.text(content["figures"][name]) for name in ("share", "shuffled"))
    return "\n".join(
        [
            "| captions that are true of | held-out images |",
            "| --- | --- |",
            f"| their own image | {own} |",
            f"| another image | {other} |",
            "",
            f"{content['num']} images; the first captions: {'; '.join(content['examples'])}.",
        ]
    )


def _bits(loaded: LoadedCaptioner, captions: list[str], x0: np.ndarray) -> np.ndarray:
    try:
        return -loaded.log_prob_encoded(captions, x0) / math.log(2)
    except UserError as error:
        raise ValueError(f"{error}; set a larger config.data.context") from error


def _pairs(source: Source) -> tuple[np.ndarray, list[str]]:
    """Images uint8 [N, H, W, C], 0 to 255, with their captions."""
    examples = [source[k] for k in evenly_spaced(source, MOST_PAIRS)]
    images = images_of.of_256_levels([one["image"] for one in examples], source.info)
    return images, [one[CAPTION] for one in examples]
