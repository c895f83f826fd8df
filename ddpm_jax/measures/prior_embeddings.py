"""How near a prior's embeddings are to those of the images that have the texts, for `evaluate`."""

from typing import Any

import numpy as np

from ddpm_jax.data import captions_of, evenly_spaced, fingerprint
from ddpm_jax.measures import results
from ddpm_jax.measures.metric import Details, OfModel
from ddpm_jax.trained.prior import LoadedPrior

NUM_PAIRS = 256


def compare(of: OfModel) -> Details:
    """Mean cosines to the embedding of the image that a text is of.

    Of the prior's embedding, of the text's own, of the prior's of another pair's text, and of
    another image: a prior is of use where the first is above all others.
    """
    loaded: LoadedPrior = of.loaded
    num = of.num_pairs or NUM_PAIRS
    rows, texts = evenly_spaced(of.source, num), [*captions_of(of.source, num)]
    stored = np.stack([of.source[k]["image"] for k in rows])
    images = loaded.clip.embed_encoded(
        loaded.experiment.codec.encode(stored, of.source.info.levels)
    )
    drawn = loaded.embed(texts, seed=of.seed)
    others = {
        "drawn": drawn,
        "text": loaded.clip.embed_texts(texts),
        "shuffled": np.roll(drawn, 1, axis=0),
        "other_image": np.roll(images, 1, axis=0),
    }
    figures = {}
    for name, vectors in others.items():
        cosines = np.sum(vectors * images, axis=1).astype(np.float64)
        figures[name] = results.normal(cosines.mean(), cosines.std(ddof=1) / len(cosines) ** 0.5)
    content: dict[str, Any] = {
        "num": len(rows),
        "num_candidates": loaded.experiment.config.sample.num_candidates,
        "figures": {name: one.record() for name, one in figures.items()},
    }
    protocol = {
        "num": len(rows),
        "fingerprint": fingerprint(of.source),
        "sampling": loaded.experiment.config.sample.to_dict(),
        "clip": loaded.clip.digest,
    }
    return Details(content, figures, protocol)


def table(content: dict[str, Any]) -> str:
    """The cosines as a Markdown table."""
    told = {
        "drawn": "the prior's embedding of its text",
        "text": "its text's own embedding",
        "shuffled": "the prior's embedding of another text",
        "other_image": "another image's embedding",
    }
    lines = ["| cosine with an image's embedding | mean |", "| --- | --- |"]
    lines += [f"| {told[n]} | {results.text(one)} |" for n, one in content["figures"].items()]
    last = f"{content['num']} held-out pairs; the better of {content['num_candidates']} candidates."
    return "\n".join([*lines, "", last])
