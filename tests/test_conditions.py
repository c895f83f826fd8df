"""Named conditions from the data to the network: dropped by their own rates, given by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from PIL import Image
from tiny_runs import tiny_config

from ddpm_jax import codecs, experiment
from ddpm_jax.build import conditioning
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.sample import sample
from ddpm_jax.commands.train import train
from ddpm_jax.data import Batches, shapes
from ddpm_jax.diffusion import condition_dropout, schedules
from ddpm_jax.errors import UserError
from ddpm_jax.reporting import figures
from ddpm_jax.training.objectives import denoise, draws

NAMES = ("shape", "colour", "silhouette")


def shapes_config(**changes):
    groups = {
        "data": {"name": "shapes", "image_size": (16, 16), "channels": 3},
        "model": {"num_classes": 0, "conditions": NAMES},
        "diffusion": {"label_dropout": 0.0, "condition_dropout": (0.5, 0.2, 0.1)},
        "train": {"num_steps": 4, "log_every": 2, "sample_every": 4, "validate_every": 4},
        "optim": {"warmup_steps": 0, "decay": "constant"},
    }
    for group, fields in changes.items():
        groups[group] = groups.get(group, {}) | fields
    return tiny_config(**groups)


def test_each_condition_is_dropped_by_its_own_rate_independently_of_the_others():
    num, rates = 20_000, {"a": 0.1, "b": 0.5, "tokens": 0.3}
    batch = {
        "x0": jnp.zeros((num, 1)),
        "a": jnp.full(num, 2),
        "b": jnp.ones((num, 1, 1, 1)),
        "tokens": jnp.ones((num, 2, 1)),
        "tokens_mask": jnp.ones((num, 2), bool),
        "other": jnp.ones(num),
    }
    seen = {}

    def network(variables, xt, time, conditions, *, train, rngs):
        seen.update(conditions)
        return xt

    objective = denoise.denoising(network, lambda params: schedules.linear(8), dropout=rates)
    objective({}, batch, jax.random.key(0), True, {})
    assert set(seen) == {*rates, "tokens_mask"}
    absent = {
        "a": np.asarray(seen["a"]) == -1,
        "b": np.asarray(seen["b"]).ravel() == 0,
        "tokens": (np.asarray(seen["tokens"]) == 0).all(axis=(1, 2)),
    }
    np.testing.assert_array_equal(absent["tokens"], ~np.asarray(seen["tokens_mask"]).any(axis=1))
    for name, rate in rates.items():
        assert abs(absent[name].mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / num)
    together = np.corrcoef(np.stack([*absent.values()]))
    assert np.abs(together - np.eye(3)).max() < 5 / np.sqrt(num)
    objective({}, batch, jax.random.key(0), False, {})
    assert all((seen[name] == batch[name]).all() for name in seen)  # in training alone


def test_all_are_dropped_together_on_top_of_their_own_rates():
    num, rates = 20_000, {"label": 0.0, "a": 0.2, "b": 0.5}
    x0, schedule = jnp.zeros((num, 1)), schedules.linear(8)
    alone, joint = (
        draws.draw(jax.random.key(0), x0, schedule, drop_rates=rates, joint_rate=rate)
        for rate in (0.0, 0.3)
    )
    together = np.asarray(joint.drop["label"])  # which is never dropped by itself
    assert abs(together.mean() - 0.3) < 5 * np.sqrt(0.21 / num)
    for name, own in alone.drop.items():
        np.testing.assert_array_equal(joint.drop[name], np.asarray(own) | together)
        assert abs(np.asarray(own)[together].mean() - rates[name]) < 5 * np.sqrt(0.25 / 0.3 / num)
    # What else is drawn, and so a run without it, stays as it was.
    np.testing.assert_array_equal(joint.t, alone.t)
    np.testing.assert_array_equal(joint.eps, alone.eps)

    seen = {}

    def network(variables, xt, time, conditions, *, train, rngs):
        seen.update(conditions)
        return xt

    batch = {"x0": x0, **{name: jnp.ones(num, jnp.int32) for name in rates}}
    objective = denoise.denoising(
        network, lambda params: schedule, dropout=rates, joint_dropout=1.0
    )
    for train_, value in ((True, -1), (False, 1)):
        objective({}, batch, jax.random.key(0), train_, {})
        assert all((seen[name] == value).all() for name in rates)


def test_what_is_null_is_null_of_its_kind():
    whole = {
        "label": jnp.array([3, 4]),
        "sketch": jnp.ones((2, 4, 4, 1)),
        "tokens_mask": jnp.ones((2, 3), bool),
    }
    absent = condition_dropout.null(whole)
    assert (absent["label"] == -1).all()
    assert (absent["sketch"] == 0).all()
    assert not absent["tokens_mask"].any()
    assert {k: v.dtype for k, v in absent.items()} == {k: v.dtype for k, v in whole.items()}


def test_a_batch_holds_what_was_asked_for_and_a_mirror_turns_images_alone():
    source = shapes("train", 16)
    options = {"encode": codecs.pixels((16, 16, 3)).encode_batch, "conditions": NAMES}
    batches = Batches(source, 6, 0, **options)
    batch = batches.batch_at(3)
    assert set(batch) == {"x0", "label", *NAMES}
    assert batch["shape"].dtype == np.int32
    assert batch["silhouette"].shape == (6, 16, 16, 1)
    assert set(np.unique(batch["silhouette"])) == {0, 1}
    turned = Batches(source, 6, 0, **options, flip=True).batch_at(3)
    for k in range(6):
        way = -1 if (turned["x0"][k] != batch["x0"][k]).any() else 1
        for name in ("x0", "silhouette"):
            np.testing.assert_array_equal(turned[name][k], batch[name][k][:, ::way])
        assert turned["shape"][k] == batch["shape"][k]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("conditions") / "run"
    assert train.train(shapes_config(), workdir) == 0
    return workdir


@pytest.mark.wide(3)
def test_a_model_is_told_by_name_and_guided(run, tmp_path):
    loaded = experiment.load(run)
    by_name = loaded.sample(3, conditions={"shape": ["circle", "cross"], "colour": "blue"})
    by_number = loaded.sample(3, conditions={"shape": [0, 3, 0], "colour": 2})
    np.testing.assert_array_equal(by_name, by_number)
    alone = loaded.sample(3)
    assert (by_name != alone).any(axis=(1, 2, 3)).all()
    # At guidance 0 the conditions do not count.
    away = loaded.sample(3, guidance_scale=0.0, conditions={"colour": "red"})
    np.testing.assert_array_equal(away, loaded.sample(3, guidance_scale=0.0))

    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 4:9] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    flags = [f"silhouette={tmp_path / 'mask.png'}", "shape=circle,cross", "colour=blue"]
    out = tmp_path / "a.npz"
    sample.to_files(str(run), str(out), num_samples=3, conditions=flags)
    drawn = np.load(out)["samples"]
    silhouette = (mask > 0)[..., None]
    given = {"shape": [0, 3], "colour": 2, "silhouette": silhouette}
    np.testing.assert_array_equal(drawn, loaded.sample(3, conditions=given))
    assert (drawn != by_name).any()


@pytest.mark.wide(3)
def test_the_grid_of_a_run_shows_what_held_out_images_do(run):
    source, num = shapes("validation", 16), 20
    rows = [k * len(source) // num for k in range(num)]
    asked = {name: [source[k][name] for k in rows] for name in ("shape", "colour")}
    asked["silhouette"] = np.stack([source[k]["silhouette"] for k in rows])
    drawn = experiment.load(run).sample(num, conditions=asked)
    with Image.open(run / "samples" / "step_000004.png") as picture:
        difference = np.asarray(picture).astype(int) - figures.grid(drawn)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["size=small"], "condition size: this model has no such condition; it has shape, colour"),
        (["colours=red"], "did you mean 'colour'"),
        (["colour=pink"], "condition colour=pink: need one of red, green, blue"),
        (["shape=9"], "shape=9: need one of circle"),
        (["shape"], "--condition=shape: need name=value"),
        (["shape=circle", "shape=cross"], "each name once"),
        (["silhouette=none.png"], "silhouette=none.png: cannot read"),
        (["silhouette=SMALL"], r"silhouette: need an image of \(16, 16, 1\), got \(8, 8, 1\)"),
    ],
)
def test_conditions_that_are_unknown_are_one_line(conditions, message, run, tmp_path):
    small = tmp_path / "small.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(small)
    conditions = [text.replace("SMALL", str(small)) for text in conditions]
    out = tmp_path / "out" / "a.npz"
    with pytest.raises(UserError, match=message):
        sample.to_files(str(run), str(out), num_samples=2, conditions=conditions)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"conditions": ("shade", "size", "shape")}},
            "know no 'shade'; they know background, shape",
        ),
        ({"model": {"conditions": ("shape",) * 3}}, "model.conditions.*different names"),
        ({"diffusion": {"condition_dropout": (0.1,)}}, "condition_dropout.*each of model.cond"),
        ({"diffusion": {"condition_dropout": (0.1, 0.1, 1.5)}}, "condition_dropout"),
        ({"diffusion": {"condition_dropout": ()}}, "joint_dropout, or each of condition_dropout"),
        ({"diffusion": {"joint_dropout": 1.5}}, "joint_dropout=1.5: need 0 to 1"),
        (
            {
                "model": {"conditions": ()},
                "diffusion": {"condition_dropout": (), "joint_dropout": 0.1},
                "sample": {"guidance_scale": 1.0},
            },
            "joint_dropout.*nothing to hide",
        ),
        (
            {"data": {"flip": True}, "model": {"conditions": ("position", "size", "shape")}},
            "data.flip=True",
        ),
        (
            {"data": {"name": "digits", "image_size": (8, 8), "channels": 1}},
            "the data digits know no 'shape'; they know nothing but labels",
        ),
    ],
)
def test_a_config_that_cannot_be_told_so_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        experiment.build(shapes_config(**changes))


@pytest.mark.wide(6)
def test_a_run_with_conditions_resumes_exactly(run, tmp_path):
    half = tmp_path / "half"
    assert train.train(shapes_config(train={"num_steps": 2}), half) == 0
    assert train.train(shapes_config(), half) == 0
    assert tiny_runs.final(half) == tiny_runs.final(run)


def test_labels_and_conditions_go_together():
    c = shapes_config(
        model={"num_classes": 4, "conditions": ("colour",)},
        diffusion={"label_dropout": 0.1, "condition_dropout": (0.2,)},
    )
    assert conditioning.dropout(c) == {"label": 0.1, "colour": 0.2}
    whole = conditioning.arrays(c, {}, 3, np.array([0, 1, 2]), {"colour": ["red", "cyan"]})
    assert {name: value.tolist() for name, value in whole.items()} == {
        "label": [0, 1, 2],
        "colour": [0, 5, 0],
    }
    experiment.build(c)


@pytest.mark.wide(3)
def test_what_is_dropped_together_can_be_guided():
    names = {"num_classes": 4, "conditions": ("colour",)}
    rates = {"label_dropout": 0.0, "condition_dropout": (), "joint_dropout": 0.1}
    built = experiment.build(shapes_config(model=names, diffusion=rates))
    assert built.config.sample.guidance_scale == 2

    def losses(rate, colour):
        one = experiment.build(
            shapes_config(
                model=names,
                diffusion=rates | {"joint_dropout": rate},
                sample={"guidance_scale": 1.0},
            )
        )
        leaves = jax.tree.map(lambda s: jnp.ones(s.shape) / 10, one.state_shapes().params)
        batch = {
            "x0": jnp.linspace(-1, 1, 2 * 16 * 16 * 3).reshape(2, 16, 16, 3),
            "label": jnp.array([0, 1]),
            "colour": jnp.array(colour),
        }
        return np.asarray(one.objective(leaves, batch, jax.random.key(0), True, {}).loss)

    np.testing.assert_array_equal(losses(1.0, [0, 1]), losses(1.0, [2, 3]))
    with pytest.raises(UserError, match=r"label_dropout above 0"):
        experiment.build(shapes_config(model=names, diffusion=rates | {"joint_dropout": 0.0}))


@pytest.mark.wide(3)
def test_bits_need_a_model_that_was_trained_without_each_condition(tmp_path):
    config = shapes_config(
        diffusion={"condition_dropout": (0.5, 0.0, 0.1)},
        sample={"guidance_scale": 1.0},
        train={"num_steps": 1, "sample_every": 0, "validate_every": 0},
    )
    assert train.train(config, tmp_path / "run") == 0
    with pytest.raises(UserError, match=r"bpd measures p\(x\).*never trained without colour"):
        evaluate.evaluate(str(tmp_path / "run"), metrics=["bpd"])
    assert not (tmp_path / "run" / "eval").exists()
