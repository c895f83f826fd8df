"""The metrics, one row each: nothing else in the package knows one of them by its name."""

# Over 300 lines: one table.

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from ddpm_jax.config import own_code
from ddpm_jax.errors import UserError
from ddpm_jax.measures import (
    attributes,
    captioned,
    captions,
    classification,
    clip_judge,
    clip_score,
    distribution_metrics,
    drawing_cost,
    embeddings,
    exact_likelihood,
    image_captions,
    likelihood,
    own_parts,
    pixel_metrics,
    prior_embeddings,
    reconstructions,
    translations,
    variations,
)
from ddpm_jax.measures.drawer import KindOfDrawer
from ddpm_jax.measures.metric import HIGHER, LOWER, NEAR_ONE, Metric, Needs
from ddpm_jax.reporting.report.labels import Label

_ROWS = (
    Metric(
        "fid", "Fréchet distance", LOWER, Needs.FEATURES, distribution_metrics.fid,
        figures={"fid": "Fréchet distance", "fid_infinity": "Fréchet distance, less its bias"},
        fits=distribution_metrics.warn_of_few, distance=distribution_metrics.frechet_alone,
        few=True,
    ),
    Metric(
        "kid", "kernel distance", LOWER, Needs.FEATURES, distribution_metrics.kid,
        protocol=distribution_metrics.kid_protocol,
        fits=functools.partial(distribution_metrics.has_rows, least=2),
        distance=distribution_metrics.kid_alone, flags=("kid_subsets",), few=True,
    ),
    Metric(
        "sfid", "Fréchet distance, spatial features", LOWER, Needs.FEATURES,
        distribution_metrics.sfid, fits=distribution_metrics.has_spatial, few=True,
    ),
    Metric(
        "rfid", "Fréchet distance of reconstructions from their images", LOWER,
        Needs.RECONSTRUCTED, distribution_metrics.fid,
        figures={
            "rfid": "Fréchet distance of reconstructions from their images",
            "rfid_infinity": "the same, less its bias",
        },
    ),
    Metric(
        "is", "inception score", HIGHER, Needs.LOGITS, distribution_metrics.inception_score_of,
        protocol=distribution_metrics.inception_score_protocol,
        fits=distribution_metrics.has_logits, few=True,
    ),
    Metric(
        "prdc", "precision, recall, density, coverage", HIGHER, Needs.FEATURES,
        distribution_metrics.prdc, protocol=distribution_metrics.prdc_protocol,
        figures={
            "precision": "samples within the data",
            "recall": "data within the samples",
            "density": "samples around each of the data",
            "coverage": "data with a sample nearby",
        },
        fits=functools.partial(distribution_metrics.has_rows, least=distribution_metrics.K + 1),
        few=True,
    ),
    Metric(
        "label_accuracy", "samples that show their label", HIGHER, Needs.LABELS,
        pixel_metrics.label_accuracy, default=True,
    ),
    Metric(
        "attributes", "samples that show all their conditions", HIGHER, Needs.ATTRIBUTES,
        attributes.measure, check=attributes.check, prompts=attributes.held_out_images,
        default=True,
    ),
    Metric(
        "controlled", "samples that show what controls them", HIGHER, Needs.ATTRIBUTES,
        attributes.measure, check=attributes.check_controlled,
        prompts=attributes.controlled_images,
    ),
    Metric(
        "held_out_pairs", "samples that show a pair never seen", HIGHER, Needs.ATTRIBUTES,
        attributes.measure, check=attributes.check_pairs, prompts=attributes.held_out_pairs,
    ),
    Metric(
        "composed_pairs", "the same, composed", HIGHER, Needs.ATTRIBUTES, attributes.measure,
        check=attributes.check_pairs,
        prompts=functools.partial(attributes.held_out_pairs, composed=True),
    ),
    Metric(
        "caption_agreement", "samples that show all that their prompt tells", HIGHER,
        Needs.CAPTIONS, captions.measure_apart,
        figures={
            "caption_agreement": "samples that show all that their prompt tells",
            "caption_one_object": "the same, of prompts of one object",
            "caption_two_objects": "the same, of prompts of two objects",
            "caption_shuffled": "samples that show what another prompt tells (chance)",
        },
        check=captions.check, prompts=captions.of_held_out_images, default=True,
    ),
    Metric(
        "unseen_templates", "samples that show a prompt in words of another order", HIGHER,
        Needs.CAPTIONS, captions.measure, check=captions.check,
        prompts=captions.of_unseen_templates,
    ),
    Metric(
        "held_out_captions", "samples that show a prompt of a pair never seen", HIGHER,
        Needs.CAPTIONS, captions.measure, check=captions.check_held_out,
        prompts=captions.of_held_out_pairs,
    ),
    Metric(
        "variation_agreement", "variations that keep shape and colour", HIGHER,
        Needs.VARIATIONS, variations.measure,
        figures={
            "variation_agreement": "variations that keep shape and colour",
            "variation_shape": "variations that keep the shape",
            "variation_colour": "variations that keep the colour",
        },
        check=variations.check, prompts=variations.of_held_out_images,
    ),
    Metric(
        "captioned", "samples in which a captioner sees all that their prompt tells", HIGHER,
        Needs.CAPTIONED, captioned.measure,
        figures={
            "captioned": "samples in which a captioner sees all that their prompt tells",
            "captioned_facts": "facts of prompts that it sees",
            "captioned_shuffled": "samples in which it sees what another prompt tells (chance)",
            "captioned_read": "its captions that can be read",
        },
        check=captioned.check, prompts=captions.of_held_out_images,
        flags=(captioned.WORKDIR,),
    ),
    Metric(
        "clip_score", "100 times the cosine of samples and prompts to a CLIP", HIGHER,
        Needs.CLIP_SCORED, clip_score.measure,
        figures={
            "clip_score": "100 times the cosine of samples and prompts to a CLIP",
            "clip_score_shuffled": "the same of another sample's prompt (chance)",
        },
        check=clip_score.check, prompts=clip_score.prompts, flags=(clip_judge.FLAG,),
    ),
    Metric(
        "memorisation", "distance to the training images over that of new data", NEAR_ONE,
        Needs.PIXELS, pixel_metrics.memorisation, fits=pixel_metrics.has_held_out,
        default=True, of_training=True, picture="nearest",
    ),
    Metric(
        "class_histogram", "how far the classes of samples are from the data's", LOWER,
        Needs.PIXELS, pixel_metrics.class_histogram, fits=pixel_metrics.has_classes,
        figures={
            "class_histogram": "how far the classes of samples are from the data's",
            "classes_lost": "classes of the data that hardly any sample is of",
        },
        picture="classes",
        shows={"classes": "Which classes samples are of, beside the shares that the data have."},
    ),
    Metric(
        "spread", "deviation within a class over that of the data", NEAR_ONE, Needs.LABELS,
        pixel_metrics.spread, default=True,
    ),
    Metric(
        "class_recall", "a class's images within its samples", HIGHER, Needs.LABELS,
        pixel_metrics.class_recall, default=True, few=True,
    ),
    Metric(
        "cost", "what a sample costs", LOWER, Needs.DRAWING, drawing_cost.cost,
        figures={
            "cost_passes": "network passes for a sample, decoding included",
            "cost_milliseconds": "milliseconds for a sample, in full batches",
        },
    ),
    Metric(
        "model_size", "of how many numbers a sample is made", "", Needs.DRAWING, drawing_cost.sizes,
        figures={
            "model_size_noise": "numbers of noise that a sample is made of",
            "model_size_parameters": "parameters of all that was trained for it",
        },
    ),
    Metric(
        "bpd", "bits per pixel", LOWER, Needs.LIKELIHOOD, likelihood.measure,
        figures={
            "bpd_discrete_vlb": "bits per pixel, discrete bound",
            "bpd_continuous_vlb": "bits per pixel, continuous bound",
            "bpd_ode": "bits per pixel, probability-flow ODE",
        },
        check=likelihood.check, flags=("num_terms",), section="likelihood",
        table=likelihood.table,
    ),
    Metric(
        "bits", "bits of held-out data, exact", LOWER, Needs.TOKENS, exact_likelihood.measure,
        figures={
            "bits_per_dim": "bits per dimension, exact",
            "bits_per_character": "bits per character, exact",
            "bits_per_character_bigram": "bits per character of a bigram model",
        },
        check=exact_likelihood.check, default=True, section="exact_likelihood",
        table=exact_likelihood.table,
    ),
    Metric(
        "accuracy", "held-out images read right", HIGHER, Needs.CLASSIFIER,
        classification.measure, default=True, section="accuracy", table=classification.table,
    ),
    Metric(
        "retrieval", "pairs found", HIGHER, Needs.PAIRS, embeddings.find,
        figures={
            f"retrieval_{way}_at_{k}": f"{told} among the nearest {k}"
            for way, told in (
                ("texts", "an image's own text"), ("images", "a text's own image")
            )
            for k in (1, 5, 10)
        },
        check=embeddings.check_reads_text, default=True, flags=("caption_style", "num_pairs"),
        section="pairs", table=embeddings.find_table,
        shows={"similarity": "How alike images and captions are: pairs lie on the diagonal."},
    ),
    Metric(
        "zero_shot", "images named by prompts", HIGHER, Needs.CLASSES, embeddings.name_images,
        figures={
            "zero_shot_accuracy": "images whose class's prompts are the nearest",
            "zero_shot_one_object": "the same of images of one object",
            "zero_shot_unseen_pairs": "the same of pairs that no training image shows",
        },
        check=embeddings.check_templates, flags=("templates",), section="classes",
        table=embeddings.name_table,
    ),
    Metric(
        "linear_probe", "what a linear classifier reads from the features", HIGHER, Needs.PROBE,
        embeddings.probe, default=True, section="probe", table=embeddings.probe_table,
    ),
    Metric(
        "prior_cosine", "cosine of a prior's embedding and the image's", HIGHER, Needs.PRIOR,
        prior_embeddings.compare,
        figures={
            "prior_cosine_drawn": "cosine of the prior's embedding and the image's",
            "prior_cosine_text": "the same of the text's own embedding",
            "prior_cosine_shuffled": "the same of the prior's by another text",
            "prior_cosine_other_image": "the same of another image's",
        },
        default=True, flags=("num_pairs",), section="prior", table=prior_embeddings.table,
    ),
    Metric(
        "image_bits", "bits of held-out captions given their images", LOWER,
        Needs.IMAGE_CAPTIONS, image_captions.bits,
        figures={
            "image_bits_per_character": "bits per character of a caption, given its image",
            "image_bits_per_character_shuffled": "the same, given another image",
            "image_bits_per_character_bigram": "the same, of a bigram model without images",
        },
        default=True, section="image_captions", table=image_captions.bits_table,
    ),
    Metric(
        "true_captions", "captions that are true of their images", HIGHER,
        Needs.TRUE_CAPTIONS, image_captions.truth,
        figures={
            "true_captions_share": "captions that are true of their images",
            "true_captions_shuffled": "captions that are true of another image (chance)",
        },
        check=image_captions.check_agrees, default=True, section="drawn_captions",
        table=image_captions.truth_table,
    ),
    Metric(
        "reconstructed", "images after they went through their latents", HIGHER,
        Needs.RECONSTRUCTIONS, reconstructions.compare,
        figures={
            "reconstructed_psnr": "peak signal to noise of reconstructions, dB",
            "reconstructed_ssim": "structural similarity of reconstructions",
            "reconstructed_all_attributes": "reconstructions that show all that the image showed",
        },
        default=True, section="reconstructions", table=reconstructions.compare_table,
        shows={
            "before_and_after": "Held-out images, and below each what is left of it after it went "
            "through its latents.",
            "interpolations": "From one held-out image to another, a row each, by latents that are "
            "mixed in equal steps.",
        },
    ),
    Metric(
        "translation", "images that come out as the other class", HIGHER, Needs.TRANSLATIONS,
        translations.compare,
        figures={
            "translation_translated": "of the other class, and all else as before",
            "translation_to_the_class": "of the other class",
            "translation_kept": "all else as before",
            "translation_back": "grey levels that a pixel is off when it is back",
        },
        default=True, section="translations", table=translations.table,
        shows={
            "translations": "Held-out images of either sort: below each row the same as the other "
            "sort, and below that the same when they are back.",
        },
    ),
    Metric(
        "elbo", "bits per pixel by the bound of a VAE", LOWER, Needs.LATENT_BOUND,
        reconstructions.bound,
        figures={
            "elbo_per_dim": "bits per pixel by the bound of a VAE",
            "elbo_decoder": "of it, -log p(x given z)",
            "elbo_kl": "of it, divergence from the prior",
            "elbo_importance_weighted": "bits per pixel, from several draws of latents",
        },
        check=reconstructions.check_law, default=True, section="latent_bound",
        table=reconstructions.bound_table,
    ),
    Metric(
        "latent_use", "how an autoencoder uses its latents", NEAR_ONE, Needs.RECONSTRUCTIONS,
        reconstructions.use,
        figures={
            "latent_use_std": "standard deviation of the latents",
            "latent_use_active": "latents that are used",
            "latent_use_kl_per_dimension": "divergence of a latent, nats",
            "latent_use_codes_used": "codes that are used",
            "latent_use_perplexity": "perplexity of the codes",
        },
        default=True, section="latents", table=reconstructions.use_table,
        shows={
            "traversals": "One image with one channel of its latents moved, a row each, by -3 to 3 "
            "deviations of that channel; those that vary most are first.",
        },
    ),
)  # fmt: skip
METRICS: dict[str, Metric] = {one.name: one for one in _ROWS}


def named(names: Sequence[str], listed: Iterable[str] = METRICS) -> list[Metric]:
    """The metrics of these names, each once; a user's own by "package.module:name".

    Args:
      names: as --metrics has them.
      listed: those that can be asked for here, own ones aside, for messages.

    Raises:
      UserError: for no names, one that is unknown, or a part that is not a metric.
    """
    choices = f"need some of {', '.join(listed)}, or your own as package.module:name"
    if not names:
        raise UserError(f"--metrics is empty: {choices}")
    selected: dict[str, Metric] = {}
    for name in names:
        if name in METRICS:
            selected[name] = METRICS[name]
        elif own_code.is_own(name):
            selected[name] = own_parts.metric(name)
        else:
            raise UserError(f"--metrics={name}: {choices}")
    _check_apart(selected.values())
    return [*selected.values()]


def check_kind(metric: Metric, kind: KindOfDrawer) -> None:
    """Raises UserError for a metric of another kind of run."""
    if metric.needs.name not in kind.measures:
        its = ", ".join(of_kind(kind))
        raise UserError(f"--metrics={metric.name}: this run is {kind.one}; it has {its}")
    if metric.of_training and not kind.trained_on_data:
        raise UserError(
            f"--metrics={metric.name}: nothing says that {kind.one} was trained on these images; "
            "measure the run that trained on them"
        )


def of_kind(kind: KindOfDrawer) -> list[str]:
    """The names of the metrics that a kind can be asked for."""
    return [
        one.name
        for one in METRICS.values()
        if one.needs.name in kind.measures and (kind.trained_on_data or not one.of_training)
    ]


def distances() -> list[Metric]:
    """Those that need features alone, and whose value is quickly had."""
    return [one for one in METRICS.values() if one.distance is not None]


def labels() -> dict[str, Label]:
    """What is said of every figure of a built-in metric, in the order of the table."""
    return {n: label for one in METRICS.values() for n, label in one.labels().items()}


def pictures() -> dict[str, str]:
    """{name: what is seen} of the pictures that metrics leave beside a result."""
    return {name: text for one in METRICS.values() for name, text in one.shows.items()}


def sources(metrics: Iterable[Metric]) -> dict[str, Any]:
    """What the protocol says of metrics that users wrote: the digests of their sources."""
    digests = {one.name: one.source for one in metrics if one.source}
    return {"code": digests} if digests else {}


def _check_apart(metrics: Iterable[Metric]) -> None:
    """Raises UserError for a user's metric that calls a figure as another metric's is called."""
    taken = {name: one.name for one in METRICS.values() for name in (one.name, *one.figures)}
    for one in metrics:
        for name in one.figures if one.source else ():
            if taken.setdefault(name, one.name) != one.name:
                raise UserError(
                    f"--metrics={one.name}: its figure {name} is {taken[name]}'s: call it otherwise"
                )
