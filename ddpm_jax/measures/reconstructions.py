"""What an autoencoder keeps of held-out images, and how it uses its latents, for `evaluate`."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax.build.datasets import dataset
from ddpm_jax.config.own_code import Own
from ddpm_jax.data import Source, evenly_spaced, fingerprint
from ddpm_jax.diffusion import quantisation
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import attributes, similarity
from ddpm_jax.measures import images_of, latent_pictures, results
from ddpm_jax.measures.metric import Details, OfModel
from ddpm_jax.measures.results import Figure
from ddpm_jax.models.autoencoder import NORMAL, QUANTISED
from ddpm_jax.reporting.figures import save_png
from ddpm_jax.trained.autoencoding import LoadedAutoencoder
from ddpm_jax.trained.loaded import Loaded

MOST_IMAGES = 2_000  # held-out ones; drawn shapes have no end
NUM_DRAWS = 16  # of the importance-weighted bound
# Of the variance over images of a latent's mean, from which it counts as used (Burda et al. 2016,
# appendix C).
ACTIVE = 0.01


def compare(of: OfModel) -> Details:
    """How alike held-out images and their reconstructions are.

    In dB, in structure where they are large enough for its windows, and, of data whose attributes
    are read back from pixels, how many show all that they showed before.
    """
    loaded: LoadedAutoencoder = of.loaded
    images, labels = _images(of), _labels(of)
    made = loaded.reconstruct(images, [] if labels is None else labels.tolist())
    db = similarity.psnr(images, made)
    # Of an image that came back exactly the error is that of half a grey level in one pixel.
    most = 10 * np.log10(255**2 * images[0].size / 0.25)
    figures = {"psnr": _mean(np.minimum(db, most))}
    if min(images.shape[1:3]) >= similarity.WINDOW:
        figures["ssim"] = _mean(similarity.ssim(images, made))
    describe = dataset(loaded.experiment.config, loaded.experiment.own).describe
    if describe is not None:
        figures["all_attributes"] = _attributes(images, made, describe)
    if of.beside is not None:
        draw = latent_pictures
        save_png(of.beside("before_and_after"), draw.reconstructions(images, made))
        save_png(of.beside("interpolations"), draw.interpolations(loaded, images, labels))
    content = {"num": len(images), "figures": {n: f.record() for n, f in figures.items()}}
    return Details(content, figures, {"num": len(images), "fingerprint": fingerprint(of.source)})


def compare_table(content: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    names = {
        "psnr": "peak signal to noise, dB",
        "ssim": "structural similarity",
        "all_attributes": "all attributes read back as before",
    }
    rows = [f"| {names[name]} | {results.text(one)} |" for name, one in content["figures"].items()]
    heads = ["| of held-out images and their reconstructions | |", "| --- | --- |"]
    return "\n".join([*heads, *rows, "", f"{content['num']} held-out images."])


def has_law(config: ConfigDict, own: Own) -> bool:
    """Whether an autoencoder is a model of p(x): a VAE with a likelihood."""
    return config.model.bottleneck == NORMAL and config.objective.distance == "likelihood"


def check_law(metric: str, loaded: Loaded, flags: Mapping[str, Any]) -> None:
    """Raises UserError for an autoencoder that is no model of p(x)."""
    c = loaded.experiment.config
    if not has_law(c, loaded.experiment.own):
        raise UserError(
            f"--metrics={metric}: this autoencoder has no likelihood (config.model.bottleneck="
            f"{c.model.bottleneck}, objective.distance={c.objective.distance}); train one with "
            "normal and likelihood"
        )


def bound(of: OfModel) -> Details:
    """Bits per pixel of held-out images by the bound, its terms, and a tighter bound.

    Where the decoder is told one of K classes, they are of the image and its class, each as likely:
    -log p(x) <= -log p(x, y) = -log p(x | y) + log K.
    """
    loaded: LoadedAutoencoder = of.loaded
    # The values themselves: of few levels 8 bits would round them off their cells' middles.
    rows = evenly_spaced(of.source, MOST_IMAGES)
    stored = np.stack([of.source[k]["image"] for k in rows])
    x0 = loaded.experiment.codec.encode(stored, of.source.info.levels)
    labels, classes = _labels(of), loaded.experiment.config.model.num_classes
    told = [] if labels is None else labels.tolist()
    bits = loaded.bits_encoded(x0, told, seed=of.seed, num_draws=NUM_DRAWS)
    of_class = np.log2(max(classes, 1)) / x0[0].size
    each = {
        "per_dim": bits.reconstruction + bits.kl + of_class,
        "decoder": bits.reconstruction,
        "kl": bits.kl,
        "importance_weighted": bits.importance_weighted + of_class,
    }
    figures = {name: _mean(values) for name, values in each.items()}
    settings = {
        "num": len(x0),
        "num_draws": NUM_DRAWS,
        "dequantised": bool(loaded.experiment.config.data.dequantise),
        "fingerprint": fingerprint(of.source),
    }
    content = {**settings, "figures": {n: f.record() for n, f in figures.items()}}
    if classes:
        content["class"] = of_class
    return Details(content, figures, settings)


def bound_table(content: dict[str, Any]) -> str:
    """The bound and its terms as a Markdown table."""
    names = {
        "per_dim": "the bound, -ELBO",
        "decoder": "of it, -log p(x given z)",
        "kl": "of it, divergence from the prior",
        "importance_weighted": f"a tighter bound, {content['num_draws']} draws",
    }
    rows = [f"| {told} | {results.text(content['figures'][n])} |" for n, told in names.items()]
    kind = "dequantised pixels" if content["dequantised"] else "values of pixels"
    heads = ["| bits per pixel | held-out data |", "| --- | --- |"]
    if "class" in content:
        rows.insert(1, f"| of it, the class | {content['class']:.3f} |")
    return "\n".join([*heads, *rows, "", f"{content['num']} images; of {kind}."])


def use(of: OfModel) -> Details:
    """How an autoencoder uses its latents, over held-out images.

    Of a normal law: the share of dimensions whose mean differs between images, and the divergence
    of a dimension in nats. Of a codebook: the share of codes that are used, and their perplexity.
    Of every one the standard deviation of the latents.
    """
    loaded: LoadedAutoencoder = of.loaded
    images = _images(of)
    x0 = loaded.experiment.codec.encode(images)
    latents = loaded.encode_encoded(x0)
    if of.beside is not None:
        save_png(of.beside("traversals"), latent_pictures.traversals(loaded, images, _labels(of)))
    figures = {"std": Figure(float(latents.std()))}
    bottleneck = loaded.experiment.config.model.bottleneck
    content: dict[str, Any] = {"num": len(x0)}
    if bottleneck == NORMAL:
        active = latents.var(axis=0) > ACTIVE
        kl = loaded.kl_encoded(x0)
        figures["active"] = Figure(float(active.mean()))
        figures["kl_per_dimension"] = _mean(kl.reshape(len(kl), -1).mean(axis=1))
        content["kl_by_channel"] = [round(float(v), 4) for v in kl.mean(axis=(0, 1, 2))]
    if bottleneck == QUANTISED:
        counts = np.bincount(
            loaded.codes_encoded(x0).ravel(), minlength=loaded.experiment.config.model.num_codes
        )
        figures["codes_used"] = Figure(float((counts > 0).mean()))
        figures["perplexity"] = Figure(
            float(quantisation.perplexity(jnp.asarray(counts, jnp.float32)))
        )
        content["dead_codes"] = int((counts == 0).sum())
    content["figures"] = {n: f.record() for n, f in figures.items()}
    return Details(content, figures, {"num": len(x0), "fingerprint": fingerprint(of.source)})


def use_table(content: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    names = {
        "std": "standard deviation of the latents",
        "active": f"share of latents that are used (variance of the mean above {ACTIVE})",
        "kl_per_dimension": "divergence of a latent from the prior, nats",
        "codes_used": "share of codes that are used",
        "perplexity": "perplexity of the codes",
    }
    rows = [f"| {names[name]} | {results.text(one)} |" for name, one in content["figures"].items()]
    dead = f" {content['dead_codes']} codes are dead." if "dead_codes" in content else ""
    heads = ["| latents | |", "| --- | --- |"]
    return "\n".join([*heads, *rows, "", f"{content['num']} held-out images.{dead}"])


def _images(of: OfModel) -> np.ndarray:
    """Images uint8 [N, H, W, C], 0 to 255."""
    return images_of.eight_bit(of.source, evenly_spaced(of.source, MOST_IMAGES))


def _labels(of: OfModel) -> np.ndarray | None:
    """Their classes, int [N], where the decoder is told them; None elsewhere."""
    return labels_of(of.loaded, of.source, MOST_IMAGES)


def labels_of(loaded: Loaded, source: Source, num: int) -> np.ndarray | None:
    """The classes of evenly spaced images, int [N], of an autoencoder that is told them.

    None of one that is told none.
    """
    if not loaded.experiment.config.model.num_classes:
        return None
    return np.array([source[k]["label"] for k in evenly_spaced(source, num)])


def _mean(values: np.ndarray) -> Figure:
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a figure came out as no number: the model diverged")
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return results.normal(float(values.mean()), float(error))


def _attributes(images: np.ndarray, made: np.ndarray, describe: Any) -> Figure:
    """The share of images that can be read and whose reconstruction shows all the same."""
    read = [describe(image) for image in images]
    known = [k for k, one in enumerate(read) if one is not None]
    wanted = {name: np.array([read[k][name] for k in known]) for name in read[known[0]]}
    together, _ = attributes.agreement(made[known], wanted, describe)
    return results.share(together, len(known))
