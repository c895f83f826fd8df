"""A CLIP trained by the command's own way: resumed, on several devices, in parts; and its use."""

import dataclasses
import functools
import json

import jax
import numpy as np
import optax
import pytest
import small_clips
import tiny_runs

from ddpm_jax import experiment
from ddpm_jax.build import texts
from ddpm_jax.build.kinds import KINDS
from ddpm_jax.commands.train import train
from ddpm_jax.data.tokenizers.stored import FILE
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt
from ddpm_jax.runtime import sharding


@pytest.mark.wide(3)
def test_a_stopped_one_ends_with_the_same_bits(clip_run, tmp_path):
    config = small_clips.config(**small_clips.OF_THE_RUN)
    assert train.train(config, tmp_path / "run", until=3) == 75
    assert train.train(config, tmp_path / "run") == 0
    assert tiny_runs.final(tmp_path / "run") == tiny_runs.final(clip_run.workdir)
    assert clip_run.stderr.rstrip().endswith(
        f"next: python -m ddpm_jax evaluate --workdir={clip_run.workdir}"
    )
    lines = [line for line in tiny_runs.metrics(clip_run.workdir) if "validation_loss" in line]
    # Two batches of 16, the last half full: chance is log 16 and log 8.
    assert lines[-1]["validation_loss"] == pytest.approx(np.log(16) * 2 / 3 + np.log(8) / 3, abs=1)


@functools.cache
def first_step(mesh, accumulate, kind):
    """Loss and parameters of one step from the same start."""
    c = small_clips.config(kind, mesh={"data": mesh}, train={"accumulate": accumulate})
    built = experiment.build(c)
    source = built.source("train")
    built = texts.with_made(built, source)
    batch = attempt.training_batches(built, source).batch_at(0)
    batch = sharding.put_batch(batch, sharding.batch_sharding(built.mesh))
    state, metrics = built.train_step()(built.init_state(), batch)
    return jax.device_get((metrics["loss"], state.params))


@pytest.mark.wide(6)
@pytest.mark.parametrize("kind", ["clip", "noised_clip"])
@pytest.mark.parametrize(("mesh", "accumulate"), [(8, 1), (1, 4), (2, 2)])
def test_its_loss_is_one_devices_and_the_whole_batchs(mesh, accumulate, kind):
    loss, params = first_step(1, 1, kind)
    other, moved = first_step(mesh, accumulate, kind)
    assert abs(other - loss) < 1e-6 * loss
    assert optax.tree.norm(jax.tree.map(np.subtract, moved, params)) < 1e-3 * optax.tree.norm(
        params
    )


@pytest.mark.wide(3)
@pytest.mark.parametrize("kind", ["clip", "noised_clip"])
def test_a_validation_loss_does_not_compare_with_what_fills_a_batch_up(kind):
    c = small_clips.config(kind)
    built = experiment.build(c)
    source = built.source("train")
    built = texts.with_made(built, source)
    batch = attempt.training_batches(built, source).batch_at(0)
    params, key = built.init_params(jax.random.key(0)), jax.random.key(1)
    few = {name: rows[:5] for name, rows in batch.items()}
    padded = {name: np.resize(rows[:5], rows.shape) for name, rows in batch.items()}
    mask = np.arange(16) < 5
    alone = built.objective(params, few, key, False, {}).loss
    filled = built.objective(params, padded | {"mask": mask}, key, False, {}).loss
    np.testing.assert_allclose(filled[:5], alone, rtol=1e-5)


def test_it_embeds_images_and_texts(clip_run, capsys):
    loaded = experiment.load(clip_run.workdir)
    source = loaded.experiment.source("validation")
    images = np.stack([source[k]["image"] for k in range(5)])
    captions = [source[k]["caption"] for k in range(3)]
    of_images, of_texts = loaded.embed_images(images), loaded.embed_texts(captions)
    assert (of_images.shape, of_texts.shape) == ((5, 8), (3, 8))
    np.testing.assert_allclose(np.linalg.norm(of_images, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        loaded.similarity(images, captions), of_images @ of_texts.T, rtol=1e-6
    )
    # Each by itself, whatever else is embedded with it.
    np.testing.assert_allclose(loaded.embed_images(images[2:3])[0], of_images[2], atol=1e-6)
    np.testing.assert_allclose(loaded.embed_texts(captions[1:2])[0], of_texts[1], atol=1e-6)
    assert loaded.logit_scale == pytest.approx(np.exp(loaded.params["log_scale"]))
    loaded.embed_texts(["a red elephant"])
    loaded.embed_texts(["a " * 40])
    said = capsys.readouterr().err
    assert "has unknown words: 'elephant'" in said
    assert "has 40 tokens, and 22 fit: cut off is" in said
    assert len(said.splitlines()) == 2
    with pytest.raises(UserError, match=r"need uint8 images \[N, 16, 16, 3\], got float32"):
        loaded.embed_images(images.astype(np.float32))
    with pytest.raises(UserError, match="this run is a CLIP, which draws no images: it compares"):
        loaded.sample(1)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data": {"tokenizer": ""}}, "config.data.tokenizer='': this CLIP reads captions"),
        ({"data": {"name": "digits"}}, "these data have no captions, which this CLIP reads"),
        ({"model": {"image": "vti"}}, "config.model.image='vti': .*did you mean vit"),
        ({"model": {"image_options": {"deep": 2}}}, "model.image_options.deep=2: the tower vit"),
        ({"model": {"text_options": {"eos": 2}}}, "model.text_options.eos=2: "),
        ({"model": {"image_mean": (0.1, 0.2)}}, "need one number, or 3"),
        ({"model": {"image": "resnet", "image_options": {"norm": "batch"}}}, "set group"),
        ({"objective": {"name": "clap"}}, "config.objective.name='clap': need one of clip"),
        ({"objective": {"options": {"margin": 1.0}}}, "objective.options.margin=1.0: .*triplet"),
        ({"mesh": {"strict": True}}, "config.mesh.strict=True: .*compares the rows"),
        ({"train": {"sample_every": 3}}, "no such config field train.sample_every"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, changes, line):
    with pytest.raises(UserError, match=line):
        train.train(small_clips.config(**changes), tmp_path / "run")


OTHERS = {
    "bag of words": {"model": {"text": "bag_of_words", "text_options": {"width": 8}}},
    "both ways": {
        "model": {
            "text_options": {
                "causal": False, "pooling": "mean", "width": 16, "depth": 1, "num_heads": 2
            }
        }
    },
    "triplets": {"objective": {"name": "triplet"}},
    "noised": {"kind": "noised_clip"},
    "turned": {"objective": {"name": "rotation"}, "data": {"tokenizer": ""}},
    "views": {
        "objective": {"name": "dino", "options": {"prototypes": 8}}, "data": {"tokenizer": ""}
    },
}  # fmt: skip


@pytest.mark.wide(5)
@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_every_tower_and_objective_resumes_to_the_same_bits(tmp_path, changes):
    changes = {**changes, "train": {"num_steps": 3, "validate_every": 3, "validate_examples": 16}}
    c = small_clips.config(**changes)
    assert train.train(c, tmp_path / "straight") == 0
    assert train.train(c, tmp_path / "stopped", until=2) == 75
    assert train.train(c, tmp_path / "stopped") == 0
    assert tiny_runs.final(tmp_path / "stopped") == tiny_runs.final(tmp_path / "straight")
    loaded = experiment.load(tmp_path / "stopped")
    assert loaded.embed_images(np.zeros((2, 16, 16, 3), np.uint8)).shape[0] == 2
    if not loaded.experiment.reads_text:
        with pytest.raises(UserError, match="this run reads no text"):
            loaded.embed_texts(["a red circle"])


def test_its_next_command_is_one_that_it_has(clip_run):
    told = KINDS["clip"].next(small_clips.config()).format(workdir="runs/clip")
    assert told == "evaluate --workdir=runs/clip"
    entry = json.loads((clip_run.workdir / "manifest.json").read_text())["attempts"][-1]
    loaded = experiment.load(clip_run.workdir)
    assert entry["data"]["tokenizer"] == loaded.experiment.tokenizer.digest
    assert (clip_run.workdir / FILE).exists()
    bare = dataclasses.replace(loaded.experiment, tokenizer=None)
    with pytest.raises(UserError, match="reads text and has no tokenizer yet"):
        attempt.training_batches(bare, bare.source("train"))
