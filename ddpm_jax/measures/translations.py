"""What a translator makes of held-out images, for `evaluate`."""

from typing import Any

import numpy as np

from ddpm_jax.build import translating
from ddpm_jax.build.datasets import dataset
from ddpm_jax.data import Source, evenly_spaced, fingerprint
from ddpm_jax.measures import images_of, results
from ddpm_jax.measures.metric import Details, OfModel
from ddpm_jax.measures.results import Figure
from ddpm_jax.reporting import figures
from ddpm_jax.trained.translating import LoadedTranslator

MOST_IMAGES = 2_000  # held-out ones that are looked at, of both sorts
COLUMNS = 8
LABEL = "shape"  # what the label is called where attributes are read back from pixels


def compare(of: OfModel) -> Details:
    """How held-out images of either sort come out as the other, and how they come back.

    Of data whose attributes are read back from pixels: the share whose class is the other one and
    of which all else stayed; of the class alone; and of all else alone.
    """
    loaded: LoadedTranslator = of.loaded
    c = loaded.experiment.config
    labels = translating.sorts(c)
    describe = dataset(c, loaded.experiment.own).describe
    made: dict[str, list[Any]] = {"back": [], "translated": [], "to_the_class": [], "kept": []}
    shown = []
    for label, other in (labels, labels[::-1]):
        images = _of_class(of.source, label)
        if not len(images):
            raise ValueError(f"the held-out data have no image of class {label}")
        there = loaded.translate(images, other)
        back = loaded.translate(there, label)
        apart = np.abs(back.astype(np.int16) - images).mean(axis=(1, 2, 3))
        made["back"] += [*apart]
        shown += [one[:COLUMNS] for one in (images, there, back)]
        if describe is not None:
            for before, after in zip(map(describe, images), map(describe, there), strict=True):
                right, stayed = _read(before, after, other)
                made["to_the_class"].append(right)
                made["kept"].append(stayed)
                made["translated"].append(right and stayed)
    found: dict[str, Figure] = {"back": Figure(float(np.mean(made.pop("back"))))}
    if describe is not None:
        found |= {name: results.share(float(np.mean(one)), len(one)) for name, one in made.items()}
    if of.beside is not None:
        columns = min(len(one) for one in shown)
        rows = np.concatenate([one[:columns] for one in shown])
        figures.save_png(of.beside("translations"), figures.grid(rows, columns=columns))
    content = {"figures": {name: figure.record() for name, figure in found.items()}}
    return Details(content, found, {"fingerprint": fingerprint(of.source), "most": MOST_IMAGES})


def table(content: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    names = {
        "translated": "of the other class, and all else as before",
        "to_the_class": "of the other class",
        "kept": "all else as before",
        "back": "grey levels that a pixel is off when it is back",
    }
    own = content["figures"]
    rows = [
        f"| {told} | {results.text(own[name])} |" for name, told in names.items() if name in own
    ]
    return "\n".join(["| of held-out images, translated | |", "| --- | --- |", *rows])


def _of_class(source: Source, label: int) -> np.ndarray:
    """Held-out images of a class, uint8 of 256 levels."""
    rows = [k for k in evenly_spaced(source, MOST_IMAGES) if int(source[k]["label"]) == label]
    return images_of.eight_bit(source, rows) if rows else np.zeros((0,))


def _read(before: Any, after: Any, other: int) -> tuple[bool, bool]:
    """Whether an image came to be of the class, and whether all else that it showed stayed."""
    if before is None or after is None:
        return False, False
    stayed = all(after[name] == value for name, value in before.items() if name != LABEL)
    return after[LABEL] == other, stayed
