"""evaluate.py --metrics=attributes,held_out_pairs: what is asked of a model and what counts."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.train import train
from ddpm_jax.data import shapes
from ddpm_jax.data.shapes import COLOURS, SHAPES
from ddpm_jax.errors import UserError
from ddpm_jax.measures import attributes

HELD_OUT = ("red circle", "blue cross")
NO_TASK = experiment.Task()
TOLD = ("background", "shape", "colour", "shape_2")


def config(**changes):
    groups = {
        "data": {
            "name": "shapes", "image_size": (16, 16), "channels": 3, "held_out": HELD_OUT,
        },
        "model": {"num_classes": 0, "conditions": TOLD},
        "diffusion": {"label_dropout": 0.0, "joint_dropout": 0.1},
        "train": {"num_steps": 1, "sample_every": 0, "validate_every": 0},
        "sample": {"num_steps": 1},
    }  # fmt: skip
    for group, fields in changes.items():
        groups[group] = groups[group] | fields
    return brief_config(**groups)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("attributes") / "run"
    assert train.train(config(), workdir) == 0
    return workdir


@pytest.mark.wide(3)
def test_a_model_that_draws_what_it_is_told_is_right(run, monkeypatch):
    """The network is replaced by the data: it draws the held-out image of its prompt."""
    drawn = []

    def drawing(self, num, *, labels, conditions, seed, task, guidance_scale):
        assert set(conditions) == set(TOLD)
        drawn.append((guidance_scale, conditions))
        pairs = zip(conditions["shape"], conditions["colour"], strict=True)
        never = all(f"{[*COLOURS][c]} {SHAPES[s]}" in HELD_OUT for s, c in pairs)
        if never:  # the prompts of held_out_pairs
            allowed = {(SHAPES[s], [*COLOURS][c]) for s in range(4) for c in range(6)}
            held = {tuple(reversed(text.split(" "))) for text in HELD_OUT}
            source = shapes("validation", 16, max_objects=1, held_out=allowed - held)
        else:
            source = shapes("validation", 16, held_out=[("circle", "red"), ("cross", "blue")])
        images = np.stack([source[k]["image"] for k in range(num)])
        if guidance_scale == 1:
            images[: num // 2] = 255  # half of them show nothing
        description = {"conditions": conditions, "guidance_scale": guidance_scale}
        return experiment.Drawing(
            num,
            num,
            description,
            np.full(num, -1, np.int32),
            lambda rows: iter([images[rows.start : rows.stop]]),
        )

    monkeypatch.setattr(experiment.Loaded, "drawing", drawing)
    report = evaluate.evaluate(
        str(run), metrics=["held_out_pairs", "attributes"], num_samples=20, name="told"
    )
    guided, unguided = report["samples"]
    assert (guided["guidance_scale"], unguided["guidance_scale"]) == (2.0, 1.0)
    names = {"held_out_pairs", "attributes", *TOLD}
    held_out = report["held_out_data"]["metrics"]
    assert {*guided["metrics"]} == {*held_out} == names
    for name in names:
        value = guided["metrics"][name]["value"]
        assert value == held_out[name]["value"] >= 0.95
        assert unguided["metrics"][name]["value"] == pytest.approx(value - 0.5, abs=0.051)
    assert len(drawn) == 4
    # One object alone where pairs are asked for, of every pair that was held out.
    of_pairs = drawn[0][1]
    assert set(of_pairs["shape_2"]) == {len(SHAPES)}
    assert {*zip(of_pairs["shape"], of_pairs["colour"], strict=True)} == {(0, 0), (3, 2)}
    lines = evaluate.table(report).splitlines()
    shown = [line.split(" | ")[0] for line in lines[2:]]
    assert shown == [f"| {name}" for name in ("held_out_pairs", "attributes", *TOLD)]
    assert json.loads((run / "eval" / "told.json").read_text()) == report


def test_samples_are_those_of_the_prompts(run):
    loaded = experiment.load(run)
    asked = attributes.held_out_images(loaded, 3)
    conditions = {name: values.tolist() for name, values in asked.wanted.items()}
    same = loaded.sample(3, conditions=conditions, guidance_scale=3.0, seed=5)
    drawing = attributes.drawing(loaded, asked, 5, task=NO_TASK, guidance_scale=3.0)
    np.testing.assert_array_equal(np.concatenate([*drawing.batches(range(3))]), same)


def test_a_composed_pair_is_told_apart(run, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        experiment.Loaded, "drawing", lambda self, num, **options: seen.update(options)
    )
    loaded = experiment.load(run)
    asked = attributes.held_out_pairs(loaded, 4, composed=True)
    attributes.drawing(loaded, asked, 5, task=NO_TASK, guidance_scale=3.0)
    wanted = {name: values.tolist() for name, values in asked.wanted.items()}
    assert {*zip(wanted["shape"], wanted["colour"], strict=True)} == {(0, 0), (3, 2)}
    assert seen["conditions"] == {n: wanted[n] for n in wanted if n not in ("shape", "colour")}
    assert seen["task"].composed == [
        (3.0, {"shape": wanted["shape"]}), (3.0, {"colour": wanted["colour"]}), (-3.0, {})
    ]  # fmt: skip
    assert "guidance_scale" not in seen
    monkeypatch.undo()
    # The parts add up to what the model says of them: at weight 0 to nothing.
    drawing = attributes.drawing(loaded, asked, 5, task=NO_TASK, guidance_scale=0.0)
    drawn = np.concatenate([*drawing.batches(range(4))])
    np.testing.assert_array_equal(drawn, loaded.sample(4, seed=5, guidance_scale=0.0))


@pytest.mark.parametrize(
    ("metric", "changes", "message"),
    [
        ("held_out_pairs", {"data": {"held_out": ()}}, r"every pair.*options\.held_out"),
        (
            "held_out_pairs",
            {"model": {"conditions": ("shape",)}},
            "is conditioned on shape; train with shape and colour",
        ),
        (
            "attributes",
            {"model": {"num_classes": 4, "conditions": ()}},
            "is conditioned on no attributes; train with some",
        ),
        (
            "attributes",
            {"data": {"name": "folder", "held_out": ()}, "model": {"conditions": ()}},
            "nothing reads the attributes of folder.*only those of shapes",
        ),
        ("spread", {}, "needs labels.*choose among fid.*attributes.*memorisation"),
    ],
)
def test_what_cannot_be_measured_is_refused(run, metric, changes, message, monkeypatch):
    changed = config(**changes)
    changed.sample.guidance_scale, changed.diffusion.joint_dropout = 1.0, 0.0
    loaded = experiment.load(run)
    other = dataclasses.replace(
        loaded, experiment=dataclasses.replace(loaded.experiment, config=changed)
    )
    monkeypatch.setattr(experiment, "load", lambda *args, **options: other)
    with pytest.raises(UserError, match=f"--metrics={metric}.*{message}"):
        evaluate.evaluate(str(run), metrics=[metric], name="refused")
    assert not (run / "eval" / "refused.json").exists()
