"""What is asked of samples beside their conditions: guides, images to begin with or to keep."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_networks import random_params
from tiny_runs import tiny_config

from ddpm_jax import data, experiment
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Task
from ddpm_jax.trained.program import NO_TASK

RNG = np.random.default_rng(0)
IMAGE, OTHER = RNG.integers(0, 256, (2, 8, 8, 1), np.uint8)
MASK = np.zeros((8, 8, 1), bool)
MASK[4:] = True


def loaded(seed=0, **changes):
    """A model whose parameters are drawn, not trained."""
    # A transformer compiles in a fraction of a U-Net's time.
    small = {"name": "dit", "channels": 8, "num_blocks": 1, "patch_size": 4, "num_groups": 2}
    model = changes.get("model", {})
    changes["sample"] = {"guidance_scale": 1.0, "batch_size": 8} | changes.get("sample", {})
    if "kind" in changes:
        del changes["sample"], small["patch_size"], small["name"]
    changes["model"] = small | model
    built = experiment.build(tiny_config(**changes))
    args = jnp.zeros((1, *built.image_shape)), jnp.zeros(1)
    params = random_params(built.model, *args)
    return experiment.Loaded(built, jax.tree.map(lambda p: p * (1 + 0.1 * seed), params), 0)


CLASSIFIER = {"kind": "classifier"}


@pytest.fixture(scope="module")
def model():
    return loaded()


@pytest.fixture(scope="module")
def trained(finished_run):
    """For what only a denoiser shows."""
    return experiment.load(finished_run.workdir)


@pytest.fixture(scope="module")
def classifier():
    return loaded(**CLASSIFIER)


@pytest.fixture(scope="module")
def colours():
    return loaded(
        data={"name": "shapes", "image_size": (16, 16), "channels": 3},
        model={"num_classes": 0, "conditions": ("shape", "colour")},
        diffusion={"label_dropout": 0.0, "condition_dropout": (0.1, 0.1)},
    )


def grey_levels(a, b):
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize(
    "options",
    [{}, {"sampler": "ancestral", "num_resamples": 2}],
    ids=["ddim", "repaint"],
)
@pytest.mark.wide(2)
def test_inpainting_keeps_what_is_known_and_paints_the_rest(model, options):
    drawn = model.sample(4, task=Task(inpaint=(IMAGE, MASK)), **options)
    kept = ~np.broadcast_to(MASK, IMAGE.shape)
    for image in drawn:
        np.testing.assert_array_equal(image[kept], IMAGE[kept])
    assert grey_levels(drawn[0][~kept], drawn[1][~kept]) > 10


def test_less_strength_keeps_more_of_the_image(model):
    def distance(strength):
        drawn = model.sample(8, task=Task(init_images=[IMAGE], strength=strength))
        return np.abs(drawn.astype(float) - IMAGE).mean()

    near, far = (distance(strength) for strength in (0.2, 1.0))
    assert near < 0.9 * far
    # At full strength on a path that ends in noise, the image no longer counts.
    noise = model.sample(8)
    assert np.abs(noise.astype(float) - IMAGE).mean() == pytest.approx(far, rel=0.1)


def test_between_two_images_the_ends_are_their_own(model):
    between = model.sample(5, task=Task(init_images=[IMAGE, OTHER], strength=0.4))
    for place, image in ((0, IMAGE), (4, OTHER)):
        # One noise for all: that of image 0.
        # As a list of images or as an array of them.
        task = Task(init_images=image[None], strength=0.4)
        alone = model.sample(1, labels=[place], task=task)
        assert grey_levels(between[place], alone[0]) <= 1
    assert grey_levels(between[2], between[0]) > 5


def test_between_two_labels_the_ends_are_their_own(model):
    between = model.sample(3, task=Task(between_labels=(3, 8)), guidance_scale=2.0)
    for place, label in ((0, 3), (2, 8)):
        alone = model.sample(1, labels=[label], guidance_scale=2.0)
        assert grey_levels(between[place], alone[0]) <= 1


def test_composition_adds_up(model):
    guided = model.sample(4, labels=[3], guidance_scale=3.0)
    double = model.sample(4, task=Task(composed=[(4.0, {"label": "3"}), (-1.0, {"label": 3})]))
    assert grey_levels(guided, double) <= 1
    other = model.sample(4, task=Task(composed=[(3.0, {"label": 3}), (-1.0, {"label": 8})]))
    assert grey_levels(guided, other) > 5


def test_what_is_told_to_all_goes_into_every_branch(colours):
    told = {"shape": "cross", "colour": "red"}
    guided = colours.sample(2, conditions=told, guidance_scale=2.0)
    task = Task(composed=[(2.0, {"colour": "red"})])
    composed = colours.sample(2, conditions={"shape": "cross"}, task=task)
    assert grey_levels(guided, composed) <= 1


@pytest.mark.wide(3)
def test_a_classifier_counts_by_its_scale(model, classifier):
    unguided = model.sample(4, labels=[3])
    none = model.sample(4, labels=[3], task=Task(classifier=classifier), classifier_scale=0.0)
    np.testing.assert_array_equal(none, unguided)
    task = Task(classifier=classifier)
    one, weak, strong = (
        model.sample(4, labels=[3], task=task, **options)
        for options in ({}, {"classifier_scale": 1.0}, {"classifier_scale": 100.0})
    )
    np.testing.assert_array_equal(one, weak)
    assert grey_levels(one, unguided) > 0
    assert grey_levels(strong, unguided) > grey_levels(one, unguided)


@pytest.mark.wide(3)
def test_a_model_without_classes_takes_those_of_its_classifier(classifier):
    plain = loaded(model={"num_classes": 0}, diffusion={"label_dropout": 0.0})
    task = Task(classifier=classifier)
    assert plain.labels(12, (), task).tolist() == [*range(10), 0, 1]
    three, eight = (
        plain.sample(2, labels=[label], task=task, classifier_scale=30.0) for label in (3, 8)
    )
    assert grey_levels(three, eight) > 1


def test_a_model_is_no_guide_for_itself_and_a_weaker_one_is(model):
    unguided = model.sample(4)
    assert grey_levels(model.sample(4, task=Task(weaker=model), guidance_scale=3.0), unguided) <= 1
    weaker = Task(weaker=loaded(seed=1))
    assert grey_levels(model.sample(4, task=weaker, guidance_scale=3.0), unguided) > 5
    # It needs no condition that was ever hidden.
    always = loaded(diffusion={"label_dropout": 0.0})
    assert grey_levels(always.sample(4, task=weaker, guidance_scale=3.0), unguided) > 5


def test_a_model_without_conditions_is_guided_by_a_weaker_one_alone():
    plain = {"model": {"num_classes": 0}, "diffusion": {"label_dropout": 0.0}}
    model = loaded(**plain)
    weaker = Task(weaker=loaded(seed=1, **plain))
    assert grey_levels(model.sample(2, task=weaker, guidance_scale=3.0), model.sample(2)) > 5
    with pytest.raises(UserError, match=r"guidance_scale=3\.0: an unconditional model"):
        model.sample(2, guidance_scale=3.0)


def test_guidance_within_an_interval(model):
    everywhere = model.sample(4, guidance_scale=3.0)
    nowhere = model.sample(4)
    inside = model.sample(4, guidance_scale=3.0, guidance_low=0.3, guidance_high=2.0)
    no_level = model.sample(4, guidance_scale=3.0, guidance_low=1e6)
    assert grey_levels(no_level, nowhere) <= 1
    assert min(grey_levels(inside, everywhere), grey_levels(inside, nowhere)) > 1


@pytest.mark.wide(6)
def test_rescaling_brings_the_contrast_of_guidance_down(trained):
    def contrast(**options):
        drawn = trained.sample(8, guidance_scale=8.0, clip_x0=False, **options)
        return drawn.astype(float).std(axis=(1, 2, 3)).mean()

    assert contrast(guidance_rescale=1.0) < contrast()


def test_frames_lead_from_noise_to_the_same_image(model):
    whole = model.sample(4, task=Task(frames=6))
    assert whole.shape == (4, 6, 8, 8, 1)
    np.testing.assert_array_equal(whole[:, -1], model.sample(4))
    first = whole[:, 0].astype(float) / 127.5 - 1
    # Standard normal noise, clipped to [-1, 1]: a variance of 0.516.
    assert first.var() == pytest.approx(0.516, abs=0.08)
    assert grey_levels(whole[:, 1], whole[:, 0]) > 5


@pytest.mark.wide(3)
def test_what_was_observed_shows_in_the_samples(trained):
    def blocks(images):
        return images.astype(float).reshape(-1, 4, 2, 4, 2, 1).mean(axis=(2, 4))

    digit = np.round(data.digits("validation")[0]["image"] * (255 / 16)).astype(np.uint8)
    small = blocks(digit[None])[0].round().astype(np.uint8)
    options = {"guidance_scale": 1.0}
    enlarged = blocks(trained.sample(8, task=Task(upscale=small), **options))
    loose = blocks(trained.sample(8, task=Task(upscale=small, observation_noise=0.5), **options))
    free = blocks(trained.sample(8, **options))
    exact, rough, none = (np.abs(drawn - small).mean() for drawn in (enlarged, loose, free))
    assert exact < rough < none
    assert exact < 0.25 * none


@pytest.mark.wide(3)
def test_a_grey_image_is_told_to_a_model_of_colours(colours):
    light, dark = (np.full((16, 16, 1), level, np.uint8) for level in (230, 20))
    bright, dim = (colours.sample(2, task=Task(colourise=grey)) for grey in (light, dark))
    assert bright.astype(float).mean() > dim.astype(float).mean() + 20
    # Of an observation that is nothing but noise, nothing is left.
    deaf = colours.sample(2, task=Task(colourise=light, observation_noise=1e4))
    assert grey_levels(deaf, colours.sample(2)) <= 1


@pytest.mark.parametrize(
    ("options", "task", "calls", "batches"),
    [
        ({}, {}, 5, 1),
        ({"guidance_scale": 2.0}, {}, 5, 2),  # both branches in one call of twice the batch
        ({}, {"composed": [(1.0, {"label": 1}), (2.0, {"label": 2})]}, 5, 3),
    ],
)
@pytest.mark.wide(3)
def test_network_calls_and_their_batch(model, options, task, calls, batches, monkeypatch):
    sizes = []
    apply = type(model.model).apply

    def watched(self, variables, xt, *args, **kwargs):
        jax.debug.callback(lambda first: sizes.append(len(xt)), xt[0, 0, 0, 0])
        return apply(self, variables, xt, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "apply", watched)
    # A program that is kept calls the network as it was.
    fresh = dataclasses.replace(
        model, experiment=dataclasses.replace(model.experiment, programs={})
    )
    fresh.sample(8, task=Task(**task), **options)
    jax.effects_barrier()
    assert sizes == [8 * batches] * calls


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ({"init_images": [IMAGE[1:]]}, {}, r"init_image: need \(8, 8, 1\).*got \(7, 8, 1\)"),
        ({"init_images": [IMAGE] * 3}, {}, "need one image, or two, got 3"),
        ({"init_images": [IMAGE], "strength": 1.5}, {}, r"^strength=1\.5: need above 0"),
        ({"init_images": [IMAGE], "strength": 0.01}, {}, "strength"),
        ({"strength": 0.5}, {}, "no image to begin with"),
        ({"inpaint": (IMAGE[1:], MASK)}, {}, r"inpaint: need \(8, 8, 1\)"),
        ({"inpaint": (IMAGE, MASK[1:])}, {}, r"mask: need \(8, 8, 1\)"),
        ({"inpaint": (IMAGE, MASK)}, {"sampler": "probability_flow"}, "cannot keep a part"),
        (
            {"frames": 4, "inpaint": (IMAGE, MASK)},
            {"num_resamples": 2, "sampler": "ancestral"},
            "repaint keeps no images on the way",
        ),
        ({"frames": 1}, {}, "frames=1"),
        ({}, {"num_resamples": 3, "sampler": "ancestral"}, "repaint applies only to inpainting"),
        ({"inpaint": (IMAGE, MASK)}, {"num_resamples": 3}, r"ddim has no.*\(repaint"),
        ({}, {"classifier_scale": 2.0}, "no classifier to scale"),
        ({"colourise": IMAGE}, {}, "nothing to colour"),
        ({"upscale": IMAGE}, {}, r"need \(8 / k, 8 / k, 1\)"),
        ({"upscale": IMAGE[:3, :3]}, {}, r"got \(3, 3, 1\)"),
        ({"init_images": [IMAGE / 255]}, {}, "init_image: need uint8, 0 to 255, got float64"),
        ({"inpaint": (IMAGE > 0, MASK)}, {}, "inpaint: need uint8, 0 to 255, got bool"),
        ({"observation_noise": 0.1}, {}, "nothing is observed"),
        ({"upscale": IMAGE[:4, :4], "observation_noise": -1.0}, {}, "observation_noise=-1"),
        ({"between_labels": (3, 10)}, {}, r"label 10 is outside 0\.\.9"),
        ({"composed": [(1.0, {"colour": "red"})]}, {}, "no such condition"),
        ({"composed": [(1.0, {"label": 1})]}, {"guidance_scale": 2.0}, "take its place"),
        ({"composed": [(1.0, {"label": 1})], "between_labels": (1, 2)}, {}, "do not go together"),
        ({"inpaint": (IMAGE, MASK), "upscale": IMAGE[:4, :4]}, {}, "do not go together"),
        ({}, {"guidance_low": 2.0, "guidance_high": 1.0}, "guidance_high=1.0: need"),
    ],
)
def test_what_cannot_be_is_refused_by_name(model, task, options, words):
    with pytest.raises(UserError, match=words):
        model.sample(2, task=Task(**task), **options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"diffusion": {"schedule": "linear"}}, r"another schedule \(linear, 10 steps\).*\(cosine"),
        ({"diffusion": {"num_steps": 20}}, r"another schedule \(cosine, 20 steps\)"),
        ({"diffusion": {"cosine_s": 0.1}}, "another schedule"),
        ({"model": {"num_classes": 3}}, "it has 3 classes, and this model 10"),
        ({"data": {"image_size": (16, 16), "name": "folder", "data_dir": "."}}, r"\(16, 16, 1\)"),
    ],
)
def test_a_classifier_of_something_else_is_refused(model, changes, words):
    with pytest.raises(UserError, match=f"classifier: .*{words}"):
        model.sample(2, task=Task(classifier=loaded(**CLASSIFIER, **changes)))


def test_guides_are_of_their_kind(model, classifier):
    with pytest.raises(UserError, match="classifier: that run is a diffusion model"):
        model.sample(2, task=Task(classifier=model))
    with pytest.raises(UserError, match="weaker: that run is a classifier"):
        model.sample(2, task=Task(weaker=classifier))
    with pytest.raises(UserError, match="a classifier, which draws no images"):
        classifier.sample(2)


def test_what_was_never_hidden_cannot_be_composed():
    always = loaded(diffusion={"label_dropout": 0.0})
    with pytest.raises(UserError, match=r"config\.diffusion\.label_dropout above 0"):
        always.sample(2, task=Task(composed=[(2.0, {"label": 1})]))
    with pytest.raises(UserError, match=r"guidance_scale=2\.0.*label_dropout above 0"):
        always.sample(2, guidance_scale=2.0)
    plain = loaded(model={"num_classes": 0}, diffusion={"label_dropout": 0.0})
    with pytest.raises(UserError, match="no conditions to compose"):
        plain.sample(2, task=Task(composed=[(2.0, {"label": 1})]))


def test_the_classes_of_images_are_those_that_had_a_part_in_them(model, classifier):
    def classes(task=NO_TASK, **options):
        return model.drawing(2, labels=[3], task=task, **options).labels.tolist()

    assert classes() == [3, 3]
    assert classes(guidance_scale=0.0) == [-1, -1]
    # Outside of the interval the scale is 1.
    assert classes(guidance_scale=0.0, guidance_low=0.3) == [3, 3]
    assert classes(Task(classifier=classifier), guidance_scale=0.0) == [3, 3]
    assert classes(Task(classifier=classifier), guidance_scale=0.0, classifier_scale=0.0) == [
        -1,
        -1,
    ]
    assert classes(Task(weaker=model), guidance_scale=0.0) == [3, 3]
    plain = loaded(model={"num_classes": 0}, diffusion={"label_dropout": 0.0})
    assert classes(Task(weaker=plain), guidance_scale=0.0) == [-1, -1]
    assert classes(Task(between_labels=(1, 2))) == [-1, -1]
    assert classes(Task(composed=[(2.0, {"label": 1})])) == [-1, -1]
