"""A compiled program is kept by what shapes it: what it is only given compiles nothing anew."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compilations
from random_networks import random_params
from tiny_runs import BRIEF, tiny_config

from ddpm_jax import experiment
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.sample import sample
from ddpm_jax.data import tokenizers
from ddpm_jax.experiment import Task
from ddpm_jax.trained import kept, program

RUNS = Path(__file__).parents[1] / "earlier_runs"
RNG = np.random.default_rng(0)
IMAGE, OTHER = RNG.integers(0, 256, (2, 8, 8, 1), np.uint8)
MASK = np.arange(64).reshape(8, 8, 1) % 2 == 0


def loaded(seed=0, **changes):
    """A transformer whose parameters are drawn, not trained."""
    built = experiment.build(tiny_config(BRIEF, **changes))
    args = jnp.zeros((1, *built.image_shape)), jnp.zeros(1)
    params = random_params(built.model, *args)
    return experiment.Loaded(built, jax.tree.map(lambda p: p * (1 + 0.1 * seed), params), 0)


CLASSIFIER = {"kind": "classifier"}


@pytest.fixture(scope="module")
def model():
    return loaded()


@pytest.fixture(scope="module")
def classifiers():
    return [loaded(seed, **CLASSIFIER) for seed in (0, 1)]


def test_compilations_are_counted():
    with compilations() as seen:
        jax.jit(lambda x: 3 * x + 1)(jnp.ones(3))
    assert seen


def composed(*pairs):
    return Task(composed=[(weight, {"label": label}) for weight, label in pairs])


@pytest.mark.parametrize(
    ("first", "others"),
    [
        (
            {"labels": [3], "guidance_scale": 2.0},
            [{"seed": 1}, {"labels": [4, 5]}, {"guidance_scale": 3.5}, {"guidance_scale": -0.5}],
        ),
        ({"guidance_scale": 1.0}, [{"seed": 1}, {"labels": [2]}]),
        ({"guidance_scale": 0.0}, [{"seed": 1}, {"seed": 2, "labels": [2]}]),
        (
            {"guidance_scale": 2.0, "guidance_low": 0.3},
            [{"guidance_scale": 1.0}, {"guidance_scale": 0.0}, {"guidance_scale": 4.0}],
        ),
        (
            {"task": composed((2.0, 3), (-1.0, 8))},
            [{"task": composed((1.5, 1), (-0.5, 2))}, {"task": composed((1.0, 1), (1.0, 2))}],
        ),
        ({"task": Task(between_labels=(3, 8))}, [{"task": Task(between_labels=(1, 2))}]),
        (
            {"task": Task(init_images=[IMAGE], strength=0.6)},
            # Three of five steps each.
            [{"task": Task(init_images=[OTHER], strength=0.75)}, {"guidance_scale": 3.0}],
        ),
        (
            {"task": Task(inpaint=(IMAGE, MASK))},
            [{"task": Task(inpaint=(OTHER, ~MASK))}, {"seed": 2}],
        ),
        (
            {"task": Task(upscale=IMAGE[:4, :4], observation_noise=0.1)},
            [{"task": Task(upscale=OTHER[:4, :4], observation_noise=0.3)}],
        ),
    ],
    ids=[
        "scales",
        "conditional",
        "unconditional",
        "interval",
        "composed",
        "labels",
        "init",
        "inpaint",
        "upscale",
    ],
)
def test_what_the_program_is_given_compiles_nothing(model, first, others):
    images = model.sample(8, **first)
    drawn = []
    with compilations() as seen:
        for other in others:
            drawn.append(model.sample(8, **(first | other)))
    assert not seen
    assert all((one != images).any() for one in drawn)


def test_prompts_are_given():
    model = loaded(
        data={
            "name": "shapes",
            "image_size": (16, 16),
            "channels": 3,
            "tokenizer": "words",
            "context": 8,
        },
        model={
            "num_classes": 0,
            "conditions": ("text",),
            "text_channels": 8,
            "text_blocks": 1,
            "text_heads": 2,
        },
        diffusion={"label_dropout": 0.0, "condition_dropout": (0.2,)},
    )
    tokenizer = tokenizers.word_level(["red", "blue", "circle"])
    built = dataclasses.replace(model.experiment, tokenizer=tokenizer)
    model = dataclasses.replace(model, experiment=built)
    first = {"prompts": ["red circle"], "guidance_scale": 2.0}
    images = model.sample(8, **first)
    drawn = []
    with compilations() as seen:
        for other in (
            {"prompts": ["blue circle", "circle", ""]},
            {"negative_prompts": ["blue"]},
            {"seed": 1},
            {"guidance_scale": 3.0, "negative_prompts": ["red", "blue"]},
        ):
            drawn.append(model.sample(8, **(first | other)))
    assert not seen
    assert all((one != images).any() for one in drawn)


@pytest.mark.wide(6)
def test_guides_are_given(model, classifiers):
    def guided(classifier, **options):
        return model.sample(8, labels=[3], task=Task(classifier=classifier), **options)

    weaker = [Task(weaker=loaded(seed)) for seed in (1, 2)]
    first = guided(classifiers[0], classifier_scale=40.0)
    away = model.sample(8, task=weaker[0], guidance_scale=3.0)
    with compilations() as seen:
        scaled = guided(classifiers[0], classifier_scale=90.0)
        other = guided(classifiers[1], classifier_scale=40.0)
        other_away = model.sample(8, task=weaker[1], guidance_scale=2.0)
    assert not seen
    assert all((one != first).any() for one in (scaled, other))
    assert (other_away != away).any()


def test_scales_0_and_1_take_one_branch_of_the_network(model):
    """Bit for bit what a model without the other branch gives, and no more work."""
    null = model.sample(4, guidance_scale=0.0, labels=[3])
    np.testing.assert_array_equal(null, model.sample(4, guidance_scale=0.0, labels=[8]))
    one = model.sample(4, guidance_scale=1.0, labels=[3])
    alone = model.sample(4, task=composed((1.0, 3), (0.0, 8)))
    np.testing.assert_array_equal(one, alone)


@pytest.mark.wide(3)
def test_another_program_is_another(model):
    """What shapes the program is in its key: each of these is drawn as a fresh model draws it."""
    first = model.sample(4)
    fresh = dataclasses.replace(
        model, experiment=dataclasses.replace(model.experiment, programs={})
    )
    for options in ({"num_steps": 4}, {"eta": 1.0}, {"sampler": "heun"}):
        images = model.sample(4, **options)
        np.testing.assert_array_equal(images, fresh.sample(4, **options))
        assert (images != first).any(), options


def test_a_model_with_other_parts_has_programs_of_its_own(model):
    """dataclasses.replace shares what is kept, and the schedule and the network are in the key."""
    images = model.sample(4, guidance_scale=2.0)
    linear = loaded(diffusion={"schedule": "linear"})
    swapped = dataclasses.replace(model.experiment, schedule=linear.experiment.schedule)
    other = experiment.Loaded(swapped, model.params, 0).sample(4, guidance_scale=2.0)
    assert (other != images).any()
    np.testing.assert_array_equal(model.sample(4, guidance_scale=2.0), images)


def test_the_oldest_program_goes(model, monkeypatch):
    monkeypatch.setattr(kept, "MOST_KEPT", 2)
    built = dataclasses.replace(model.experiment, programs={})
    for steps in (1, 2, 1, 3):
        program.sample_fn(program.sampled_with(built, {"num_steps": steps}))
    keys = list(built.programs)
    assert len(keys) == 2
    assert ['"num_steps": 1,' in key[0] for key in keys] == [True, False]


def test_evaluations_are_counted_once(model):
    assert model.nfe(guidance_scale=2.0) == 5
    with compilations() as seen:
        assert model.nfe(guidance_scale=3.0) == 5
    assert not seen


def test_a_learned_schedule_compiles_once_for_each_state():
    learned = {"schedule": "learned", "loss": "continuous_vlb", "label_dropout": 0.0}
    model = loaded(model={"num_classes": 0}, diffusion=learned, sample={"guidance_scale": 1.0})
    gamma = {"gamma_0": jnp.array(-8.0)}
    moved = dataclasses.replace(
        model, params=model.params | {"gamma": model.params["gamma"] | gamma}
    )
    images = model.sample(8)
    with compilations() as seen:
        model.sample(8, seed=1)
    assert not seen
    assert (moved.sample(8) != images).any()
    with compilations() as seen:
        moved.sample(8, seed=1)
    assert not seen


def test_an_enlarging_models_noise_is_given():
    model = loaded(
        model={"num_classes": 0, "conditions": ("low_resolution",)},
        diffusion={"low_resolution": 4, "label_dropout": 0.0},
        sample={"guidance_scale": 1.0},
    )
    small = {"low_resolution": IMAGE[:4, :4]}
    first = model.sample(8, conditions=small, augmentation=0.1)
    with compilations() as seen:
        more = model.sample(8, conditions=small, augmentation=0.4)
        other = model.sample(8, conditions={"low_resolution": OTHER[:4, :4]}, augmentation=0.1)
    assert not seen
    assert all((one != first).any() for one in (more, other))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A small run's workdir, to be written into."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(RUNS / "denoiser", tmp_path / "run")


def of_sampling(seen):
    return [name for name in seen if "sample" in name]


@pytest.mark.slow
def test_the_sample_command_compiles_once_for_all_labels(run, tmp_path):
    with compilations() as seen:
        sample.to_files(str(run), str(tmp_path / "a.npz"), num_samples=40, labels=["3", "4", "8"])
    assert len(of_sampling(seen)) == 1


@pytest.mark.slow
def test_repeats_and_scales_of_an_evaluation_share_a_program(run):
    with compilations() as seen:
        report = evaluate.evaluate(
            str(run),
            metrics=["memorisation"],
            num_samples=32,
            repeats=2,
            guidance_scales=["1", "1.5", "2", "4"],
        )
    assert [row["nfe"] for row in report["samples"]] == [5] * 4
    # One branch of the network at scale 1, and both at all others.
    assert len(of_sampling(seen)) == 2
