"""A diffusion of an autoencoder's latents: trained, resumed, drawn from and measured."""

import io
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny_runs
from ml_collections import ConfigDict

from ddpm_jax import experiment
from ddpm_jax.build import kept, latents
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.reproduce import reproduce
from ddpm_jax.commands.sweep.bisect import bisect
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files, defaults
from ddpm_jax.errors import UserError
from ddpm_jax.interop.autoencoder import autoencoder_to_diffusers

SHARED = {
    "data": {"name": "digits", "image_size": (8, 8), "channels": 1, "batch_size": 16},
    "ema": {"decay": 0.9},
    "train": {
        "num_steps": 6,
        "log_every": 1,
        "checkpoint_every": 3,
        "sample_every": 0,
        "validate_every": 3,
        "validate_examples": 32,
        "min_free_gb": 0.0,
    },
    "sample": {"batch_size": 16, "grid_size": 4},
    "mesh": {"data": 1},
}
CODEC = SHARED | {
    "model": {
        "channels": 8,
        "channel_multipliers": (1, 2),
        "num_blocks": 1,
        "num_groups": 4,
        "latent_channels": 2,
        "mid_attention": False,
    },
    "optim": {"learning_rate": 1e-3, "warmup_steps": 0},
}
DIFFUSION = SHARED | {
    "data": SHARED["data"] | {"latent_shape": (4, 4, 2)},
    "model": {
        "name": "dit",
        "channels": 16,
        "num_blocks": 1,
        "num_heads": 2,
        "patch_size": 2,
        "num_classes": 10,
    },
    "diffusion": {"num_steps": 20, "label_dropout": 0.1, "schedule": "cosine"},
    "optim": {"learning_rate": 1e-3, "warmup_steps": 0},
    "sample": SHARED["sample"]
    | {"sampler": "ddim", "num_steps": 4, "clip_x0": False, "guidance_scale": 2.0},
}


def config_of(groups, kind="denoiser", **changes) -> ConfigDict:
    groups = {name: groups.get(name, {}) | changes.get(name, {}) for name in {**groups, **changes}}
    return config_files.override(defaults.get_config(kind), groups)


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """The workdir of an autoencoder."""
    workdir = tmp_path_factory.mktemp("codec") / "run"
    assert train.train(config_of(CODEC, "autoencoder"), workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def latent(codec):
    """Changes of a diffusion of its latents -> the config."""
    return lambda **changes: config_of(
        DIFFUSION, **changes | {"data": {"codec": str(codec)} | changes.get("data", {})}
    )


@pytest.fixture(scope="module")
def run(latent, tmp_path_factory):
    """The workdir of a run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("latent") / "run"
    assert train.train(latent(), workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def images():
    source = experiment.build(config_of(CODEC, "autoencoder")).source("validation")
    return np.stack([source[k]["image"] for k in range(5)]).astype(np.uint8) * np.uint8(15)


def test_a_stopped_one_ends_with_the_same_bits_without_its_autoencoders_workdir(
    latent, codec, run, tmp_path
):
    moved = tmp_path / "codec"
    shutil.copytree(codec, moved)
    config = latent(data={"codec": str(moved)})
    assert train.train(config, tmp_path / "run", until=4) == 75
    shutil.rmtree(moved)
    assert train.train(config, tmp_path / "run") == 0
    assert tiny_runs.final(tmp_path / "run") == tiny_runs.final(run)


def test_its_latents_have_unit_variance_and_come_back_as_the_autoencoders_images(
    run, codec, images
):
    loaded, autoencoder = experiment.load(run), experiment.load(codec)
    own = loaded.experiment.codec
    latents, theirs = own.encode(images), autoencoder.encode(images)
    assert latents.shape == (5, 4, 4, 2)
    scale = float(loaded.experiment.latents.tree["scaling"]["scale"])
    np.testing.assert_allclose(latents, scale * theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        own.decode(latents).astype(int), autoencoder.reconstruct(images).astype(int), atol=1
    )
    # 1 over the deviation of latents that are drawn of their laws, of the training images.
    train_data = loaded.experiment.source("train")
    stored = np.stack([train_data[k]["image"] for k in range(len(train_data))])
    x0 = autoencoder.experiment.codec.encode(stored, train_data.info.levels)
    encoded = autoencoder.model.apply({"params": autoencoder.params}, x0, method="encode")
    eps = np.random.default_rng(0).standard_normal(encoded.latents.shape)
    drawn = encoded.latents + np.exp(encoded.posterior.log_variance / 2) * eps
    assert scale * drawn.std() == pytest.approx(1, abs=0.02)


def test_samples_are_images_of_their_number_and_label(run):
    loaded = experiment.load(run)
    drawn = loaded.sample(6, labels=[3], seed=1)
    assert drawn.shape == (6, 8, 8, 1)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(loaded.sample(2, labels=[3], seed=1), drawn[:2])
    film = loaded.sample(2, labels=[3], seed=1, task=experiment.Task(frames=3))
    assert film.shape == (2, 3, 8, 8, 1)
    np.testing.assert_array_equal(film[:, -1], drawn[:2])


def test_what_is_kept_of_an_image_keeps_its_pixels(run, images):
    loaded = experiment.load(run)
    mask = np.zeros((8, 8, 1), bool)
    mask[1:4, 2:5] = True
    made = loaded.sample(3, task=experiment.Task(inpaint=(images[0], mask)))
    np.testing.assert_array_equal(
        made[:, ~mask[..., 0]], np.stack([images[0]] * 3)[:, ~mask[..., 0]]
    )
    assert (made != images[0]).any()
    below = loaded.experiment.codec.mask(mask.astype(np.float32))
    want = np.zeros((4, 4, 1))
    want[0:2, 1:3] = 1  # every cell with a masked pixel
    np.testing.assert_array_equal(below, want)


def test_a_weak_start_leaves_an_image_nearly_as_its_reconstruction(run, codec, images):
    loaded = experiment.load(run)
    task = experiment.Task(init_images=[images[1]], strength=0.1)
    near = loaded.sample(1, task=task, num_steps=10)
    again = experiment.load(codec).reconstruct(images[1:2])
    far = experiment.Task(init_images=[images[1]], strength=1.0)
    apart = [np.abs(one.astype(int) - again).mean() for one in (near, loaded.sample(1, task=far))]
    assert apart[0] < apart[1]


def exported(workdir, folder):
    """The parameters of a run in a file."""
    path = folder / "exported.safetensors"
    assert (
        tiny_runs.in_process(
            "checkpoint", "export", f"--workdir={workdir}", f"--out={path}"
        ).returncode
        == 0
    )
    return path


@pytest.mark.wide(2)
def test_samples_are_measured_and_a_likelihood_of_pixels_is_refused(run, tmp_path):
    drawn = ["label_accuracy", "cost", "model_size"]
    report = evaluate.evaluate(
        str(run), metrics=drawn, num_samples=60, guidance_scales=["1", "0", "2"]
    )
    assert [row["nfe"] for row in report["samples"]] == [4, 4, 4]
    figures = [{n: f["value"] for n, f in row["metrics"].items()} for row in report["samples"]]
    # The evaluations, with both branches where it is guided, and the decoder.
    assert [one["cost_passes"] for one in figures] == [5, 5, 9]
    assert all(one["cost_milliseconds"] > 0 for one in figures)
    assert report["samples"][0]["metrics"]["cost_milliseconds"]["low"] > 0
    parameters = [
        sum(t.size for t in safetensors.numpy.load_file(path).values())
        for path in (run / "codec.safetensors", exported(run, tmp_path))
    ]
    scaling = 2  # numbers beside the autoencoder's parameters
    assert figures[0]["model_size_parameters"] == sum(parameters) - scaling
    assert figures[0]["model_size_noise"] == 4 * 4 * 2
    assert report["protocol"]["timed"]["batch_size"] == 16
    with pytest.raises(UserError, match=r"--metrics=bpd measures .* this model has latents"):
        evaluate.evaluate(str(run), metrics=["bpd"])


def test_devices_change_nothing_and_draws_are_the_places(latent):
    losses = {
        devices: first_loss(latent(mesh={"data": devices}, data={"batch_size": 16}))
        for devices in (1, 8)
    }
    np.testing.assert_allclose(losses[8], losses[1], rtol=1e-6)


def first_loss(config):
    from ddpm_jax.build import begun
    from ddpm_jax.experiment import attempt
    from ddpm_jax.runtime import sharding

    built = experiment.build(config)
    source = built.source("train")
    built = begun.with_made(built, source)
    batch = attempt.training_batches(built, source).batch_at(0)
    batch = sharding.put_batch(batch, sharding.batch_sharding(built.mesh))
    _, metrics = built.train_step()(built.init_state(), batch)
    return float(metrics["loss"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"codec": "nowhere"}}, "config.data.codec=/.*nowhere: neither a workdir"),
        ({"data": {"latent_shape": (4, 4)}}, r"latent_shape=\(4, 4\): need \(h, w, C\)"),
        ({"data": {"latent_shape": (4, 4, 3)}}, r"makes \(4, 4, 2\); set it to that"),
        ({"data": {"dequantise": True}}, "config.data.dequantise=True: it is of pixels"),
        ({"sample": {"clip_x0": True}}, "config.sample.clip_x0=True: it bounds pixels"),
        (
            {
                "data": {"name": "shapes", "image_size": (16, 16), "channels": 3},
                "model": {"num_classes": 0},
                "diffusion": {"label_dropout": 0.0},
                "sample": {"guidance_scale": 1.0},
            },
            r"the autoencoder of .* has images of \(8, 8, 1\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(latent, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train.train(latent(**changes), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_an_autoencoder_that_is_told_a_class_is_no_codec(latent, tmp_path):
    told = config_of(CODEC, "autoencoder", model={"num_classes": 10}, train={"num_steps": 1})
    assert train.train(told, tmp_path / "told") == 0
    with pytest.raises(UserError, match="its decoder is told one of 10 classes"):
        train.train(latent(data={"codec": str(tmp_path / "told")}), tmp_path / "run")


@pytest.mark.wide(2)
def test_a_classifier_of_the_same_latents_guides(run, latent, tmp_path):
    of_latents = {"codec": latent().data.codec, "latent_shape": (4, 4, 2)}
    config = config_of(
        {
            **SHARED,
            "data": SHARED["data"] | of_latents,
            "train": {name: SHARED["train"][name] for name in ("num_steps", "min_free_gb")},
            "sample": {},
            "model": {"channels": 8, "channel_multipliers": (1,), "num_blocks": 1, "num_groups": 4}
            | {"attention_resolutions": (), "num_classes": 10},
            "diffusion": {"num_steps": 20, "schedule": "cosine"},
        },
        "classifier",
    )
    assert train.train(config, tmp_path / "classifier") == 0
    loaded, classifier = experiment.load(run), experiment.load(tmp_path / "classifier")
    assert classifier.log_probs(loaded.sample(3), t=0.5).shape == (3, 10)
    task = experiment.Task(classifier=classifier)
    guided = loaded.sample(2, labels=[4], task=task, guidance_scale=1.0, classifier_scale=50.0)
    assert (guided != loaded.sample(2, labels=[4], guidance_scale=1.0)).any()


def test_a_folder_of_diffusers_is_a_codec_with_its_published_scale(codec, latent, tmp_path):
    saved = experiment.load(codec)
    params = {name: saved.params[name] for name in saved.params}
    autoencoder_to_diffusers(saved.model, params, tmp_path / "vae", 0.7)
    config = latent(data={"codec": str(tmp_path / "vae")}, train={"num_steps": 1})
    assert train.train(config, tmp_path / "run") == 0
    loaded = experiment.load(tmp_path / "run")
    assert float(loaded.experiment.latents.tree["scaling"]["scale"]) == pytest.approx(0.7)
    assert loaded.sample(2).shape == (2, 8, 8, 1)


def test_a_run_of_pixels_has_nothing_of_latents():
    with pytest.raises(UserError, match=r"config\.data\.latent_shape=.*: it is of latents"):
        experiment.build(config_of(DIFFUSION, sample={"clip_x0": True}))


def test_tasks_of_pixels_and_guides_of_others_are_refused(run, latent, tmp_path):
    loaded = experiment.load(run)
    grey = np.zeros((4, 4, 1), np.uint8)
    with pytest.raises(UserError, match="upscale: pixels are observed"):
        loaded.sample(1, task=experiment.Task(upscale=grey))
    pixels = config_of(
        DIFFUSION, data={"latent_shape": ()}, model={"patch_size": 4}, train={"num_steps": 1}
    )
    assert train.train(pixels, tmp_path / "pixels") == 0
    weaker = experiment.Task(weaker=experiment.load(tmp_path / "pixels"))
    with pytest.raises(UserError, match="weaker: it sees pixels, and this model does not"):
        loaded.sample(1, task=weaker)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ddpm_jax" / "latents"


def losses(workdir):
    return [line["loss"] for line in tiny_runs.metrics(workdir) if "loss" in line]


def test_latents_made_beforehand_are_those_of_each_step(latent, cache, tmp_path):
    """Under the same draws, mirrored images too; another encoder or data set is another cache."""
    flipped = {"flip": True}
    assert train.train(latent(data=flipped), tmp_path / "each") == 0
    assert not cache.exists()
    kept = latent(data=flipped | {"cache_latents": True})
    assert train.train(kept, tmp_path / "kept", until=4) == 75
    folders = {*cache.iterdir()}
    assert len(folders) == 2  # of training, and held-out ones
    times = [path.stat().st_mtime_ns for path in sorted(cache.rglob("*.safetensors"))]
    assert train.train(kept, tmp_path / "kept") == 0
    assert [path.stat().st_mtime_ns for path in sorted(cache.rglob("*.safetensors"))] == times
    np.testing.assert_allclose(losses(tmp_path / "kept"), losses(tmp_path / "each"), rtol=1e-5)
    # A damaged part is made again.
    part = max(cache.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    whole = part.read_bytes()
    part.write_bytes(whole[:-7] + b"damaged")
    assert train.train(kept, tmp_path / "again") == 0
    assert part.read_bytes() == whole
    assert tiny_runs.final(tmp_path / "again") == tiny_runs.final(tmp_path / "kept")
    other = config_of(CODEC, "autoencoder", train={"num_steps": 1})
    assert train.train(other, tmp_path / "codec") == 0
    changed = latent(
        data=flipped | {"cache_latents": True, "codec": str(tmp_path / "codec")},
        train={"num_steps": 1},
    )
    assert train.train(changed, tmp_path / "changed") == 0
    assert len({*cache.iterdir()} - folders) == 2


def test_images_that_move_in_the_step_have_no_latents_beforehand(latent, tmp_path):
    moved = latent(data={"cache_latents": True, "augment": ("shift",)})
    with pytest.raises(UserError, match=r"config\.data\.augment=\('shift',\): an image that is"):
        train.train(moved, tmp_path)


def test_what_a_killed_process_left_half_is_written_again(run, tmp_path):
    """The file that says what the tree is comes last: without it nothing is there."""
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    loaded = experiment.load(copied)
    (copied / "codec.json").unlink()
    kept.keep(loaded.experiment, copied)
    assert experiment.load(copied).experiment.latents.digest == loaded.experiment.latents.digest


def test_a_copy_that_is_damaged_is_told(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / "codec.safetensors").unlink()
    with pytest.raises(UserError, match="the autoencoder that this run keeps cannot be read"):
        experiment.load(copied)


def test_a_copy_that_another_one_replaced_is_told(run, tmp_path):
    """Whole in itself, and not the one that the manifest says that the run was trained with."""
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    own = experiment.load(copied).experiment.latents
    tree = jax.tree.map(lambda leaf: np.asarray(2 * leaf), own.tree)
    content = {"network": latents.fields_of(own.network)}
    latents.KEEPING.keep(copied, {latents.TREE: tree}, content)
    with pytest.raises(UserError, match=r"codec\.safetensors is not the one that the run was tr"):
        experiment.load(copied)
    (copied / "manifest.json").unlink()  # and nothing is known any more
    experiment.load(copied)


def test_another_autoencoder_is_not_taken_on_the_way_and_that_is_told(
    latent, run, tmp_path, capsys
):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    config = latent(data={"codec": str(tmp_path / "other")}, train={"num_steps": 7})
    assert train.train(config, copied) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "config.data.codec" in line]
    (line,) = said
    assert line.startswith(
        f"config.data.codec={tmp_path / 'other'}: this run goes on with the copy"
    )
    before, after = (experiment.load(one).experiment.latents.digest for one in (run, copied))
    assert before == after


@pytest.mark.wide(3)
def test_it_is_reproduced_and_bisected_with_the_autoencoder_that_it_had(latent, codec, tmp_path):
    place = tmp_path / "codec"
    shutil.copytree(codec, place)
    config = latent(data={"codec": str(place)}, train={"num_steps": 2})
    assert train.train(config, tmp_path / "a") == 0
    manifest = tmp_path / "a" / "manifest.json"
    result, code = reproduce.reproduce(manifest, tmp_path / "again")
    assert (result["equal"], code) == (True, 0)

    shutil.rmtree(place)
    with pytest.raises(UserError, match=r"config\.data\.codec=.*: neither a workdir"):
        reproduce.reproduce(manifest, tmp_path / "gone")
    other = config_of(CODEC, "autoencoder", train={"num_steps": 1, "validate_every": 0})
    assert train.train(other, place) == 0
    with pytest.raises(UserError, match=r"began with another codec than config\.data\.codec="):
        reproduce.reproduce(manifest, tmp_path / "retrained")
    assert not (tmp_path / "gone").exists()
    assert not (tmp_path / "retrained").exists()

    # The same config, and other latents from the first step on.
    assert train.train(config, tmp_path / "b") == 0
    found = bisect(tmp_path / "a", tmp_path / "b", io.StringIO())
    assert (found["verdict"], found["first"]["step"]) == ("differ", 1)
    assert found["reproduced"] == {"a": True, "b": True}


@pytest.mark.parametrize(
    ("factor", "value", "message"),
    [
        (0.0, 1.0, "scaling_factor is 0.0; supported: a number above 0"),
        (1.0, np.nan, r"config\.data\.codec=.*: \d+ of its tensors are not finite \(decoder/"),
    ],
)
def test_a_folder_of_diffusers_without_numbers_is_no_codec(
    codec, latent, tmp_path, factor, value, message
):
    saved = experiment.load(codec)
    params = jax.tree.map(lambda leaf: value * leaf, {**saved.params})
    autoencoder_to_diffusers(saved.model, params, tmp_path / "vae", factor)
    with pytest.raises(UserError, match=message):
        train.train(latent(data={"codec": str(tmp_path / "vae")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
