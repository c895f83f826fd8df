"""What a metric is: one record, which all that measures, checks, compares and shows reads."""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.measures.results import Figure
from ddpm_jax.reporting.report import labels
from ddpm_jax.reporting.report.labels import HIGHER, LOWER, NEAR_ONE, Label

__all__ = ["HIGHER", "LOWER", "NEAR_ONE", "Details", "Metric", "Needs", "OfModel", "Sizes"]


class Needs(enum.StrEnum):
    """What a metric is measured on."""

    FEATURES = "features"  # samples and a reference in a space of features
    RECONSTRUCTED = "reconstructed features"  # held-out images and their reconstructions, likewise
    LOGITS = "logits"  # samples alone, as the space's classifier reads them
    PIXELS = "pixels"  # samples as images, beside the real ones
    LABELS = "labels"  # the same, and each sample's class
    ATTRIBUTES = "attributes"  # samples that show what they were told, as the data describe it
    CAPTIONS = "prompts"  # samples that show what their prompt tells
    DRAWING = "drawing"  # how samples are drawn, not what they show
    VARIATIONS = "variations"  # samples that show what the image shows that they vary
    CLIP_SCORED = "prompts as a CLIP embeds them"  # samples beside their prompts, likewise
    CAPTIONED = "captioned prompts"  # the same, as a captioner tells what they show
    LIKELIHOOD = labels.LIKELIHOOD  # held-out images under the model
    CLASSIFIER = labels.CLASSIFIER  # held-out images as a classifier reads them
    TOKENS = labels.TOKENS  # held-out images, token by token, under the model
    PAIRS = labels.PAIRS  # held-out images and their captions as a CLIP embeds them
    CLASSES = labels.CLASSES  # held-out images and prompts of classes, likewise
    PROBE = labels.PROBE  # features of images, and what is known of them
    PRIOR = labels.PRIOR  # held-out images and their captions beside a prior's embeddings
    IMAGE_CAPTIONS = labels.IMAGE_CAPTIONS  # held-out captions given their images
    TRUE_CAPTIONS = labels.TRUE_CAPTIONS  # captions drawn of held-out images
    RECONSTRUCTIONS = labels.RECONSTRUCTIONS  # held-out images through an autoencoder
    LATENT_BOUND = labels.LATENT_BOUND  # the same under a model with latents
    TRANSLATIONS = labels.TRANSLATIONS  # held-out images as images of another sort

    @property
    def space(self) -> bool:
        """It takes a space of features."""
        return self in (Needs.FEATURES, Needs.LOGITS, Needs.RECONSTRUCTED)

    @property
    def pixels(self) -> bool:
        """It takes samples and real images as they are."""
        return self in (Needs.PIXELS, Needs.LABELS)

    @property
    def prompted(self) -> bool:
        """Samples are drawn for it, by conditions that it says."""
        return self in (
            Needs.ATTRIBUTES,
            Needs.CAPTIONS,
            Needs.CLIP_SCORED,
            Needs.CAPTIONED,
            Needs.VARIATIONS,
        )

    @property
    def of_model(self) -> bool:
        """Nothing is drawn for it."""
        return self.value in labels.OF_MODEL

    @property
    def depends(self) -> tuple[str, ...]:
        """The fields of a result's protocol that it depends on, beside seed, parameters, data."""
        return DEPENDS[self]


_DRAWN = ("num_samples", "repeats", "sampling", "guides")
DEPENDS: dict[Needs, tuple[str, ...]] = {
    Needs.FEATURES: (*_DRAWN, "extractor", "metrics", "reference"),
    Needs.LOGITS: (*_DRAWN, "extractor", "metrics"),
    Needs.RECONSTRUCTED: ("num_samples", "extractor", "metrics", "real"),
    Needs.PIXELS: (*_DRAWN, "real"),
    Needs.LABELS: (*_DRAWN, "real"),
    Needs.ATTRIBUTES: (*_DRAWN, "real"),
    Needs.CAPTIONS: (*_DRAWN, "real"),
    Needs.DRAWING: ("sampling", "guides", "timed"),
    Needs.VARIATIONS: (*_DRAWN, "real"),
    Needs.CAPTIONED: (*_DRAWN, "real", "captioner"),
    Needs.CLIP_SCORED: (*_DRAWN, "real", "clip_judge"),
    Needs.LIKELIHOOD: ("likelihood",),
    Needs.CLASSIFIER: ("real",),
    Needs.TOKENS: ("exact_likelihood",),
    Needs.PAIRS: ("pairs",),
    Needs.CLASSES: ("classes",),
    Needs.PROBE: ("real", "probe"),
    Needs.PRIOR: ("prior",),
    Needs.IMAGE_CAPTIONS: ("image_captions",),
    Needs.TRUE_CAPTIONS: ("drawn_captions",),
    Needs.RECONSTRUCTIONS: ("reconstructions", "latents"),
    Needs.LATENT_BOUND: ("latent_bound",),
    Needs.TRANSLATIONS: ("translations",),
}


class Sizes(NamedTuple):
    """How many images are compared: what a metric's settings may depend on.

    Attributes:
      num_samples: of one set.
      num_reference: None where it is not known.
      kid_subsets: as in the flag.
    """

    num_samples: int
    num_reference: int | None
    kid_subsets: int | None


class OfModel(NamedTuple):
    """What a metric of a model itself is measured on.

    Attributes:
      loaded: a `trained.loaded.Loaded`.
      source: of held-out images.
      seed: of all draws.
      num_terms, templates, caption_style, num_pairs: as in the flags.
      beside: the name of a picture -> its PNG beside the result; None for no picture.
    """

    loaded: Any
    source: Any
    seed: int
    num_terms: int | None = None
    templates: str | None = None
    caption_style: str | None = None
    num_pairs: int | None = None
    beside: Callable[[str], Path] | None = None


class Details(NamedTuple):
    """What a metric of a model itself gives.

    Attributes:
      content: as JSON, what stands in the result under the metric's `section`.
      figures: {"ode": ...}, which the result names METRIC_ode.
      protocol: what the figures depend on; {} for nothing that is not said elsewhere.
    """

    content: Any
    figures: Mapping[str, Figure]
    protocol: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Metric:
    """A measure of a trained model.

    `evaluate.py --metrics=package.module:NAME` takes one that you wrote: NAME is a record of this
    class, or any function

        def sharpness(samples, real): ...              # -> a number
        def purity(samples, real, labels, real_labels): ...

    of uint8 [N, H, W, C] samples of 256 levels and [M, H, W, C] training images, and where it asks
    for them by name the classes int [N] and [M]. It becomes a metric of one figure that is called
    "package.module:NAME"; the digest of its source stands in the result's protocol, and results
    of different sources are not compared. A ValueError that it raises is reported in one line.

    Attributes:
      name: by which --metrics asks for it; its figure has the same name unless `figures` says more.
      label: for people.
      better: LOWER, HIGHER, NEAR_ONE, or "" where neither way is.
      needs: what it is measured on; this decides what `measure` takes.
      measure: gives a Figure or a number; a tuple in the order of `figures`, None where one cannot
        be had; or a dict of Figures by name, "" its own. It takes, and raises ValueError for what
        it cannot be measured of,
        FEATURES, LOGITS, RECONSTRUCTED: a `distribution_metrics.Sets`;
        PIXELS, LABELS: a `pixel_metrics.Judged`;
        ATTRIBUTES: an `attributes.Answered`;
        CAPTIONS: a `captions.CaptionsAnswered`;
        VARIATIONS: a `variations.VariationsAnswered`;
        DRAWING: a `drawing_cost.Drawn`;
        CAPTIONED: a `captioned.Captioned`;
        CLIP_SCORED: a `clip_score.Scored`;
        the others: an `OfModel`, and gives `Details`.
      protocol: Sizes -> what its figures depend on beside what is measured, as JSON.
      figures: {name: label} of all that it gives, where that is not one figure of its own name.
      check: (name, loaded, flags) -> None, raises UserError for a run that it cannot be measured
        of; called before anything costly.
      fits: raises ValueError for a space of features (`Sets`) or real images (`Real`) that it
        cannot be measured in; called before anything is drawn.
      few: held-out data may be too few for figures of their own, which are then left out.
      of_training: it compares with the images that the model was trained on.
      default: measured where no metrics are asked for, of a run that it can be measured of.
      distance: of a metric in a space of features: `Sets` -> its value alone, quickly, so that
        `config.train.evaluate_metric` can name it; the less, the better.
      prompts: (loaded, num) -> the samples' conditions: of ATTRIBUTES, `attributes.Prompts`; of
        CAPTIONS, CAPTIONED and CLIP_SCORED, `captions.CaptionPrompts`; of VARIATIONS,
        `variations.Varied`.
      picture: it also draws NAME_PICTURE.png beside the result, of the first set of samples.
      shows: {name: what is seen} of the pictures NAME_PICTURE.png that it leaves beside a result,
        for a report; "nearest" images have a place of their own there.
      flags: of evaluate.py, that it alone reads.
      section: of what needs nothing drawn: where the result holds the details, and how the result
        is called if nothing else is measured.
      table: of the same: the details as a Markdown table.
      source: the digest of its source, of a metric that is not built in.
    """

    name: str
    label: str
    better: str
    needs: Needs
    measure: Callable[[Any], Any]
    protocol: Callable[[Sizes], dict[str, Any]] | None = None
    figures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    check: Callable[[str, Any, Mapping[str, Any]], None] | None = None
    fits: Callable[[Any], object] | None = None
    few: bool = False
    of_training: bool = False
    default: bool = False
    distance: Callable[[Any], float] | None = None
    prompts: Callable[[Any, int], Any] | None = None
    picture: str = ""
    shows: Mapping[str, str] = dataclasses.field(default_factory=dict)
    flags: Sequence[str] = ()
    section: str = ""
    table: Callable[[Any], str] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a record that lacks what its needs take."""
        if self.needs.prompted and self.prompts is None:
            raise ValueError(f"the metric {self.name} needs {self.needs}, and has no prompts")
        if self.needs.of_model and not (self.section and self.table):
            raise ValueError(
                f"the metric {self.name} measures the model, and has no section or table"
            )

    def named(self, outcome: Any) -> dict[str, Figure]:
        """What `measure` gave, by the figures' names."""
        if isinstance(outcome, Mapping):
            return {name or self.name: figure for name, figure in outcome.items()}
        names = [*self.figures] or [self.name]
        if isinstance(outcome, tuple) and not isinstance(outcome, Figure):
            pairs = zip(names, outcome, strict=True)
            return {name: figure for name, figure in pairs if figure is not None}
        return {names[0]: outcome if isinstance(outcome, Figure) else Figure(float(outcome))}

    def labels(self, names: Sequence[str] = ()) -> dict[str, Label]:
        """What is said of its figures, and of others that it gave."""
        own = self.figures or {self.name: self.label}
        every = {**own, **{name: name for name in names if name not in own}}
        return {
            name: Label(label, self.better, self.needs.value, self.name, self.picture)
            for name, label in every.items()
        }
