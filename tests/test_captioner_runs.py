"""A captioner trained by the command's own way: resumed, on several devices; and what it says."""

import dataclasses
import functools
import json
import math

import jax
import numpy as np
import pytest
import small_clips
import tiny_runs
from ml_collections import ConfigDict
from test_text_to_image import config_of_text

from ddpm_jax import experiment
from ddpm_jax.build import texts
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files, defaults
from ddpm_jax.data import build_source
from ddpm_jax.data.shapes import caption, describe
from ddpm_jax.data.told_shapes import follows
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import bigram
from ddpm_jax.experiment import attempt
from ddpm_jax.measures import captioned
from ddpm_jax.measures.captioned import Captioned
from ddpm_jax.measures.captions import CaptionPrompts
from ddpm_jax.runtime import leaves, sharding
from ddpm_jax.trained.captioning import LoadedCaptioner

FIELDS = {
    "data": small_clips.FIELDS["data"] | {"batch_size": 8, "options": {"max_objects": 1}},
    "model": {
        "image_options": small_clips.FIELDS["model"]["image_options"],
        "channels": 12,
        "num_blocks": 1,
        "num_heads": 2,
    },
    "optim": {"learning_rate": 1e-2, "warmup_steps": 0},
    "ema": {"decay": 0.9},
    "train": small_clips.FIELDS["train"],
    "mesh": {"data": 1},
}


def captioner(**changes) -> ConfigDict:
    """The tiny config, changed: captioner(data={"batch_size": 16})."""
    groups = {name: FIELDS.get(name, {}) | changes.get(name, {}) for name in {**FIELDS, **changes}}
    return config_files.override(defaults.get_config("captioner"), groups)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run that nothing stopped."""
    workdir = tmp_path_factory.mktemp("captioner") / "run"
    assert train.train(captioner(), workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def loaded(run):
    return experiment.load(run)


@pytest.fixture(scope="module")
def pairs(loaded):
    """Held-out images, and their captions."""
    source = loaded.experiment.source("validation")
    examples = [source[k] for k in range(6)]
    return np.stack([one["image"] for one in examples]), [one["caption"] for one in examples]


@pytest.mark.wide(3)
def test_a_stopped_one_ends_with_the_same_bits(run, tmp_path):
    assert train.train(captioner(), tmp_path, until=3) == 75
    assert train.train(captioner(), tmp_path) == 0
    assert tiny_runs.final(tmp_path) == tiny_runs.final(run)
    losses = [line["loss"] for line in tiny_runs.metrics(run) if "loss" in line]
    # Of 23 tokens about 13 count, and at first each of 64 words is as likely.
    assert losses[0] == pytest.approx(math.log(64) * 13 / 23, rel=0.2)
    assert losses[-1] < losses[0]


@functools.cache
def first_step(**changes):
    """Loss and parameters of one step of plain descent from the same start."""
    plain = {"name": "sgd", "decay": "constant"}
    built = experiment.build(captioner(optim=FIELDS["optim"] | plain, **dict(changes)))
    source = built.source("train")
    built = texts.with_made(built, source)
    batch = attempt.training_batches(built, source).batch_at(0)
    batch = sharding.put_batch(batch, sharding.batch_sharding(built.mesh))
    state, metrics = built.train_step()(built.init_state(), batch)
    return jax.device_get((metrics["loss"], state.params))


@pytest.mark.wide(6)
@pytest.mark.parametrize(
    "changes",
    [{"mesh": {"data": 8}}, {"train": FIELDS["train"] | {"accumulate": 4}}],
    ids=["devices", "parts"],
)
def test_devices_and_parts_change_nothing(changes):
    found = first_step.__wrapped__(**changes)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, first_step())


def test_captions_are_of_the_image_and_of_its_place_alone(loaded, pairs):
    images, _ = pairs
    said = loaded.captions(images)
    assert len(said) == 6
    assert loaded.captions(images[2:4]) == said[2:4]
    assert loaded.captions(images, seed=5) == said  # greedy draws nothing
    drawn = loaded.captions(images, temperature=1.0, seed=1)
    assert drawn != said
    assert loaded.captions(images[:2], temperature=1.0, seed=1) == drawn[:2]
    assert loaded.captions(images, temperature=1.0, seed=2) != drawn
    assert loaded.captions(images, temperature=1.0, top_k=1, seed=2) == said


def test_log_prob_is_the_sum_of_the_objectives_terms(loaded, pairs):
    images, captions = pairs
    found = loaded.log_prob(captions, images)
    c = loaded.experiment.config
    batch = {
        "x0": loaded.experiment.codec.encode(images),
        "text": loaded.experiment.tokenizer(captions, c.data.context),
    }
    outcome = loaded.experiment.objective(loaded.params, batch, jax.random.key(0), False, {})
    np.testing.assert_allclose(-found / (c.data.context - 1), outcome.loss, rtol=1e-5)
    assert (loaded.log_prob(captions, images[::-1]) != found).any()


@pytest.mark.wide(3)
def test_it_begins_with_the_tower_of_a_clip_and_keeps_it(clip_run, tmp_path):
    begun = FIELDS["train"] | {
        "init_from": str(clip_run.workdir),
        "init_strict": False,
        "num_steps": 2,
    }
    c = captioner(train=begun, optim=FIELDS["optim"] | {"frozen": ("image/*",)})
    assert train.train(c, tmp_path / "run") == 0
    theirs = leaves.named(experiment.load(clip_run.workdir).params["image"])
    ours = leaves.named(experiment.load(tmp_path / "run", raw_params=True).params["image"])
    assert {*theirs} - {*ours} == {"projection/kernel"}
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name])
    attempts = json.loads((tmp_path / "run" / "manifest.json").read_text())
    (entry,) = attempts["attempts"]
    clips = tiny_runs.final(clip_run.workdir)
    assert entry["init_from"]["checkpoint"] == clips["state_sha256"]


@pytest.mark.wide(3)
def test_its_captions_are_measured_beside_their_images(run, loaded):
    result = evaluate.evaluate(str(run))
    figures = result["held_out_data"]["metrics"]
    held_out = loaded.experiment.source("validation")
    examples = [held_out[k] for k in range(0, 10_000, 10)]
    images = np.stack([one["image"] for one in examples])
    captions = [one["caption"] for one in examples]
    characters = sum(len(text) + 1 for text in captions)
    own, other = (
        -loaded.log_prob(captions, shown).sum() / math.log(2) / characters
        for shown in (images, np.roll(images, -1, axis=0))
    )
    assert figures["image_bits_per_character"]["value"] == pytest.approx(own, rel=1e-5)
    assert figures["image_bits_per_character_shuffled"]["value"] == pytest.approx(other, rel=1e-5)
    of_train = loaded.experiment.source("train")
    assert isinstance(bigram.counted([of_train[0]["caption"]])("a"), float)
    assert 0 < figures["image_bits_per_character_bigram"]["value"] < 5
    assert 0 <= figures["true_captions_share"]["value"] <= 1
    text = evaluate.table(result)
    assert "| given another image |" in text
    assert "| their own image |" in text


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data": {"tokenizer": ""}}, "config.data.tokenizer='': this captioner reads captions"),
        ({"model": {"image": "resnet"}}, "config.model.image='resnet': need one of vit"),
        ({"model": {"num_heads": 5}}, "num_heads=5: 12 channels do not divide into it"),
        ({"model": {"image_options": {"deep": 2}}}, "model.image_options.deep=2: the tower vit"),
        ({"model": {"image_mean": (0.1, 0.2)}}, "need one number, or 3"),
        ({"data": {"name": "digits", "options": {}}}, "these data have no captions, which this"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, changes, line):
    groups = {group: FIELDS[group] | fields for group, fields in changes.items()}
    with pytest.raises(UserError, match=line):
        train.train(captioner(**groups), tmp_path / "run")


def test_what_cannot_be_asked_of_it(loaded, pairs):
    images, captions = pairs
    with pytest.raises(UserError, match=r"need uint8 images \[N, 16, 16, 3\], got float32"):
        loaded.captions(images.astype(np.float32))
    with pytest.raises(UserError, match="need a text for each image, got 6 for 2"):
        loaded.log_prob(captions, images[:2])
    with pytest.raises(UserError, match=r"temperature=-1: need a finite number, at least 0"):
        loaded.captions(images, temperature=-1)
    with pytest.raises(UserError, match="top_k=0: need at least 1"):
        loaded.captions(images, top_k=0)
    with pytest.raises(UserError, match="need at least one image, got none"):
        loaded.captions(images[:0])
    with pytest.raises(UserError, match="this run is a captioner, which draws no images: it says"):
        loaded.sample(1)


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    """The workdir of a text-to-image run of the same data."""
    workdir = tmp_path_factory.mktemp("drawing") / "run"
    once = {"num_steps": 1, "sample_every": 0, "validate_every": 0}
    assert train.train(config_of_text(train=once), workdir) == 0
    return workdir


def judged(drawing, captioner, **options):
    return evaluate.evaluate(
        str(drawing),
        metrics=["captioned"],
        num_samples=8,
        guidance_scales=["1"],
        captioner_workdir=captioner and str(captioner),
        **options,
    )


@pytest.mark.wide(3)
def test_it_judges_samples_by_what_it_says_of_them(run, loaded, drawing):
    result = judged(drawing, run)
    source = experiment.load(drawing).experiment.source("validation")
    prompts = [source[k]["caption"] for k in range(8)]
    images = experiment.load(drawing).sample(8, prompts=prompts, guidance_scale=1.0)
    pairs = [follows(*pair) for pair in zip(prompts, loaded.captions(images), strict=True)]
    (row,) = result["samples"]
    right, facts = np.array(pairs).T
    assert row["metrics"]["captioned_facts"]["value"] == pytest.approx(right.sum() / facts.sum())
    assert row["metrics"]["captioned"]["value"] == (right == facts).mean()
    assert {"captioned_shuffled", "captioned_read"} < {*row["metrics"]}
    assert {*result["held_out_data"]["metrics"]} == {*row["metrics"]}
    digest = result["protocol"]["captioner"]["checkpoint"]
    assert digest == tiny_runs.final(run)["state_sha256"]


class Knowing(LoadedCaptioner):
    """Says what the pixels show, which `describe` reads."""

    def captions(self, images, **options):
        return [caption(describe(image)) for image in images]


def test_one_that_knows_all_finds_real_images_right():
    source = build_source("shapes", "validation", image_size=(32, 32), channels=3)
    examples = [source[k] for k in range(20)]
    images = np.stack([one["image"] for one in examples])
    prompts = CaptionPrompts(images, [one["caption"] for one in examples], None)
    judge = Knowing(None, None, 0)
    share, facts, shuffled, read = captioned.measure(Captioned(follows, prompts, images, judge))
    assert (share.value, facts.value, shuffled.value, read.value) == (1, 1, 0, 1)
    assert facts.low == facts.high == 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "^--metrics=captioned: name a captioner's run with --captioner_workdir$"),
        ({"judge": "drawing"}, "that run is a diffusion model; name the run of a captioner$"),
        (
            {"judge": "larger"},
            r"it sees images of \(32, 32, 3\), and this model draws \(16, 16, 3\)",
        ),
        ({"judge": "other"}, "it was trained on emoji, and this model on shapes$"),
    ],
)
def test_another_ones_judgement_is_refused(run, drawing, tmp_path, monkeypatch, changes, line):
    judge = changes.get("judge")
    if judge in ("larger", "other"):
        field = {"image_size": (32, 32)} if judge == "larger" else {"name": "emoji", "options": {}}
        c = captioner(data=FIELDS["data"] | field)
        one = dataclasses.replace(experiment.load(run), experiment=experiment.build(c))
        plain = evaluate.load
        monkeypatch.setattr(
            evaluate, "load", lambda path, *a, **k: one if path == "judge" else plain(path, *a, **k)
        )
    path = {None: None, "drawing": drawing}.get(judge, "judge")
    with pytest.raises(UserError, match=line):
        judged(drawing, path, name="refused")
    assert not (drawing / "eval" / "refused.json").exists()


def test_a_judge_is_of_the_metric_that_asks_for_it(run, drawing):
    with pytest.raises(UserError, match="applies only to --metrics=captioned: add it"):
        evaluate.evaluate(
            str(drawing), metrics=["caption_agreement"], captioner_workdir=str(run), num_samples=2
        )


@pytest.mark.wide(3)
def test_the_commands_train_evaluate_and_judge(run, drawing):
    done = tiny_runs.in_process(
        "evaluate",
        f"--workdir={drawing}",
        "--metrics=captioned",
        "--num_samples=4",
        "--guidance_scale=1",
        f"--captioner_workdir={run}",
        "--name=by_command",
    )
    assert done.returncode == 0, done.stderr
    assert "captioned_facts" in done.stdout
    done = tiny_runs.in_process("evaluate", f"--workdir={run}", "--metrics=true_captions")
    assert done.returncode == 0, done.stderr
    assert "| another image |" in done.stdout
