"""Models that enlarge what another drew: configs, what they are shown, chains, the command."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from PIL import Image
from random_networks import random_params
from tiny_runs import tiny_config

from ddpm_jax import experiment
from ddpm_jax.build import conditioning, upsampling
from ddpm_jax.commands.sample import sample
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Cascade, Task
from ddpm_jax.reporting import figures

RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 256, (4, 4, 4, 1), np.uint8)
PLAIN = {"model": {"num_classes": 0}, "diffusion": {"label_dropout": 0.0}}
UPSAMPLER = {
    "model": {"conditions": ("low_resolution",)},
    "diffusion": {"low_resolution": 4, "augmentation": 0.4},
}


def merged(*many):
    """Changes of a config, the later over the earlier."""
    groups = {}
    for changes in many:
        for group, fields in changes.items():
            groups[group] = groups.get(group, {}) | fields
    return groups


def loaded(*changes):
    """A model whose parameters are drawn, not trained."""
    own = {
        # A transformer compiles in a fraction of a U-Net's time.
        "model": {"name": "dit", "channels": 8, "num_blocks": 1, "patch_size": 2},
        "sample": {"guidance_scale": 1.0, "batch_size": 8, "num_steps": 3},
    }
    built = experiment.build(tiny_config(**merged(own, *changes)))
    params = random_params(built.model, jnp.zeros((1, *built.image_shape)), jnp.zeros(1))
    return experiment.Loaded(built, params, 0)


def sized(*size):
    return {"data": {"name": "folder", "data_dir": ".", "image_size": size}}


@pytest.fixture(scope="module")
def base():
    return loaded(sized(4, 4))


@pytest.fixture(scope="module")
def upsampler():
    """From 4x4 to 8x8, with the labels of the digits."""
    return loaded(UPSAMPLER)


def grey_levels(a, b):
    return int(np.abs(a.astype(int) - b).max())


def enlarge(upsampler, small, **options):
    return upsampler.sample(len(small), conditions={"low_resolution": small}, **options)


@pytest.mark.wide(3)
def test_an_image_depends_on_seed_number_and_its_small_image_alone(upsampler):
    whole = enlarge(upsampler, SMALL)
    assert whole.shape == (4, 8, 8, 1)
    assert grey_levels(enlarge(upsampler, SMALL[:3]), whole[:3]) <= 1
    many = enlarge(upsampler, np.resize(SMALL, (12, 4, 4, 1)))  # in two batches
    assert grey_levels(many[:4], whole) <= 1
    assert grey_levels(many[10], enlarge(upsampler, SMALL[[2]])[0]) > 5
    changed = SMALL.copy()
    changed[1] = 255 - changed[1]
    other = enlarge(upsampler, changed)
    assert grey_levels(other[1], whole[1]) > 5
    np.testing.assert_array_equal(other[[0, 2, 3]], whole[[0, 2, 3]])
    assert grey_levels(enlarge(upsampler, SMALL, seed=1), whole) > 5
    # One for all.
    np.testing.assert_array_equal(
        upsampler.sample(2, conditions={"low_resolution": SMALL[0]}),
        enlarge(upsampler, SMALL[[0, 0]]),
    )
    np.testing.assert_array_equal(enlarged(upsampler, SMALL, labels=np.arange(4)), whole)


def enlarged(upsampler, images, **options):
    return np.concatenate(list(upsampler.enlarging(len(images), **options)(images, 0)))


def test_parts_are_enlarged_as_the_whole(upsampler):
    images, labels = np.resize(SMALL, (20, 4, 4, 1)), np.arange(20) % 10
    enlarge = upsampler.enlarging(20, labels=labels, seed=3)
    parts = [*enlarge(images[:8], 0), *enlarge(images[8:16], 8), *enlarge(images[16:], 16)]
    whole = enlarged(upsampler, images, labels=labels, seed=3)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.fixture
def copies(monkeypatch):
    """A model that predicts x_0 to be what it is shown."""
    one = loaded(UPSAMPLER, {"diffusion": {"prediction": "x0"}, "sample": {"batch_size": 400}})

    def copy(self, variables, xt, time, conditions):
        return conditions["low_resolution"][..., :-1]

    monkeypatch.setattr(type(one.model), "apply", copy)
    # Without the program that building it kept, which calls the network as it was.
    return dataclasses.replace(one, experiment=dataclasses.replace(one.experiment, programs={}))


def test_what_is_shown_is_the_small_image_with_noise_of_the_level_asked_for(copies):
    for image, got in zip(SMALL, enlarge(copies, SMALL, augmentation=0.0), strict=True):
        exact = Image.fromarray(image[..., 0].astype(np.float32))
        expected = np.asarray(exact.resize((8, 8), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(got[..., 0], expected, atol=0.51)
    grey = np.full((400, 4, 4, 1), 127, np.uint8)
    for options, level in (({}, 0.2), ({"augmentation": 0.1}, 0.1)):
        corners = enlarge(copies, grey, **options)[:, [0, 0, -1, -1], [0, -1, 0, -1], 0]
        noise = corners.astype(float) / 127.5 - 1
        assert noise.std() == pytest.approx(level, rel=5 / np.sqrt(2 * noise.size))
        assert np.abs(np.corrcoef(noise.T) - np.eye(4)).max() < 5 / np.sqrt(400)


def test_no_noise_is_that_of_the_model_before(upsampler):
    keys = jax.random.split(jax.random.key(0), 3)
    bits = [keys]
    for c in (upsampler.experiment.config, loaded(UPSAMPLER, sized(16, 16)).experiment.config):
        bits.append(upsampling.prepare(c)(keys, {}, {}, 0.0)[0])
    drawn = np.stack([jax.vmap(lambda k: jax.random.normal(k, (500,)))(one) for one in bits])
    together = np.corrcoef(drawn.reshape(9, 500))
    assert np.abs(together - np.eye(9)).max() < 5 / np.sqrt(500)


def test_a_chain_is_its_models_one_after_another(base, upsampler):
    chain = Cascade(base, [upsampler])
    drawn = chain.sample(3, labels=[7, 2], seed=5)
    small = base.sample(3, labels=[7, 2], seed=5)
    np.testing.assert_array_equal(drawn, enlarge(upsampler, small, labels=[7, 2], seed=5))
    assert grey_levels(drawn, enlarge(upsampler, small, labels=[3], seed=5)) > 1
    # Options are of the base; so is the way from noise to image.
    options = {"num_steps": 2, "task": Task(frames=3)}
    small = base.sample(3, labels=[7], **options)[:, -1]
    other = chain.sample(3, labels=[7], **options)
    np.testing.assert_array_equal(other, enlarge(upsampler, small, labels=[7]))


def test_what_images_are_told_in_several_ways_is_not_told_to_upsamplers(base, upsampler):
    def labels(**options):
        (one,) = Cascade(base, [upsampler]).passes(3, **options)
        return np.concatenate(list(one(SMALL[:3], 0)))

    told_nothing = enlarged(upsampler, SMALL[:3])
    assert grey_levels(labels(), told_nothing) > 1
    composed = Task(composed=[(1.0, {"label": 1}), (1.0, {"label": 2})])
    np.testing.assert_array_equal(labels(task=composed), told_nothing)
    between = labels(task=Task(between_labels=(1, 2)))
    one_noise = enlarged(upsampler, SMALL[:3], one_noise=True)
    np.testing.assert_array_equal(between, one_noise)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([UPSAMPLER, sized(16, 16)], r"upsampler 2: .*images of \(4, 4, 1\).*given.*\(8, 8, 1\)"),
        ([UPSAMPLER, sized(16, 16), {"diffusion": {"low_resolution": 8}, "data": {"channels": 3}}],
         r"upsampler 2: .*images of \(8, 8, 3\).*given.*\(8, 8, 1\)"),
        ([sized(16, 16)], r"upsampler 2: .*enlarges nothing.*low_resolution=8"),
    ],
    ids=["size", "channels", "none"],
)  # fmt: skip
def test_sizes_must_chain(base, upsampler, changes, words):
    with pytest.raises(UserError, match=words):
        Cascade(base, [upsampler, loaded(*changes)])


def test_labels_must_be_the_same_or_may_be_missing(base, upsampler):
    three = loaded(UPSAMPLER, {"model": {"num_classes": 3}})
    with pytest.raises(UserError, match="upsampler 1: it has 3 classes, and the base 10"):
        Cascade(base, [three]).passes(2)
    unlabelled = loaded(PLAIN, sized(4, 4))
    (one,) = Cascade(unlabelled, [upsampler]).passes(3)
    told_nothing = enlarged(upsampler, SMALL[:3])
    np.testing.assert_array_equal(next(one(SMALL[:3], 0)), told_nothing)
    always = loaded(UPSAMPLER, {"diffusion": {"label_dropout": 0.0}})
    with pytest.raises(UserError, match=r"never trained without a label.*label_dropout"):
        Cascade(unlabelled, [always]).passes(2)


def test_values_that_both_know_are_passed_on(monkeypatch):
    colours = {"data": {"name": "shapes", "channels": 3, "image_size": (16, 16)}}
    base = loaded(PLAIN, colours, {"model": {"conditions": ("shape", "colour", "silhouette")}})
    names = ("low_resolution", "colour", "silhouette", "size")
    fields = {"model": {"conditions": names}, "diffusion": {"low_resolution": 16}}
    two = loaded(PLAIN, colours, {"data": {"image_size": (32, 32)}}, fields)
    given = {}
    monkeypatch.setattr(type(two), "enlarging", lambda *a, **k: given.update(k["conditions"]))
    asked = {"shape": "circle", "colour": ["red", "cyan"], "silhouette": np.ones((16, 16, 1), bool)}
    Cascade(base, [two]).passes(3, conditions=asked)
    assert given == {"colour": ["red", "cyan"]}
    given.clear()
    task = Task(composed=[(1.0, {"colour": "red"})])
    Cascade(base, [two]).passes(3, conditions=asked, task=task)
    assert given == {}
    monkeypatch.undo()
    with pytest.raises(UserError, match="condition colour=pink"):
        Cascade(base, [two]).passes(3, conditions={"colour": "pink"})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, r"this model enlarges images of \(4, 4, 1\).*never trained without"),
        ({"low_resolution": SMALL[0, :2]}, r"need an image of \(4, 4, 1\), got \(2, 4, 1\)"),
        ({"low_resolution": SMALL[:3]}, r"got \(3, 4, 4, 1\); for each of the 2 its own, \(2, 4"),
        ({"low_resolution": SMALL[0].astype(int)}, "need uint8, bool, or floats, got int64"),
        ({"low_resolution": "small.png"}, r"need an image of \(4, 4, 1\), got \(\)"),
    ],
)
def test_a_small_image_that_does_not_fit_is_refused(upsampler, given, words):
    with pytest.raises(UserError, match=f"condition low_resolution: .*{words}"):
        upsampler.sample(2, conditions=given)


def test_a_model_that_was_trained_without_small_images_too_can_be_asked_for_none():
    hidden = {"diffusion": {"label_dropout": 0.0, "joint_dropout": 0.1}}
    one = loaded(UPSAMPLER, hidden, {"sample": {"guidance_scale": 0.0}})
    # At scale 0 guidance hides it.
    np.testing.assert_array_equal(one.sample(2), enlarge(one, SMALL[:2]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"diffusion": {"low_resolution": None}}, "low_resolution=None and config.model.cond"),
        ({"model": {"conditions": ()}}, r"low_resolution=4 and config\.model\.conditions=\(\)"),
        ({"diffusion": {"low_resolution": 8}}, "low_resolution=8: need 8 / k for a whole k > 1"),
        ({"diffusion": {"low_resolution": 3}}, "low_resolution=3"),
        ({"diffusion": {"low_resolution": 0}}, "low_resolution=0"),
        ({"data": {"image_size": (8, 9)}}, "divides 8 and 9"),
        ({"diffusion": {"augmentation": 1.0}}, r"augmentation=1\.0: need at least 0 and below 1"),
        ({"diffusion": {"augmentation": float("nan")}}, "diffusion.augmentation=nan"),
        ({"sample": {"augmentation": 0.41}}, r"sample\.augmentation=0\.41: need 0 to 0\.4"),
        ({"sample": {"augmentation": -0.1}}, r"sample\.augmentation=-0\.1"),
    ],
)
def test_a_config_that_cannot_enlarge_so_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        experiment.build(tiny_config(**merged(UPSAMPLER, changes)))


@pytest.mark.parametrize("group", ["diffusion", "sample"])
def test_what_is_of_enlarging_is_refused_elsewhere(group):
    with pytest.raises(
        UserError, match=rf"config\.{group}\.augmentation=0\.1: applies only to a model that"
    ):
        experiment.build(tiny_config(**{group: {"augmentation": 0.1}}))


def test_the_data_are_not_asked_for_it(upsampler):
    built = upsampler.experiment
    assert set(built.batch_shapes()) == {"x0", "label"}
    assert conditioning.dropout(built.config) == {"label": 0.1, "low_resolution": 0.0}
    assert upsampling.level(built.config) == 0.2


@pytest.fixture(scope="module")
def run(unconditional_run, tmp_path_factory):
    """An upsampler from 8x12 to 16x24, behind `unconditional_run`; its config."""
    config = config_files.override(
        config_files.read(unconditional_run.workdir),
        merged(
            UPSAMPLER,
            {"diffusion": {"low_resolution": 8}, "data": {"image_size": (16, 24)}},
            {"optim": {"decay": "constant"}},  # another number of steps is then the same run
        ),
    )
    workdir = tmp_path_factory.mktemp("cascades") / "run"
    assert train.train(config, workdir) == 0
    return workdir, config


@pytest.mark.wide(3)
def test_a_run_that_enlarges_resumes_exactly(run, tmp_path):
    workdir, config = run
    quiet = {"sample_every": 0, "validate_every": 0}
    for num_steps in (2, 4):
        part = config_files.override(config, {"train": quiet | {"num_steps": num_steps}})
        assert train.train(part, tmp_path / "half") == 0
    assert tiny_runs.final(tmp_path / "half") == tiny_runs.final(workdir)


@pytest.mark.wide(6)
def test_the_grid_of_a_run_enlarges_held_out_images(run):
    workdir, config = run
    one = experiment.load(workdir)
    source = one.experiment.source("validation")
    num = min(len(source), config.sample.grid_size)
    images = np.stack([source[k]["image"] for k in range(num)])
    small = images.reshape(num, 8, 2, 12, 2, 3).mean(axis=(2, 4)) / 127.5 - 1
    small = np.concatenate([small, small[-1:].repeat(config.sample.grid_size - num, axis=0)])
    expected = figures.grid(enlarge(one, small, seed=config.seed))
    with Image.open(workdir / "samples" / "step_000004.png") as picture:
        assert grey_levels(np.asarray(picture), expected) <= 1


@pytest.mark.wide(3)
def test_the_command_draws_and_enlarges(unconditional_run, run, tmp_path):
    base, out = experiment.load(unconditional_run.workdir), tmp_path / "a.npz"
    upsampler = experiment.load(run[0])
    sample.to_files(
        str(unconditional_run.workdir),
        str(out),
        num_samples=3,
        upsampler_workdirs=[str(run[0])],
        trajectory=str(tmp_path / "way.png"),
        seed=2,
    )
    with np.load(out) as held:
        drawn = held["samples"]
    assert drawn.shape == (3, 16, 24, 3)
    small = base.sample(3, seed=2)
    np.testing.assert_array_equal(drawn, enlarge(upsampler, small, seed=2))
    with Image.open(out.with_suffix(".png")) as picture:
        np.testing.assert_array_equal(np.asarray(picture), figures.grid(drawn))
    with Image.open(tmp_path / "way.png") as strip:  # of the base, and its 5 steps
        assert strip.size == figures.grid(small.repeat(6, axis=0), 6).shape[1::-1]

    Image.fromarray(small[0]).save(tmp_path / "small.png")
    sample.to_files(
        str(run[0]),
        str(tmp_path / "b.npz"),
        num_samples=2,
        conditions=[f"low_resolution={tmp_path / 'small.png'}"],
    )
    with np.load(tmp_path / "b.npz") as held:
        np.testing.assert_array_equal(held["samples"], enlarge(upsampler, small[[0, 0]]))


def test_runs_that_do_not_chain_are_one_line_before_anything_is_drawn(
    unconditional_run, run, tmp_path
):
    out = tmp_path / "new" / "a.npz"
    with pytest.raises(UserError, match=r"upsampler 2: .*\(8, 12, 3\).*\(16, 24, 3\)"):
        sample.to_files(
            str(unconditional_run.workdir),
            str(out),
            num_samples=2,
            upsampler_workdirs=[str(run[0])] * 2,
        )
    with pytest.raises(UserError, match="condition low_resolution: this model enlarges"):
        sample.to_files(str(run[0]), str(out), num_samples=2)
    assert not out.parent.exists()
