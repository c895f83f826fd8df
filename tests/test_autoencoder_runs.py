"""Autoencoders trained by the command's own way: resumed, on several devices, and used."""

import functools

import jax
import numpy as np
import pytest
import tiny_runs
from ml_collections import ConfigDict
from PIL import Image

from ddpm_jax import data, experiment
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.evaluate.of_samples import SpaceFlags
from ddpm_jax.commands.report import report
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files, defaults
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import features
from ddpm_jax.experiment import attempt
from ddpm_jax.runtime import sharding

FIELDS = {
    "data": {"name": "digits", "image_size": (8, 8), "channels": 1, "batch_size": 16},
    "model": {
        "channels": 8,
        "channel_multipliers": (1, 2),
        "num_blocks": 1,
        "num_groups": 4,
        "latent_channels": 3,
    },
    "optim": {"learning_rate": 1e-3, "warmup_steps": 0},
    "ema": {"decay": 0.9},
    "train": {
        "num_steps": 6,
        "log_every": 1,
        "checkpoint_every": 3,
        "sample_every": 6,
        "validate_every": 3,
        "validate_examples": 32,
        "min_free_gb": 0.0,
    },
    "sample": {"batch_size": 16, "grid_size": 4},
    "mesh": {"data": 1},
}
VAE = {
    "data": FIELDS["data"] | {"dequantise": True},
    "model": FIELDS["model"] | {"scale": "each"},
    "objective": {"distance": "likelihood", "kl_weight": 1.0},
}
SORTS = {
    "plain": {"model": FIELDS["model"] | {"bottleneck": "plain"}},
    "ldm": {},
    "vae": VAE,
    "vq": {
        "model": FIELDS["model"]
        | {"bottleneck": "quantised", "num_codes": 12, "code_channels": 2, "dropout": 0.1}
    },
}
# Its decoder is told the class.
SORTS["told"] = VAE | {"model": VAE["model"] | {"num_classes": 10}}
# Beside the autoencoder stand codes that are averages, and a discriminator from the third step on.
SORTS["judged"] = SORTS["vq"] | {
    "objective": {
        "code_decay": 0.9,
        "adversary_weight": 0.5,
        "adversary_start": 2,
        "adversary_channels": 4,
        "adversary_layers": 1,
    }
}


def autoencoder(sort="ldm", **changes) -> ConfigDict:
    """The tiny config of a sort, changed: autoencoder("vq", mesh={"data": 8})."""
    groups = {**FIELDS, **SORTS[sort]}
    groups = {name: groups.get(name, {}) | changes.get(name, {}) for name in {**groups, **changes}}
    return config_files.override(defaults.get_config("autoencoder"), groups)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """sort -> the workdir of a run that nothing stopped."""

    @functools.cache
    def run(sort):
        workdir = tmp_path_factory.mktemp(sort) / "run"
        assert train.train(autoencoder(sort), workdir) == 0
        return workdir

    return run


@pytest.fixture(scope="module")
def images():
    return np.stack(
        [experiment.build(autoencoder()).source("validation")[k]["image"] for k in range(5)]
    ).astype(np.uint8) * np.uint8(15)


@pytest.mark.wide(2)
@pytest.mark.parametrize("sort", SORTS)
def test_a_stopped_one_ends_with_the_same_bits(sort, runs, tmp_path):
    assert train.train(autoencoder(sort), tmp_path, until=4) == 75
    assert train.train(autoencoder(sort), tmp_path) == 0
    assert tiny_runs.final(tmp_path) == tiny_runs.final(runs(sort))
    name = "autoencoder_loss" if sort == "judged" else "loss"
    losses = [line[name] for line in tiny_runs.metrics(runs(sort)) if name in line]
    assert losses[-1] < losses[0]


@functools.cache
def first_step(sort, **changes):
    """Loss and parameters of one step of plain descent from the same start."""
    plain = FIELDS["optim"] | {"name": "sgd", "learning_rate": 0.1}
    built = experiment.build(autoencoder(sort, optim=plain, **dict(changes)))
    batch = attempt.training_batches(built, built.source("train")).batch_at(0)
    batch = sharding.put_batch(batch, sharding.batch_sharding(built.mesh))
    state, metrics = built.train_step()(built.init_state(), batch)
    return jax.device_get((metrics["loss"], state.params))


@pytest.mark.wide(4)
@pytest.mark.parametrize("sort", ["vae", "vq", "judged"])
@pytest.mark.parametrize(
    "changes",
    [{"mesh": {"data": 8}}, {"train": FIELDS["train"] | {"accumulate": 4}}],
    ids=["devices", "parts"],
)
def test_devices_and_parts_change_nothing(sort, changes):
    if "train" in changes:
        if sort == "judged":
            with pytest.raises(UserError, match="needs its batch whole"):
                first_step.__wrapped__(sort, **changes)
            return
        sort = {"vq": "plain"}.get(sort, sort)  # dropout is a part's
    found = first_step.__wrapped__(sort, **changes)
    want = first_step(sort)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, want)


@pytest.mark.parametrize("sort", SORTS)
def test_images_go_through_latents_of_the_said_shape(sort, runs, images):
    loaded = experiment.load(runs(sort))
    latents = loaded.encode(images)
    assert latents.shape == (5, *loaded.latent_shape) == (5, 4, 4, 2 if sort in QUANTISED else 3)
    labels = [3, 1, 4] if sort == "told" else []
    made = loaded.reconstruct(images, labels)
    assert made.shape == images.shape
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(loaded.decode(latents, labels), made)
    np.testing.assert_allclose(loaded.encode(images[2:3]), latents[2:3], atol=1e-5)
    if sort in QUANTISED:
        codes = loaded.codes(images)
        assert codes.shape == (5, 4, 4)
        assert codes.max() < 12
    else:
        with pytest.raises(UserError, match=r"has no codes: config\.model\.bottleneck is"):
            loaded.codes(images)


def test_a_vaes_bits_are_of_image_and_seed_alone_and_tighter_with_more_draws(runs, images):
    loaded = experiment.load(runs("vae"))
    x0 = loaded.experiment.codec.encode(images)
    bits = loaded.bits_encoded(x0, seed=3)
    again = loaded.bits_encoded(x0[:2], seed=3)
    np.testing.assert_allclose(again.reconstruction, bits.reconstruction[:2], rtol=1e-5)
    assert (loaded.bits_encoded(x0, seed=4).reconstruction != bits.reconstruction).all()
    assert (bits.kl > 0).all()
    one = loaded.bits_encoded(x0, seed=3, num_draws=1)
    assert bits.importance_weighted.mean() < one.importance_weighted.mean()
    with pytest.raises(UserError, match=r"objective\.distance=l1"):
        experiment.load(runs("ldm")).bits_encoded(x0)


METRICS = {
    "plain": {"reconstructed", "latent"},
    "ldm": {"reconstructed", "latent"},
    "vae": {"memorisation", "reconstructed", "elbo", "latent"},
    "told": {"memorisation", "label", "spread", "class", "reconstructed", "elbo", "latent"},
    "vq": {"reconstructed", "latent"},
    "judged": {"reconstructed", "latent"},
}
QUANTISED = ("vq", "judged")


@pytest.mark.wide(2)
@pytest.mark.parametrize("sort", SORTS)
def test_what_is_measured_of_one(sort, runs):
    draws = sort in ("vae", "told")
    report = evaluate.evaluate(str(runs(sort)), num_samples=40 if draws else None)
    figures = report["held_out_data"]["metrics"]
    assert bool(report.get("samples")) == draws
    assert {name.split("_")[0] for name in figures} == METRICS[sort]
    assert 0 < figures["reconstructed_psnr"]["value"] < 40
    assert figures["latent_use_std"]["value"] > 0
    for picture in ("before_and_after", "interpolations", "traversals"):
        (path,) = (runs(sort) / "eval").glob(f"*{picture}.png")
        assert min(Image.open(path).size) > 64
    if sort in ("vae", "told"):
        total = figures["elbo_decoder"]["value"] + figures["elbo_kl"]["value"]
        total += np.log2(10) / 64 if sort == "told" else 0  # one class of ten, each as likely
        assert figures["elbo_per_dim"]["value"] == pytest.approx(total)
    if sort in QUANTISED:
        assert 1 <= figures["latent_use_perplexity"]["value"] <= 12
        assert report["latents"]["dead_codes"] <= 11


def test_a_report_shows_what_lies_beside_results(runs, tmp_path):
    metrics = ["reconstructed", "latent_use"]
    evaluate.evaluate(str(runs("plain")), metrics=metrics, name="latents")
    text = report.report([str(runs("plain"))], str(tmp_path / "r.html"), draw=False).read_text()
    for seen in ("below each what is left of it", "mixed in equal steps", "one channel of its"):
        assert seen in text
    assert "(no such field)" not in text  # of fields that no autoencoder has
    assert "draws no images" in text


@pytest.mark.parametrize("sort", ["plain", "vae"])
def test_reconstructions_are_compared_in_a_space_of_features(sort, runs):
    """The distance is that of the features of both, by the definition."""
    asked = {"metrics": ["rfid"], "num_samples": 200, "space": SpaceFlags(extractor="pixels")}
    report = evaluate.evaluate(str(runs(sort)), **asked)
    assert report["samples"] == []
    found = report["held_out_data"]["metrics"]["rfid"]["value"]
    loaded = experiment.load(runs(sort))
    source = loaded.experiment.source("validation")
    rows = data.evenly_spaced(source, 200)
    images = np.stack([np.round(source[k]["image"] * (255 / 16)).astype(np.uint8) for k in rows])
    space = features.pixels((8, 8, 1))
    before, after = (space.apply(one).pooled for one in (images, loaded.reconstruct(images)))
    means = [one.mean(axis=0, dtype=np.float64) for one in (before, after)]
    covariances = [np.cov(one, rowvar=False, dtype=np.float64) for one in (before, after)]
    eigenvalues = np.linalg.eigvals(covariances[0] @ covariances[1]).real
    shared = np.sqrt(np.maximum(eigenvalues, 0)).sum()  # the trace of the product's root
    want = ((means[0] - means[1]) ** 2).sum() + sum(map(np.trace, covariances)) - 2 * shared
    assert found == pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"bottleneck": "vae"}}, "config.model.bottleneck='vae'"),
        ({"model": {"num_codes": 4}}, "config.model.num_codes=4: a normal bottleneck needs 0"),
        ({"model": {"bottleneck": "quantised"}}, "num_codes=0: a quantised bottleneck needs at"),
        ({"model": {"scale": "each"}}, "learned by objective.distance=likelihood, not by l1"),
        ({"objective": {"distance": "l3"}}, "config.objective.distance='l3'"),
        ({"objective": {"code_decay": 0.9}}, "code_decay=0.9: a normal bottleneck has no codes"),
        ({"objective": {"adversary_weight": -1.0}}, "adversary_weight=-1.0: need a finite"),
        ({"objective": {"adversary_weight": 1.0, "game": "l"}}, "config.objective.game='l'"),
        ({"objective": {"kl_weight": -1.0}}, "config.objective.kl_weight=-1.0: need a finite"),
        ({"data": {"image_size": (8, 9)}}, r"image_size=\(8, 9\): an autoencoder of 2 levels"),
        ({"model": {"attention_resolutions": (5,)}}, "the levels are 8, 4 pixels high"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        experiment.build(autoencoder(**changes))


def test_a_vae_draws_latents_from_their_law_and_the_others_have_none(runs):
    loaded = experiment.load(runs("vae"))
    drawn = loaded.sample(4, seed=2)
    np.testing.assert_array_equal(drawn[:2], loaded.sample(2, seed=2))
    cold = loaded.sample(2, temperature=1e-9)
    centre = loaded.decode(np.zeros((1, *loaded.latent_shape)))
    np.testing.assert_allclose(cold, np.repeat(centre, 2, axis=0), atol=1)
    for sort, bottleneck in [("plain", "plain"), ("vq", "quantised")]:
        with pytest.raises(UserError, match=f"no law to draw from .*={bottleneck}"):
            experiment.load(runs(sort)).sample(2)


def test_a_decoder_is_told_the_class(runs, images):
    loaded = experiment.load(runs("told"))
    drawn = loaded.sample(3, labels=[7, 2], seed=2, temperature=1e-9)
    centre = np.zeros((3, *loaded.latent_shape))
    np.testing.assert_allclose(drawn, loaded.decode(centre, [7, 2]), atol=1)
    assert (drawn[0] == drawn[2]).all()
    x0 = loaded.experiment.codec.encode(images[:1])
    bits = [loaded.bits_encoded(x0, [k], seed=3).reconstruction for k in (0, 1)]
    assert bits[0] != bits[1]
    assert (drawn[0] != drawn[1]).any()
    for call, message in [
        (lambda: loaded.decode(centre), "is told one of 10 classes: give the label of each"),
        (lambda: loaded.reconstruct(images), "is told one of 10 classes"),
        (lambda: loaded.bits_encoded(x0), "is told one of 10 classes"),
        (lambda: loaded.decode(centre, [10]), r"label 10 is outside 0\.\.9"),
        (lambda: experiment.load(runs("vae")).decode(centre, [1]), "labels=1, but this model"),
    ]:
        with pytest.raises(UserError, match=message):
            call()


def test_latents_of_another_size_are_refused(runs):
    with pytest.raises(UserError, match=r"need latents \[N, 4, 4, 3\]"):
        experiment.load(runs("ldm")).decode(np.zeros((1, 4, 4, 2)))
