"""What figures are called and which way each is better: handed in, or read from a result.

A report knows no metric by name. The command hands over the labels of the metrics that it knows,
and a result carries those of its own figures, which may be of a metric that a user wrote.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

LOWER, HIGHER, NEAR_ONE = "lower", "higher", "near 1"
ARROWS = {LOWER: " ↓", HIGHER: " ↑", NEAR_ONE: " → 1"}
# What a metric is measured on where that is the model itself, not what it draws.
LIKELIHOOD, CLASSIFIER, TOKENS = "likelihood", "classifier", "tokens"
PAIRS, CLASSES, PROBE, PRIOR = "pairs", "classes", "probe", "prior"
IMAGE_CAPTIONS, TRUE_CAPTIONS = "image captions", "true captions"
RECONSTRUCTIONS, LATENT_BOUND = "reconstructions", "latent bound"
TRANSLATIONS = "translations"
OF_MODEL = (
    LIKELIHOOD,
    CLASSIFIER,
    TOKENS,
    PAIRS,
    CLASSES,
    PROBE,
    PRIOR,
    IMAGE_CAPTIONS,
    TRUE_CAPTIONS,
    RECONSTRUCTIONS,
    LATENT_BOUND,
    TRANSLATIONS,
)
MAX_LABELS = 200  # of a file


class Label(NamedTuple):
    """What is said of a figure beside its value.

    Attributes:
      label: for people: "Fréchet distance".
      better: LOWER, HIGHER, NEAR_ONE, or "" where neither is.
      needs: what it was measured on, a value of `measures.metric.Needs`.
      metric: the name of the metric that gives it.
      picture: NAME_PICTURE.png beside a result shows what it was measured of; "" for none.
    """

    label: str
    better: str = ""
    needs: str = ""
    metric: str = ""
    picture: str = ""

    @property
    def of_model(self) -> bool:
        """It is of the model itself: of held-out data, no other model has the same."""
        return self.needs in OF_MODEL


Labels = Mapping[str, Label]


def of_content(content: Any) -> dict[str, Label]:
    """The labels that a result carries, by figure; what has not their shape is left out."""
    if not isinstance(content, dict):
        return {}
    labels = {}
    for name, fields in [*content.items()][:MAX_LABELS]:
        if isinstance(fields, dict):
            texts = {f: v for f, v in fields.items() if f in Label._fields and isinstance(v, str)}
            labels[name] = Label(**{"label": name, **texts})
    return labels


def ordered(names: Iterable[str], labels: Labels) -> list[str]:
    """Names of figures, each once: in the order of the labels, then those without one."""
    every, places = list(dict.fromkeys(names)), {name: k for k, name in enumerate(labels)}
    return sorted(every, key=lambda name: places.get(name, len(places)))


def arrow(name: str, labels: Labels) -> str:
    """Where a figure is better, to be written behind its name; "" where neither way is."""
    return ARROWS.get(labels[name].better, "") if name in labels else ""


def lower_is_better(name: str, labels: Labels) -> bool:
    """Whether it is a figure that is better where it is less."""
    return name in labels and labels[name].better == LOWER
