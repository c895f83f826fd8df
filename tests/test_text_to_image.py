"""Text to image: prompts from the command to the network, guidance from and towards them."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from tiny_runs import brief_config, in_process

from ddpm_jax import experiment, samplers
from ddpm_jax.commands.evaluate import checks, evaluate
from ddpm_jax.commands.train import train
from ddpm_jax.config import own_code
from ddpm_jax.data import shapes
from ddpm_jax.data.shapes import caption
from ddpm_jax.diffusion import prediction, schedules
from ddpm_jax.diffusion.prediction import Denoised
from ddpm_jax.errors import UserError
from ddpm_jax.measures import captions
from ddpm_jax.trained.tasks import Task
from ddpm_jax.training.objectives import denoise

PROMPTS = ["a large red circle above a small blue square", "a circle"]
HELD_OUT = ("red circle", "blue cross")


def config_of_text(**changes):
    groups = {
        "data": {
            "name": "shapes",
            "image_size": (16, 16),
            "channels": 3,
            "options": {"captions": "varied", "held_out": HELD_OUT},
            "tokenizer": "bytes",
            "vocabulary": 600,
            "context": 20,
        },
        "model": {
            "num_classes": 0,
            "conditions": ("text",),
            "text_channels": 8,
            "text_blocks": 1,
            "text_heads": 2,
        },
        "diffusion": {"label_dropout": 0.0, "condition_dropout": (0.2,)},
        "optim": {"learning_rate": 0.03, "warmup_steps": 0},
        "train": {"num_steps": 4, "sample_every": 4, "validate_every": 4},
    }
    for group, fields in changes.items():
        groups[group] = groups.get(group, {}) | fields
    return brief_config(**groups)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("text") / "run"
    assert train.train(config_of_text(), workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def loaded(run):
    return experiment.load(run)


@pytest.fixture(scope="module")
def of_labels(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("labels") / "run"
    config = brief_config(train={"num_steps": 1, "checkpoint_every": 1})
    assert train.train(config, workdir) == 0
    return workdir


def test_a_dropped_caption_is_no_text_in_its_own_share():
    num, rows = 20_000, jnp.arange(20_000 * 3).reshape(-1, 3)
    seen = {}

    def network(variables, xt, time, conditions, *, train, rngs):
        seen.update(conditions)
        return xt

    objective = denoise.denoising(network, schedules.linear(8), dropout={"text": 0.2})
    batch = {"x0": jnp.zeros((num, 1)), "text": rows}
    objective({}, batch, jax.random.key(0), True, {})
    text = np.asarray(seen["text"])
    dropped = (text == -1).all(axis=1)
    np.testing.assert_array_equal(text[~dropped], rows[~dropped])
    assert abs(dropped.mean() - 0.2) < 5 * np.sqrt(0.16 / num)


@pytest.mark.wide(6)
def test_a_run_of_text_resumes_to_the_same_bits(run, tmp_path):
    assert train.train(config_of_text(), tmp_path / "twice", until=2) == 75
    assert train.train(config_of_text(), tmp_path / "twice") == 0
    assert tiny_runs.final(tmp_path / "twice") == tiny_runs.final(run)


def test_prompts_cycle_and_the_empty_one_is_no_text(loaded):
    drawn = loaded.sample(5, prompts=[*PROMPTS, ""], seed=3)
    cycled = loaded.sample(5, prompts=[*PROMPTS, "", *PROMPTS], seed=3)
    np.testing.assert_array_equal(drawn, cycled)
    rows = loaded.experiment.tokenizer([*PROMPTS, ""], 20)
    by_hand = loaded.sample(5, conditions={"text": rows[[0, 1, 2, 0, 1]]}, seed=3)
    np.testing.assert_array_equal(drawn, by_hand)
    none = loaded.sample(5, seed=3)
    np.testing.assert_array_equal(drawn[2], none[2])
    assert (drawn[[0, 1, 3, 4]] != none[[0, 1, 3, 4]]).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("negative", ["", "a green cross"])
def test_guidance_leads_from_the_null_caption_or_the_negative_one(loaded, negative):
    """eps = (1 - w) eps_negative + w eps_prompt, from two calls of the network, step by step."""
    built, scale, rows = loaded.experiment, 2.5, loaded.experiment.tokenizer
    schedule, shape = built.schedule, (2, 16, 16, 3)

    def told(texts):
        return prediction.denoiser(
            built.model.apply,
            loaded.params,
            schedule,
            prediction=built.config.diffusion.prediction,
            conditions={"text": jnp.asarray(rows(texts, 20))},
        )

    towards, away = told(PROMPTS), told([negative] * 2)

    def guided(xt, t):
        eps = (1 - scale) * away(xt, t).eps + scale * towards(xt, t).eps
        alpha, sigma = (f(t)[:, None, None, None] for f in (schedule.alpha, schedule.sigma))
        x0 = jnp.clip((xt - sigma * eps) / alpha, -1, 1)
        return Denoised(x0, (xt - alpha * x0) / sigma)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(2))
    start, steps = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    times = samplers.grids.uniform(schedule, 5)
    x = samplers.initial_noise(start, schedule, times, shape)
    expected = built.codec.decode(np.asarray(samplers.ddim(guided, schedule, times, steps, x)))
    drawn = loaded.sample(
        2,
        prompts=PROMPTS,
        negative_prompts=[negative] if negative else (),
        seed=7,
        guidance_scale=scale,
    )
    assert np.abs(drawn.astype(int) - expected).max() <= 1


def test_a_text_can_be_one_of_several_that_are_composed(loaded):
    one = loaded.sample(3, prompts=PROMPTS[:1], guidance_scale=1.0)
    task = Task(composed=[(1.0, {"text": PROMPTS[0]}), (0.0, {"text": PROMPTS[1]})])
    np.testing.assert_array_equal(loaded.sample(3, task=task), one)


def test_the_command_draws_what_the_library_draws(run, loaded, tmp_path):
    out = tmp_path / "a.npz"
    words = [f"--workdir={run}", "--num_samples=4", "--seed=5", f"--out={out}"]
    asked = [f"--prompt={PROMPTS[0]}", f"--prompt={PROMPTS[1]}", "--negative_prompt=a cross"]
    done = in_process("sample", *words, *asked)
    assert done.returncode == 0, done.stderr
    assert f"columns: 1 {PROMPTS[0]!r}; 2 'a circle'" in done.stdout
    with np.load(out) as held:
        assert held["prompts"].tolist() == PROMPTS * 2
        drawn = loaded.sample(4, prompts=PROMPTS, negative_prompts=["a cross"], seed=5)
        np.testing.assert_array_equal(held["samples"], drawn)

    listed = tmp_path / "prompts.txt"
    listed.write_text(f"{PROMPTS[0]}\n\n{PROMPTS[1]}\n")
    folder = tmp_path / "folder"
    words = [f"--workdir={run}", "--num_samples=3", f"--out={folder}"]
    assert in_process("sample", *words, f"--prompts={listed}").returncode == 0
    lines = (folder / "prompts.txt").read_text().splitlines()
    told = [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    assert lines == [f"00000{k}.png\t{text}" for k, text in enumerate(told)]


def test_what_of_a_prompt_does_not_fit_is_one_line(loaded, caplog):
    long = " and ".join(["a circle"] * 9 + ["a purple square"])
    with caplog.at_level(logging.WARNING):
        loaded.sample(2, prompts=[long])
    (record,) = caplog.records
    assert "tokens, and 18 fit: cut off is" in record.getMessage()
    assert "purple square" in record.getMessage()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompts=nowhere.txt"], "--prompts=nowhere.txt: need a file of prompts in UTF-8"),
        (["--prompts=EMPTY"], "has no prompt in it: write one a line"),
        (["--prompts=LATIN"], "need a file of prompts in UTF-8"),
        (["--prompts=EMPTY", "--prompt=a"], "give one of the two"),
        (
            ["--negative_prompt=a cross", "--guidance_scale=1"],
            r"negative_prompts='a cross': without guidance \(guidance_scale=1\)",
        ),
        (["--prompt=a circle", "--condition=text=a cross"], "prompts: conditions have a text"),
    ],
)
def test_prompts_that_cannot_be_taken_are_one_line(run, tmp_path, words, message):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    paths = {"EMPTY": tmp_path / "empty.txt", "LATIN": tmp_path / "latin.txt"}
    for name, path in paths.items():
        words = [word.replace(name, str(path)) for word in words]
    refused(run, tmp_path, words, message)


def test_prompts_to_a_model_without_text_are_one_line(of_labels, tmp_path):
    refused(of_labels, tmp_path, ["--prompt=a circle"], "prompts: this model reads no text")
    negative = ["--negative_prompt=a circle", "--guidance_scale=3"]
    refused(of_labels, tmp_path, negative, "negative_prompts='a circle': this model reads no text")


def refused(run, tmp_path, words, message):
    out = tmp_path / "out" / "a.npz"
    done = in_process("sample", f"--workdir={run}", "--num_samples=2", f"--out={out}", *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    with pytest.raises(UserError, match=message):
        raise UserError(line)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"text_heads": 3}}, "text_heads=3: 8 channels"),
        ({"diffusion": {"condition_dropout": (0.0,)}}, "each of condition_dropout, above 0"),
        ({"data": {"flip": True}}, "data.flip=True: a mirrored image keeps its caption"),
        ({"data": {"tokenizer": ""}}, "config.data.tokenizer=''"),
        ({"model": {"text_blocks": 0}}, "text_blocks=0: need at least 1"),
    ],
)
def test_a_config_of_text_that_does_not_fit_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        experiment.build(config_of_text(**changes))


def test_the_grid_of_a_run_has_its_prompts_beside_it(run):
    lines = (run / "samples" / "prompts.txt").read_text().splitlines()
    source = shapes("validation", 16, captions="varied", held_out=[*pairs()])
    rows = [k * len(source) // 20 for k in range(20)]
    assert lines == [f"{n}\t{source.caption(k)}" for n, k in enumerate(rows)]


def pairs():
    return [tuple(reversed(text.split())) for text in HELD_OUT]


def test_real_images_agree_with_their_own_captions_and_not_with_others(loaded):
    prompts = captions.of_held_out_images(loaded, 300)
    answered = captions.CaptionsAnswered(shapes_agree(loaded), prompts, prompts.images)
    every, one, two, shuffled = captions.measure_apart(answered)
    assert min(every.value, one.value, two.value) > 0.97
    assert one.value * prompts.single.mean() + two.value * (~prompts.single).mean() == (
        pytest.approx(every.value)
    )
    assert shuffled.value < 0.1
    unseen = captions.of_unseen_templates(loaded, 20)
    assert not {*unseen.captions} & {*prompts.captions}
    of_pairs = captions.of_held_out_pairs(loaded, 60)
    assert of_pairs.single.all()
    told = [text for text in of_pairs.captions if "red" in text or "blue" in text]
    assert told
    assert all("red" not in text or "circle" in text for text in told)


def shapes_agree(loaded):
    from ddpm_jax.build.datasets import dataset

    return dataset(loaded.experiment.config, loaded.experiment.own).agrees


def test_a_caption_is_true_of_what_it_tells_by_any_template():
    source = shapes("validation", 16, captions="full")
    image, told = source[4]["image"], source[4]
    from ddpm_jax.data.shape_captions import TEMPLATES
    from ddpm_jax.data.shapes import ATTRIBUTES, shows

    attributes = {name: told[name] for name in ATTRIBUTES}
    assert all(shows(image, caption(attributes, one)) for one in TEMPLATES)
    other = attributes | {"colour": (attributes["colour"] + 1) % 6}
    assert not shows(image, caption(other))
    assert not shows(image, "something else")


def test_captions_are_measured_by_default(run):
    assert "caption_agreement" in checks.default_metrics(str(run), own_code.NONE)
    # The others train a classifier on the data before they measure.
    report = evaluate.evaluate(
        str(run),
        metrics=["caption_agreement"],
        num_samples=8,
        guidance_scales=["2"],
        sampling={"num_steps": 1},
        name="told",
    )
    found = {*report["samples"][0]["metrics"], *report["held_out_data"]["metrics"]}
    assert {"caption_agreement", "caption_one_object", "caption_shuffled"} <= found
    assert report["held_out_data"]["metrics"]["caption_agreement"]["value"] == 1
    assert json.loads((run / "eval" / "told.json").read_text()) == report


def test_captions_of_a_model_without_text_are_refused(of_labels):
    with pytest.raises(UserError, match="caption_agreement: this model reads no text"):
        evaluate.evaluate(str(of_labels), metrics=["caption_agreement"], num_samples=8)
