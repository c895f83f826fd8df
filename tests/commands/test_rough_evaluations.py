"""Few samples, few held-out images, settings that are there twice: measured, or one line."""

import shutil

import numpy as np
import pytest

from ddpm_jax.commands.evaluate import evaluate, exported_features
from ddpm_jax.commands.evaluate.evaluate import SpaceFlags
from ddpm_jax.data import DataInfo, build_source
from ddpm_jax.data.arrays import ArraySource
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import kernel_distance, moments
from ddpm_jax.evaluation.features import Features
from ddpm_jax.evaluation.moments import Statistics
from ddpm_jax.measures import distribution_metrics, feature_space, pixel_metrics, results
from ddpm_jax.measures.metric_table import METRICS, named

PIXELS = SpaceFlags(extractor="pixels")


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rough")
    shutil.copytree(finished_run.workdir, folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder / "run"


def measured(workdir, **options):
    given = {"num_samples": 4, "guidance_scales": ["1"], "name": "rough"}
    return evaluate.evaluate(str(workdir), **(given | options))


def normal(seed, num, width=3):
    return np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)


def test_a_single_sample_has_figures_without_intervals(run):
    (row,) = measured(run, metrics=["memorisation", "label_accuracy"], num_samples=1)["samples"]
    assert set(row["metrics"]["memorisation"]) == {"value"}
    assert row["metrics"]["label_accuracy"]["interval"] == "Wilson, 95%"


def test_few_samples_have_every_figure_that_can_be(run):
    report = measured(run, metrics=["kid", "prdc"], num_samples=8, space=PIXELS)
    metrics = report["samples"][0]["metrics"]
    assert set(metrics) == {"kid", "precision", "recall", "density", "coverage"}
    assert all(set(record) == {"value"} for record in metrics.values())
    assert "low" in report["held_out_data"]["metrics"]["kid"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": ["class_recall"]}, "--metrics=class_recall: class 0: .*more than 3 samples"),
        ({"metrics": ["fid"], "num_samples": 1, "space": PIXELS}, "--metrics=fid: .*2 rows"),
        ({"metrics": ["spread"], "seed": 2**32 - 1, "repeats": 2}, "last seed must be below 2"),
        ({"metrics": ["spread"], "name": "a" * 101}, "at most 100"),
        (
            {"metrics": ["prdc"], "space": SpaceFlags(extractor="pixels", num_reference=5)},
            "--metrics=prdc: needs 6 images of the reference, and there are 5",
        ),
    ],
)
@pytest.mark.wide(4)
def test_too_few_of_anything_is_one_line(run, options, words):
    with pytest.raises(UserError, match=words):
        measured(run, **options)


def test_a_cache_that_cannot_be_written_is_one_line(run, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for extractor, words in (("classifier", "cannot keep it in"), ("pixels", "cannot write")):
        with pytest.raises(UserError, match=words):
            measured(run, metrics=["fid"], space=SpaceFlags(extractor=extractor))


def test_held_out_images_of_the_training_set_are_one_line(run, monkeypatch):
    from ddpm_jax.experiment import Experiment

    source = Experiment.source
    monkeypatch.setattr(Experiment, "source", lambda self, split: source(self, "train"))
    with pytest.raises(UserError, match="--metrics=memorisation: held_out: every image is in the"):
        measured(run, metrics=["memorisation"])


def test_few_held_out_images_do_not_keep_samples_from_being_measured(run, monkeypatch, capsys):
    from ddpm_jax.experiment import Experiment

    class First:
        def __init__(self, source):
            self.info, self._source = source.info, source

        def __len__(self):
            return 3

        def __getitem__(self, k):
            return self._source[k]

    source = Experiment.source
    few = {"train": lambda x: x, "validation": First}
    monkeypatch.setattr(Experiment, "source", lambda self, s: few[s](source(self, s)))
    report = measured(run, metrics=["class_recall", "prdc"], num_samples=40, space=PIXELS)
    assert set(report["samples"][0]["metrics"]) > {"class_recall", "precision"}
    assert report["held_out_data"]["metrics"] == {}
    assert capsys.readouterr().err.count("the held-out data have no such figure") == 2


@pytest.mark.parametrize("num", [4, 100])
def test_a_part_of_the_reference_is_of_the_whole_of_it(tmp_path, num):
    # A folder is sorted by class: its first images would be of one class alone.
    labels = np.repeat(np.arange(2), 20)
    images = np.broadcast_to((100 * labels)[:, None, None, None], (40, 2, 2, 1)).astype(np.uint8)
    source = ArraySource(images, labels, DataInfo((2, 2, 1), 2, 256, ("a", "b")))
    found = feature_space.space(
        "pixels", {"train": source, "validation": source}, "inception", reference="train",
        num_reference=num, weights=None, resize=None, cache=tmp_path,
    )  # fmt: skip
    assert found.reference.pooled.mean() == pytest.approx(50 / 255)
    assert found.described["num"] == found.num_reference == min(num, 40)
    assert found.described.get("evenly_spaced_of") == (40 if num < 40 else None)


def test_principal_components_of_images_that_vary_in_fewer_directions(run):
    # Some pixels of the digits are always empty.
    report = measured(run, metrics=["kid"], space=SpaceFlags(extractor="pca"))
    assert 55 < report["protocol"]["extractor"]["num_components"] < 64


def test_what_is_asked_for_twice_is_measured_once(run):
    report = measured(run, metrics=["spread", "spread"], guidance_scales=["1", "1.0", "1"])
    assert [row["guidance_scale"] for row in report["samples"]] == [1.0]


def test_a_reference_of_too_few_images_is_told(capsys):
    samples = Features(normal(0, 100))
    few = Features(normal(1, 3))
    distribution_metrics.check(named(["fid"]), few, samples)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--metrics=fid: 3 images of the reference in 3 dimensions")
    assert "KID" in line
    for enough in (Features(normal(1, 4)), Statistics(np.zeros(3), np.eye(3))):
        distribution_metrics.check(named(["fid"]), enough, samples)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("metric", ["is", "sfid"])
def test_features_that_a_metric_lacks_are_named_before_anything_is_drawn(metric):
    with pytest.raises(UserError, match=f"--metrics={metric}: these features .*take --extractor"):
        distribution_metrics.check(named([metric]), Features(normal(0, 9)), Features(normal(1, 9)))


def test_an_exported_reference_needs_no_classes_for_the_inception_score(tmp_path):
    np.savez(tmp_path / "a.npz", features=normal(0, 50), logits=normal(1, 50))
    np.savez(tmp_path / "b.npz", features=normal(2, 50))
    np.savez(tmp_path / "c.npz", features=normal(2, 50, 4))
    a, b, c = (str(tmp_path / f"{name}.npz") for name in "abc")
    found = exported_features.measure(a, b, ["is", "kid"], seed=0, kid_subsets=None)
    assert set(found["samples"][0]["metrics"]) == {"is", "kid"}
    with pytest.raises(UserError, match="not of one extractor"):
        exported_features.measure(a, c, ["kid"], seed=0, kid_subsets=None)
    with pytest.raises(UserError, match="--metrics=is: these features come without classes"):
        exported_features.measure(b, a, ["is"], seed=0, kid_subsets=None)


def test_no_metrics_of_exported_features_are_one_line(tmp_path):
    np.savez(tmp_path / "a.npz", features=normal(0, 50))
    with pytest.raises(UserError, match="--metrics is empty"):
        exported_features.measure(*[str(tmp_path / "a.npz")] * 2, [], seed=0, kid_subsets=None)


def test_the_distance_at_infinity_is_within_its_interval_as_often_as_it_says():
    width, number, trials = 16, 160, 60
    data = Statistics(np.zeros(width), np.eye(width) / width)
    rng = np.random.default_rng(0)
    found = [
        distribution_metrics.measure(
            named(["fid"]), data, Features(rng.normal(size=(number, width)) / width**0.5), seed=0
        )
        for _ in range(trials)
    ]
    values = np.array([one["fid_infinity"].value for one in found])
    plain = np.mean([one["fid"].value for one in found])
    assert abs(values.mean()) < plain / 20  # the true one is 0
    held = np.mean([one["fid_infinity"].low <= 0 <= one["fid_infinity"].high for one in found])
    assert held >= 0.9
    few = distribution_metrics.measure(named(["fid"]), data, Features(normal(0, 63, 16)), seed=0)
    assert set(few) == {"fid"}


def test_the_inception_score_has_students_interval_over_splits():
    from scipy import stats

    logits = 3 * normal(0, 200, 5)
    found = distribution_metrics.measure(
        named(["is"]), Features(logits), Features(logits, logits), seed=0
    )["is"]
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    scores = [np.exp(stats.entropy(s, s.mean(0, keepdims=True), axis=1).mean())
              for s in np.split(p, 10)]  # fmt: skip
    low, high = stats.t.interval(0.95, 9, loc=np.mean(scores), scale=stats.sem(scores))
    assert (found.low, found.value, found.high) == pytest.approx((low, np.mean(scores), high))


def test_a_share_stays_a_share():
    for num in range(1, 600):
        full, none = results.share(1.0, num), results.share(0.0, num)
        assert 0 == none.low == none.value < none.high <= 1
        assert 0 <= full.low < full.value == full.high == 1


def test_what_is_not_finite_is_no_number_in_a_file():
    record = results.Figure(float("inf"), float("nan"), 1.0).record()
    assert record == {"value": None, "low": None, "high": 1.0}
    assert results.text(record) == ""


def test_a_distance_alone_is_the_value_that_has_an_interval(monkeypatch):
    reference, samples = Features(normal(0, 400, 4)), Features(normal(1, 300, 4))
    known = moments.statistics(moments.of(reference.pooled))
    calls = []
    subsets = kernel_distance.kernel_distance
    monkeypatch.setattr(
        kernel_distance, "kernel_distance", lambda *a, **k: calls.append(a) or subsets(*a, **k)
    )
    for most in (10**9, 1000):  # all pairs, and subsets where those are too many
        monkeypatch.setattr(distribution_metrics, "MOST_PAIRS", most)
        both = distribution_metrics.measure(named(["fid", "kid"]), reference, samples, seed=0)
        for metric, figure in ((m, both[m]) for m in ("fid", "kid")):
            sets = distribution_metrics.Sets(reference, samples, lambda _: known)
            found = METRICS[metric].distance(sets)
            assert found == pytest.approx(figure.value, rel=1e-9)
    assert len(calls) == 2


def test_no_room_for_the_real_images_is_one_line(monkeypatch):
    def full():
        return open("/dev/full", "r+b", buffering=0)

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    digits = [build_source("digits", split) for split in ("train", "validation")]
    with pytest.raises(UserError, match=r"no room for the real images.*No space left.*TMPDIR"):
        pixel_metrics.real_images(*digits)
