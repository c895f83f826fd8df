"""evaluate.py --metrics=package.module:name and --extractor: parts that a user wrote."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from blake3 import blake3

from ddpm_jax import experiment
from ddpm_jax.commands.evaluate import evaluate
from ddpm_jax.commands.evaluate.evaluate import SpaceFlags
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import frechet, moments

SOURCE = """
import numpy as np

from ddpm_jax.evaluation.features import Extractor, Features
from ddpm_jax.measures.metric import LOWER, Metric, Needs
from ddpm_jax.measures.results import Figure


def brightness(samples, real):
    assert samples.dtype == real.dtype == np.uint8
    return samples.mean() / real.mean()


def per_class(samples, real, *, labels, real_labels, power=1):
    return abs(samples[labels == 3].mean() - real[real_labels == 3].mean())


def rows(images):
    return images.mean(axis=(2, 3))


def spread(sets):
    return Figure(float(sets.samples.pooled.std())), Figure(float(len(sets.samples.pooled)))


record = Metric("ignored", "how spread", LOWER, Needs.FEATURES, spread,
                figures={"deviation": "the deviation", "number": "how many"})
named_as_another = Metric("x", "x", LOWER, Needs.FEATURES, spread, figures={"fid": "a", "b": "b"})
columns = Extractor("ignored", {"axis": 1}, lambda images: Features(
    images.mean(axis=(1, 3)).astype(np.float32)))
number = 3


def one(samples):
    return 0.0


def three(samples, real, weight):
    return 0.0


def of_text(samples, real):
    return "many"


def refused(samples, real):
    raise ValueError("the images are too small")


def flat(images):
    return images.mean(axis=(1, 2, 3))


def infinite(images):
    return np.full((len(images), 2), np.inf)
"""
EARLIER = Path(__file__).parents[1] / "earlier_runs"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A workdir to measure, and a module `own_measures` of the user's."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own_measures.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{tiny_runs.ROOT}")
    return Path(shutil.copytree(EARLIER / "denoiser", tmp_path / "run"))


def measured(workdir, metrics, **options):
    given = {"num_samples": 20, "guidance_scales": ["1"], "name": "own"}
    names = [f"own_measures:{name}" if name[0] != "=" else name[1:] for name in metrics]
    return evaluate.evaluate(str(workdir), metrics=names, **(given | options))


def real(workdir):
    source = experiment.load(workdir).experiment.source("train")
    images = np.round(np.stack([source[k]["image"] for k in range(len(source))]) * (255 / 16))
    return images, np.array([source[k]["label"] for k in range(len(source))])


def test_functions_are_measured_on_samples_and_training_images(run):
    report = measured(run, ["brightness", "per_class"])
    drawn = experiment.load(run).sample(20, guidance_scale=1.0)
    images, labels = real(run)
    figures = report["samples"][0]["metrics"]
    expected = {
        "own_measures:brightness": drawn.mean() / images.mean(),
        "own_measures:per_class": abs(drawn[3::10].mean() - images[labels == 3].mean()),
    }
    assert {name: one["value"] for name, one in figures.items()} == pytest.approx(expected)
    # Held-out images by the same measure are close to those of training.
    own = report["held_out_data"]["metrics"]["own_measures:brightness"]["value"]
    assert own == pytest.approx(1, abs=0.05)
    digest = blake3(SOURCE.encode()).hexdigest()
    assert report["protocol"]["code"] == dict.fromkeys(expected, digest)
    assert report["figures"]["own_measures:brightness"]["label"] == "brightness"
    assert json.loads((run / "eval" / "own.json").read_text()) == report
    assert "| own_measures:brightness |" in evaluate.table(report)


def test_records_and_extractors_are_measured_in_their_space(run):
    space = SpaceFlags(extractor="own_measures:rows")
    report = measured(run, ["=fid", "record"], space=space)
    drawn = experiment.load(run).sample(20, guidance_scale=1.0).mean(axis=(2, 3))
    images, _ = real(run)
    expected = frechet.frechet_distance(
        moments.of(drawn.astype(np.float32)), moments.of(images.mean(axis=(2, 3)))
    )
    figures = report["samples"][0]["metrics"]
    assert figures["fid"]["value"] == pytest.approx(expected, rel=1e-3)
    assert figures["deviation"]["value"] == pytest.approx(drawn.std(), rel=1e-3)
    assert figures["number"]["value"] == 20
    assert report["figures"]["deviation"]["better"] == "lower"
    digest = blake3(SOURCE.encode()).hexdigest()
    assert report["protocol"]["extractor"] == {"name": "own_measures:rows", "source": digest}
    assert report["protocol"]["code"] == {"own_measures:record": digest}
    other = measured(run, ["=fid"], space=SpaceFlags(extractor="own_measures:columns"))
    assert other["protocol"]["extractor"]["axis"] == 1
    assert other["samples"][0]["metrics"]["fid"]["value"] != figures["fid"]["value"]


@pytest.mark.parametrize(
    ("metrics", "options", "words"),
    [
        (["one"], {}, "own_measures:one: takes no argument real; .*one.samples, real"),
        (["three"], {}, "own_measures:three: nothing is given to its argument weight.*default"),
        (["number"], {}, "own_measures:number is int, not callable"),
        (["missing"], {}, "own_measures has no missing"),
        (["named_as_another"], {}, "its figure fid is fid's: call it otherwise"),
        (["of_text"], {}, "own_measures:of_text gave str: need a single number"),
        (["refused"], {}, "own_measures:refused: the images are too small"),
        (["=no_such_module:x"], {}, "--metrics=no_such_module: no module named no_such_module"),
        (["=fid"], {"space": SpaceFlags("own_measures:brightness")}, "its argument real"),
        (["=fid"], {"space": SpaceFlags("own_measures:flat")}, r"shape \(\d+,\).*need floats"),
        (["=fid"], {"space": SpaceFlags("own_measures:infinite")}, "features are not finite"),
        (["=fid"], {"space": SpaceFlags("own_measures:number")}, "--extractor=.*not callable"),
        (
            ["=fid"],
            {"space": SpaceFlags("own_measures:rows", resize="x")},
            "resize=x applies only",
        ),
    ],
)
@pytest.mark.wide(4)
def test_what_cannot_be_a_part_is_one_line(run, metrics, options, words):
    with pytest.raises(UserError, match=words) as error:
        measured(run, metrics, **options)
    assert "\n" not in str(error.value)
    assert not (run / "eval" / "own.json").exists()


@pytest.mark.wide(6)
def test_the_command_takes_them(run):
    flags = [f"--workdir={run}", "--num_samples=8", "--guidance_scale=1", "--name=said"]
    done = tiny_runs.script("evaluate", *flags, "--metrics=own_measures:brightness")
    assert done.returncode == 0, done.stderr
    assert "own_measures:brightness" in done.stdout
    done = tiny_runs.script("evaluate", *flags, "--metrics=own_measures:three")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --metrics=own_measures:three: nothing is given to its")
    assert len(done.stderr.splitlines()) == 1
    done = tiny_runs.script("evaluate", "metrics")
    assert "| bpd |" in done.stdout
