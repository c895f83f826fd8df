"""A run of kind language: pixels and captions, trained, resumed, drawn, completed and scored."""

import json
import math

import jax
import numpy as np
import pytest
import tiny_runs
from PIL import Image

from configs import digits_autoregressive, shapes_captions
from ddpm_jax import data, experiment
from ddpm_jax.commands.evaluate import checks, evaluate
from ddpm_jax.commands.report import report
from ddpm_jax.commands.reproduce import reproduce
from ddpm_jax.commands.sample import sample
from ddpm_jax.commands.train import dry_run, train
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import bigram
from ddpm_jax.runtime import sharding

NETWORK = {"channels": 16, "num_blocks": 1, "num_heads": 2}
BRIEF = {"num_steps": 6, "log_every": 3, "checkpoint_every": 3, "validate_examples": 20}


def pixels(**changes):
    """Classes, hidden half of the time, and dropout: all that draws at random."""
    config = digits_autoregressive.get_config()
    groups = {
        "data": {"batch_size": 8},
        "model": NETWORK | {"num_classes": 10, "label_dropout": 0.5, "dropout": 0.1},
        "optim": {"decay": "constant", "warmup_steps": 0},
        "train": BRIEF | {"validate_every": 3, "sample_every": 6},
        "sample": {"batch_size": 8, "grid_size": 20},
        "mesh": {"data": 1},
    }
    for group, fields in changes.items():
        groups[group] = groups[group] | fields
    return config_files.override(config, groups)


def captions(**changes):
    groups = {
        "data": {"batch_size": 8},
        "model": NETWORK,
        "train": BRIEF | {"validate_every": 6},
        "sample": {"batch_size": 16},
        "mesh": {"data": 1},
    }
    config = config_files.override(shapes_captions.get_config(), groups)
    return config_files.override(config, changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run of pixels that nothing stopped."""
    workdir = tmp_path_factory.mktemp("language") / "run"
    assert train.train(pixels(), workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def loaded(run):
    return experiment.load(run)


@pytest.fixture(scope="module")
def images(loaded):
    return loaded.sample(6, labels=[3], seed=1)


def test_it_trains_validates_and_draws(run):
    lines = tiny_runs.metrics(run)
    held_out = {
        line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line
    }
    # At first every value is as likely: log 17 nats for each pixel.
    assert lines[0]["loss"] == pytest.approx(math.log(17), abs=0.4)
    assert [*held_out] == [3, 6]
    assert held_out[6] < held_out[3]
    assert [path.name for path in (run / "samples").iterdir()] == ["step_000006.png"]


@pytest.mark.wide(3)
def test_a_stopped_run_ends_in_the_same_bits(run, tmp_path):
    assert train.train(pixels(train={"num_steps": 3}), tmp_path) == 0
    assert train.train(pixels(), tmp_path) == 0
    assert tiny_runs.final(tmp_path) == tiny_runs.final(run)


def test_it_is_reproduced_bit_for_bit(run, tmp_path):
    manifest = run / "manifest.json"
    result, code = reproduce.reproduce(manifest, tmp_path / "again")
    assert (code, result["equal"]) == (0, True)


def one_step(**changes):
    """Parameters and loss after a step, whatever the devices."""
    plain = {"name": "sgd", "weight_decay": 0.0}
    built = experiment.build(pixels(model={"dropout": 0.0}, optim=plain, **changes))
    x0 = np.random.default_rng(0).integers(0, 17, (8, 8, 8, 1)).astype(np.int32)
    batch = {"x0": x0, "label": np.arange(8, dtype=np.int32)}
    placed = sharding.put_batch(batch, sharding.batch_sharding(built.mesh))
    state, metrics = built.train_step()(built.init_state(), placed)
    return jax.device_get((state.params, metrics["loss"]))


@pytest.mark.wide(2)
@pytest.mark.parametrize(
    "changes", [{"mesh": {"data": 8}}, {"train": {"accumulate": 4}}], ids=["devices", "parts"]
)
def test_devices_and_parts_change_nothing(changes):
    found, expected = one_step(**changes), one_step()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def test_samples_are_of_the_values_that_the_data_take(loaded, images):
    assert (images.shape, images.dtype) == ((6, 8, 8, 1), np.uint8)
    assert {*np.unique(images)} <= {*np.round(np.arange(17) * 255 / 16).astype(int)}
    np.testing.assert_array_equal(loaded.sample(4, labels=[3], seed=1), images[:4])
    assert (loaded.sample(6, labels=[3], seed=2) != images).any()
    assert loaded.nfe() == 64


def test_colder_and_guided_samples_are_others(loaded, images):
    before = len(loaded.experiment.programs)
    cold = loaded.sample(6, labels=[3], seed=1, temperature=1e-4)
    assert (cold != images).any()
    np.testing.assert_array_equal(cold, loaded.sample(6, labels=[3], seed=1, top_k=1))
    assert (loaded.sample(6, labels=[3], seed=1, guidance_scale=50.0) != images).any()
    assert len(loaded.experiment.programs) == before + 2  # a temperature is a number, top_k is not


def test_probabilities_follow_the_chain_rule(loaded, images):
    whole = loaded.log_prob(images, labels=[3])
    rest = loaded.log_prob(images, labels=[3], num_given=40)
    others = images.copy()
    others[:, 5:] = loaded.sample(6, labels=[5], seed=3)[:, 5:]
    # p(x1, x2) / p(x2 | x1) is p(x1), whatever x2 is.
    first = loaded.log_prob(others, labels=[3]) - loaded.log_prob(others, labels=[3], num_given=40)
    np.testing.assert_allclose(whole - rest, first, rtol=1e-5)
    assert (loaded.log_prob(images) != whole).all()


def test_an_image_is_completed(loaded, images):
    done = loaded.complete(images, 32, labels=[3], seed=1)
    np.testing.assert_array_equal(done[:, :4], images[:, :4])
    # The same numbers draw the same values from the same beginning.
    np.testing.assert_array_equal(done, images)
    assert (loaded.complete(images, 32, labels=[3], seed=2)[:, 4:] != images[:, 4:]).any()
    np.testing.assert_array_equal(loaded.complete(images, 64), images)
    with pytest.raises(UserError, match="num_given=65: need 0 to 64"):
        loaded.complete(images, 65)


@pytest.fixture
def halves(tmp_path, images):
    """An image and a mask of its lower half, as files."""
    Image.fromarray(images[0, :, :, 0]).save(tmp_path / "image.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask[::-1]).save(tmp_path / "upper.png")
    return tmp_path


def test_the_script_draws_and_completes(run, halves, images):
    out = halves / "out.npz"
    words = ["--num_samples=5", "--labels=3", f"--out={out}", "--options=temperature=0.9"]
    pair = ["--inpaint", halves / "image.png", halves / "mask.png"]
    done = tiny_runs.in_process("sample", f"--workdir={run}", *words, *pair)
    assert done.returncode == 0, done.stderr
    drawn = np.load(out)
    assert drawn["samples"].shape == (5, 8, 8, 1)
    assert drawn["labels"].tolist() == [3] * 5
    assert (drawn["samples"][:, :4] == images[0, :4]).all()
    assert len(np.unique(drawn["samples"][:, 4:], axis=0)) == 5
    assert (halves / "out.png").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": {"inpaint": ["image.png", "upper.png"]}}, "black up to one pixel and white from"),
        ({"trajectory": "way.png"}, "^frames: a language model draws one token"),
        ({"task": {"between_labels": ["1", "2"]}}, "^between_labels: a language model"),
        ({"task": {"init_image": ["image.png"]}}, "^init_images: a language model"),
        ({"sampler": "ddim"}, "no such config field sample.sampler"),
        ({"temperature": 0.0}, "config.sample.temperature=0.0: need a finite number above 0"),
        ({"top_k": 0}, "config.sample.top_k=0: need at least 1"),
    ],
)
def test_what_cannot_be_asked_of_it(run, halves, monkeypatch, options, said):
    monkeypatch.chdir(halves)
    with pytest.raises(UserError, match=said):
        sample.to_files(str(run), "out.npz", num_samples=2, **options)
    assert not (halves / "out.npz").exists()


def test_bits_are_those_of_the_chain_rule(run, loaded):
    result = evaluate.evaluate(str(run), metrics=["bits"])
    held_out = loaded.experiment.source("validation")
    values = np.stack([held_out[k]["image"] for k in range(len(held_out))])
    shown = loaded.experiment.codec.decode(values)
    bits = -loaded.log_prob(shown) / math.log(2) / 64
    figure = result["held_out_data"]["metrics"]["bits_per_dim"]
    assert figure["value"] == pytest.approx(bits.mean(), rel=1e-6)
    half = 1.96 * bits.std(ddof=1) / math.sqrt(360)
    assert figure["high"] - figure["value"] == pytest.approx(half, rel=1e-3)
    assert "| exact |" in evaluate.table(result)
    assert "360 images: probabilities of pixels of 17 values" in evaluate.table(result)


def test_samples_are_measured_as_a_diffusions(run):
    assert {"label_accuracy", "spread", "bits"} <= {*checks.default_metrics(str(run), {})}
    names = ["label_accuracy", "memorisation", "bits"]
    result = evaluate.evaluate(str(run), num_samples=20, metrics=names)
    (row,) = result["samples"]
    assert row["nfe"] == 64
    assert {"label_accuracy", "memorisation"} <= {*row["metrics"]}
    assert "bits_per_dim" in result["held_out_data"]["metrics"]


def test_a_report_says_what_there_is_not(run, tmp_path):
    text = report.report([str(run)], str(tmp_path / "r.html")).read_text()
    assert "A language model noises nothing, so it has no schedule." in text
    assert "so its loss has no t" in text


def test_a_dry_run_counts_a_forward_pass_of_every_token():
    told = dry_run.dry_run(pixels())
    width, tokens = 16, 8 * 64
    dense = 2 * tokens * (12 * width * width + 17 * width)
    attention = 2 * 2 * tokens * 64 * width
    assert told["model_flop_per_step"] == 3 * (dense + attention)
    assert told["batch"]["x0"] == "int32[8, 8, 8, 1]"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"num_heads": 3}}, "num_heads=3: 16 channels do not divide"),
        ({"model": {"name": "unet"}}, "name='unet': need one of transformer"),
        ({"model": {"num_classes": 0}}, "label_dropout=0.5: a model without classes"),
        ({"model": {"label_dropout": 2.0}}, "label_dropout=2.0: need 0 to 1"),
        (
            {"model": {"label_dropout": 0.0}, "sample": {"guidance_scale": 2.0}},
            "config.model.label_dropout above 0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        experiment.build(pixels(**changes))


def test_p_of_x_needs_a_model_that_was_trained_without_its_label(tmp_path):
    once = {"num_steps": 1, "sample_every": 0, "validate_every": 0}
    assert train.train(pixels(model={"label_dropout": 0.0}, train=once), tmp_path) == 0
    with pytest.raises(UserError, match=r"measures p\(x\), and this model was never trained"):
        evaluate.evaluate(str(tmp_path), metrics=["bits"])


@pytest.fixture(scope="module")
def of_captions(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("captions") / "run"
    assert train.train(captions(), workdir) == 0
    return workdir


def test_captions_are_drawn_completed_and_scored(of_captions):
    loaded = experiment.load(of_captions)
    texts = loaded.texts(3, beginning="a large red", seed=1)
    assert len(texts) == 3
    assert all(text.startswith("a large red") for text in texts)
    assert loaded.texts(2, beginning="a large red", seed=1) == texts[:2]
    one, longer = loaded.log_prob(["a large red circle", "a large red circle in the middle"])
    assert longer < one < 0
    with pytest.raises(UserError, match="draws no images: it was trained on captions"):
        loaded.sample(2)
    with pytest.raises(UserError, match="tokens, and 110 fit"):
        loaded.log_prob(["a large red circle " * 20])


@pytest.mark.wide(6)
def test_bits_per_character_stand_beside_a_bigram_models(of_captions):
    result = evaluate.evaluate(str(of_captions))
    figures = result["held_out_data"]["metrics"]
    assert result["samples"] == []
    # After six steps all 515 tokens are still about as likely.
    assert 4 < figures["bits_per_character"]["value"] < math.log2(515)
    loaded = experiment.load(of_captions)
    held_out = loaded.experiment.source("validation")
    texts = data.captions_of(held_out, 2000)
    by_pairs = bigram.counted(data.captions_of(loaded.experiment.source("train"), 20_000))
    expected = sum(map(by_pairs, texts)) / sum(len(text) + 1 for text in texts)
    assert figures["bits_per_character_bigram"]["value"] == pytest.approx(expected)
    total = -loaded.log_prob(texts[:20]).sum() / math.log(2)
    characters = sum(len(text) + 1 for text in texts[:20])
    assert total / characters == pytest.approx(figures["bits_per_character"]["value"], rel=0.1)
    assert json.loads((of_captions / "eval" / "exact_likelihood.json").read_text()) == result
