"""evaluate.py and report.py on a run of CLIP."""

import json
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import data, experiment
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.report import report
from ddpm_jax.data import evenly_spaced
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import probes
from ddpm_jax.measures import embeddings

FEW = 400  # images, in place of thousands


@pytest.fixture(scope="module")
def measured(clip_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "templates.txt"
    path.write_text("a {colour} {shape}\n\nthe {shape} is {colour}\n")
    with (
        mock.patch.object(embeddings, "NUM_IMAGES", FEW),
        mock.patch.object(embeddings, "NUM_TRAINING", FEW),
    ):
        return evaluate.evaluate(
            str(clip_run.workdir),
            metrics=["retrieval", "zero_shot", "linear_probe"],
            templates=str(path),
            num_pairs=40,
            name="clip",
        )


def test_recall_is_counted_among_held_out_pairs(measured, clip_run):
    loaded = experiment.load(clip_run.workdir)
    source = loaded.experiment.source("validation")
    images, captions = [], []
    # The first of each caption among evenly spaced ones, and again evenly spaced ones of these.
    for row in evenly_spaced(source, 8 * 40):
        if source[row]["caption"] not in captions:
            images.append(source[row]["image"])
            captions.append(source[row]["caption"])
    kept = [k * len(captions) // 40 for k in range(40)]
    cosines = loaded.similarity(np.stack([images[k] for k in kept]), [captions[k] for k in kept])
    figures = measured["held_out_data"]["metrics"]
    for name, table in (("texts", cosines), ("images", cosines.T)):
        for k in (1, 5, 10):
            nearest = np.argsort(-table, axis=1)[:, :k]
            share = np.mean([row in nearest[row] for row in range(40)])
            assert figures[f"retrieval_{name}_at_{k}"]["value"] == pytest.approx(share, abs=0.03)
    assert measured["pairs"]["chance"] == {"1": 1 / 40, "5": 5 / 40, "10": 10 / 40}
    picture = Image.open(clip_run.workdir / "eval" / "clip_similarity.png")
    assert min(picture.size) > 300
    assert json.loads((clip_run.workdir / "eval" / "clip.json").read_text())["pairs"]["num"] == 40


def test_zero_shot_counts_the_nearest_of_all_classes(measured, clip_run):
    loaded = experiment.load(clip_run.workdir)
    source = loaded.experiment.source("validation")
    colours, shapes = (source.info.attributes[name] for name in ("colour", "shape"))
    classes = []
    for colour in colours:
        for shape in shapes:
            both = loaded.embed_texts([f"a {colour} {shape}", f"the {shape} is {colour}"])
            mean = both.mean(axis=0)
            classes.append(mean / np.linalg.norm(mean))
    rows = evenly_spaced(source, FEW)
    own = [source[k]["colour"] * len(shapes) + source[k]["shape"] for k in rows]
    images = loaded.embed_images(np.stack([source[k]["image"] for k in rows]))
    share = np.mean(np.argmax(images @ np.stack(classes).T, axis=1) == own)
    figure = measured["held_out_data"]["metrics"]["zero_shot_accuracy"]
    assert figure["value"] == pytest.approx(share, abs=0.01)
    assert figure["low"] <= figure["value"] <= figure["high"]
    # Of the pair that was held out, all of one class: no training image shows it.
    red_circle = colours.index("red") * len(shapes) + shapes.index("circle")
    assert red_circle not in own
    every = [f"{colour} {shape}" for shape in shapes for colour in colours]
    rest = tuple(pair for pair in every if pair != "red circle")
    only = data.build_source(
        "shapes", "validation", image_size=(16, 16), channels=3, max_objects=1, held_out=rest
    )
    images = loaded.embed_images(np.stack([only[k]["image"] for k in evenly_spaced(only, FEW)]))
    share = np.mean(np.argmax(images @ np.stack(classes).T, axis=1) == red_circle)
    figure = measured["held_out_data"]["metrics"]["zero_shot_unseen_pairs"]
    assert figure["value"] == pytest.approx(share, abs=0.01)
    assert "| 400 of pairs that no training image shows |" in evaluate.table(measured)


def test_a_probe_reads_each_attribute(measured):
    figures = measured["held_out_data"]["metrics"]
    assert {"linear_probe_label", "linear_probe_colour", "linear_probe_background"} <= {*figures}
    # Even an untrained network tells the background, which most pixels show.
    assert figures["linear_probe_background"]["value"] > 0.9
    table = evaluate.table(measured)
    assert "| k | texts of an image | images of a text | chance |" in table
    assert "| read from the features | accuracy |" in table


def test_a_probe_has_bayes_accuracy_where_classes_are_gaussian():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 6000)
    x = rng.standard_normal((6000, 3)) + labels[:, None] * np.array([2.0, 0.0, 0.0])
    share = probes.accuracy(x[:3000] * 50, labels[:3000], x[3000:] * 50, labels[3000:])
    # Two unit Gaussians at a distance of 2: Phi(1) are read right.
    assert share.value == pytest.approx(0.8413, abs=3 * np.sqrt(0.8413 * 0.1587 / 3000))
    with pytest.raises(ValueError, match="at least two classes"):
        probes.accuracy(x, np.zeros(6000, int), x, labels)


def test_a_report_of_one_says_what_it_is(measured, clip_run, tmp_path):
    page = report.report([str(clip_run.workdir)], str(tmp_path / "page.html")).read_text()
    assert "This CLIP draws no images." in page
    assert "A CLIP noises nothing, so it has no schedule." in page
    assert "among the nearest 10" in page


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"metrics": ["fid"]}, "--metrics=fid: this run is a CLIP; it has retrieval"),
        ({"templates": "no.txt", "metrics": ["zero_shot"]}, "--templates=no.txt: cannot be read"),
        ({"templates": "no.txt"}, "--templates=no.txt applies only to --metrics=zero_shot"),
        ({"num_pairs": 2}, "--num_pairs=2: need at least 4"),
        ({"num_samples": 5}, "--num_samples applies only to samples"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(clip_run, options, line):
    with pytest.raises(UserError, match=line):
        evaluate.evaluate(str(clip_run.workdir), **options)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a picture", "'a picture' needs fields such as {}"),
        ("a {hue} thing", "the data know no names for {hue}; they have {}, {background}"),
        ("a {colour}\na {shape}", "all lines must have the same fields"),
        ("a {colour", "is no template"),
        ("\n", "no template"),
    ],
)
def test_bad_templates_are_told_in_one_line(clip_run, tmp_path, text, line):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(UserError, match=line) as told:
        evaluate.evaluate(
            str(clip_run.workdir), metrics=["zero_shot"], templates=str(tmp_path / "t.txt")
        )
    assert "\n" not in str(told.value)
