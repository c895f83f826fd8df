"""Classes by name: kept by a run, asked for by sample, and never taken for others."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.build import class_names
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.sample import sample
from ddpm_jax.commands.train import train
from ddpm_jax.data import DataInfo
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import drift

NAMES = ("1", "2", "10")


def images_in(path, names=NAMES, count=6):
    """Folders of random images, one for each name."""
    rng = np.random.default_rng(0)
    for k in range(count * len(names)):
        file = path / names[k % len(names)] / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(file)
    return path


def config_of(path, **changes):
    data = {"name": "folder", "data_dir": str(path), "holdout": 0.3, "batch_size": 4}
    return brief_config(data=data, model={"num_classes": 3}, **changes)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """A run on folders 1, 2, 10."""
    root = tmp_path_factory.mktemp("numbered")
    images_in(root / "images")
    assert train.train(config_of(root / "images"), root / "run") == 0
    return root


@pytest.mark.wide(3)
def test_a_run_keeps_the_names_of_its_classes(numbered):
    saved = json.loads((numbered / "run" / "config.json").read_text())
    assert saved["data"]["class_names"] == list(NAMES)
    (attempt,) = json.loads((numbered / "run" / "manifest.json").read_text())["attempts"]
    assert attempt["data"]["class_names"] == list(NAMES)
    assert attempt["config"] == saved
    # The same command again finds the run that it made, and a longer one goes on with it.
    assert train.train(config_of(numbered / "images"), numbered / "run") == 0
    more = shutil.copytree(numbered / "run", numbered / "more")
    assert train.train(config_of(numbered / "images", train={"num_steps": 8}), more) == 0


def test_labels_are_asked_for_by_name(numbered, tmp_path):
    def labels(*given):
        out = tmp_path / "a.npz"
        sample.to_files(str(numbered / "run"), str(out), num_samples=len(given), labels=given)
        with np.load(out) as held:
            return held["labels"].tolist()

    assert labels("2", "10", "1") == [1, 2, 0]
    # Class 0 has no such name, and of two meanings a text has none.
    with pytest.raises(UserError, match=r"--labels=0: label 0: need one of 1, 2, 10"):
        labels("0")
    run = experiment.load(numbered / "run")
    assert run.labels(3, [2, "2", "10"]).tolist() == [2, 1, 2]
    np.testing.assert_array_equal(
        run.sample(2, task=experiment.Task(composed=[(1.0, {"label": "10"})])),
        run.sample(2, task=experiment.Task(composed=[(1.0, {"label": 2})])),
    )


def test_other_names_are_other_data(numbered, tmp_path):
    images = shutil.copytree(numbered / "images", tmp_path / "images")
    workdir = shutil.copytree(numbered / "run", tmp_path / "run")
    (images / "2").rename(images / "3")
    longer = config_of(images, train={"num_steps": 8})
    with pytest.raises(UserError, match=r"data\.class_names: .*'2'.*there, .*'3'"):
        train.train(longer, workdir)
    longer.data.class_names = NAMES
    with pytest.raises(UserError, match=r"class_names=1, 2, 10: .* are 1, 3, 10 here"):
        train.train(longer, workdir)
    saved = json.loads((workdir / "config.json").read_text())
    saved["data"]["data_dir"] = str(images)
    (workdir / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=r"class_names=1, 2, 10: .* are 1, 3, 10 here"):
        evaluate.evaluate(str(workdir), metrics=["memorisation"], num_samples=4)


def test_a_run_of_an_earlier_order_is_not_taken_for_this_one(numbered, tmp_path, monkeypatch):
    """Earlier versions sorted 1, 10, 2 and kept no names."""

    def as_text(path, labels):
        names = tuple(sorted(set(labels.values())))
        return names, {file: names.index(label) for file, label in labels.items()}

    with monkeypatch.context() as earlier:
        earlier.setattr(sys.modules["ddpm_jax.data.folder"], "_numbered", as_text)
        assert train.train(config_of(numbered / "images"), tmp_path / "run") == 0
    for name in ("config.json", "manifest.json"):
        content = json.loads((tmp_path / "run" / name).read_text())
        entry = content if name == "config.json" else content["attempts"][0]["config"]
        assert entry["data"].pop("class_names") == ["1", "10", "2"]
        (tmp_path / "run" / name).write_text(json.dumps(content))
    longer = config_of(numbered / "images", train={"num_steps": 8})
    with pytest.raises(UserError, match=r"holds another experiment: data\.fingerprint"):
        train.train(longer, tmp_path / "run")
    with pytest.raises(UserError, match="classes 1, 2, 10 were in the order 1, 10, 2"):
        evaluate.evaluate(str(tmp_path / "run"), metrics=["memorisation"], num_samples=4)
    # It can be drawn from, by numbers, as before.
    run = experiment.load(tmp_path / "run")
    assert run.labels(2, ["2", 0]).tolist() == [2, 0]
    with pytest.raises(UserError, match="label a: need whole numbers"):
        run.labels(1, ["a"])


@pytest.mark.wide(3)
def test_a_run_of_an_earlier_version_in_the_same_order_goes_on(tmp_path):
    images = images_in(tmp_path / "images", ("a", "b", "c"))
    assert train.train(config_of(images), tmp_path / "run") == 0
    path = tmp_path / "run" / "config.json"
    saved = json.loads(path.read_text())
    del saved["data"]["class_names"]
    path.write_text(json.dumps(saved))
    longer = config_of(images, train={"num_steps": 8})
    assert train.train(longer, tmp_path / "straight") == 0
    assert train.train(longer, tmp_path / "run") == 0
    finals = [json.loads((tmp_path / d / "final.json").read_text()) for d in ("run", "straight")]
    assert finals[0] == finals[1]
    assert json.loads(path.read_text())["data"]["class_names"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("names", "label", "expected"),
    [
        (("cat", "dog"), "dog", 1),
        (("cat", "dog"), "1", 1),
        (("cat", "dog"), 0, 0),
        (("cat", "1"), "1", 1),
        (tuple("0123"), "7", 7),  # whoever asks says that it is out of range
        (("1", "2", "10"), "2", 1),
        (("1", "2", "10"), 2, 2),
        ((), "3", 3),
        ((), np.int64(3), 3),
    ],
)
def test_a_text_is_a_name_before_it_is_a_number(names, label, expected):
    assert class_names.number(names, label) == expected


@pytest.mark.parametrize(
    ("names", "label", "message"),
    [
        (("cat", "dog"), "dgo", "label dgo: need one of cat, dog; did you mean 'dog'"),
        (("1", "2", "10"), "3", "need one of 1, 2, 10"),
        ((), "cat", "need whole numbers, 0,1,2"),
        ((), "1" * 5000, "need whole numbers"),
        ((), 1.5, "label 1.5: need the number of a class"),
        ((), [1, 2], "need the number of a class"),
        (tuple(f"class {k}" for k in range(50)), "x", "class 19 and 30 more"),
    ],
)
def test_a_label_that_is_none_is_one_line(names, label, message):
    with pytest.raises(UserError, match=message) as caught:
        class_names.number(names, label)
    assert "\n" not in str(caught.value)


def test_more_names_than_a_config_holds_are_left_out():
    def info(num):
        return DataInfo((8, 8, 1), num, 256, tuple(f"{k:010}" for k in range(num)))

    assert class_names.kept(info(5000), 5000) == info(5000).class_names
    assert class_names.kept(info(50_000), 50_000) == ()
    assert class_names.kept(info(10), 0) == ()


def test_names_that_one_side_does_not_say_do_not_differ():
    rows = [("data.class_names", (), ("a",)), ("data.class_names", None, ("a",))]
    assert drift.not_free(rows) == []
    changed = [("data.class_names", ("a", "b"), ("b", "a"))]
    assert drift.not_free(changed) == changed
