"""Results that say how they were measured, and what is compared with what."""

import json
import shutil

import numpy as np
import pytest
import scipy.linalg
import tiny_runs

from ddpm_jax import experiment
from ddpm_jax.commands.evaluate import compare, evaluate
from ddpm_jax.commands.evaluate.evaluate import SpaceFlags
from ddpm_jax.data import build_source, fingerprint
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import moments
from ddpm_jax.measures import pixel_metrics, sample_sets
from ddpm_jax.measures.metric_table import METRICS
from ddpm_jax.runtime import digests
from ddpm_jax.trained import drawing

PIXELS = SpaceFlags(extractor="pixels")
NUM = 100
SPLITS = ("train", "validation")


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    """A workdir that was evaluated once: eval/a.json; and the user's cache."""
    folder = tmp_path_factory.mktemp("protocol")
    workdir = folder / "run"
    shutil.copytree(finished_run.workdir, workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        measured(workdir, "a", metrics=["fid", "kid", "prdc", "memorisation"])
        yield workdir


def measured(workdir, name, **options):
    given = {"num_samples": NUM, "guidance_scales": ["1"], "space": PIXELS, "name": name}
    return evaluate.evaluate(str(workdir), **(given | options))


def figure(report, name):
    return report["samples"][0]["metrics"][name]


def read(workdir, name):
    return json.loads((workdir / "eval" / f"{name}.json").read_text())


def train_images():
    source = build_source("digits", "train")
    return np.stack([source[k]["image"] for k in range(len(source))])


@pytest.mark.wide(3)
def test_the_distance_is_that_of_the_samples_which_the_protocol_names(run):
    report = read(run, "a")
    drawn = experiment.load(run).sample(NUM, guidance_scale=1.0)
    x = drawn.reshape(NUM, 64) / 255
    y = np.round(train_images() * (255 / 16)).reshape(-1, 64) / 255
    a, b = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(a @ b + 1e-12 * np.eye(64)).real  # some are always empty
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * root)
    found = figure(report, "fid")
    assert found["value"] == pytest.approx(expected, rel=1e-4)
    assert found["low"] < found["value"] < found["high"]
    assert set(report["samples"][0]["metrics"]) == {
        "fid", "kid", "precision", "recall", "density", "coverage", "memorisation",
    }  # fmt: skip
    assert report["samples"][0]["nfe"] == 5
    protocol = report["protocol"]
    assert protocol["reference"]["num"] == 1437
    assert protocol["extractor"] == {"name": "pixels", "image_shape": [8, 8, 1], "levels": 256}
    assert protocol["metrics"] == {"kid": {"pairs": "all"}, "prdc": {"k": 5}}
    assert protocol["real"] == {
        split: {"num": num, "fingerprint": fingerprint(build_source("digits", split))}
        for split, num in (("train", 1437), ("validation", 360))
    }
    assert report["versions"]["jax"]
    assert report["seconds"] > 0


def test_what_was_drawn_is_not_drawn_again(run, monkeypatch):
    monkeypatch.setattr(drawing, "draw_images", None)
    again = measured(run, "again", metrics=["fid"])
    assert figure(again, "fid") == figure(read(run, "a"), "fid")


def test_more_samples_go_on_from_fewer(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_sets, "PART_IMAGES", 16)
    loaded, drawn = experiment.load(run), []
    draw = drawing.draw_images

    def counted(sample_fn, params, num, *args, first, **options):
        drawn.append((first, first + num))
        return draw(sample_fn, params, num, *args, first=first, **options)

    monkeypatch.setattr(drawing, "draw_images", counted)

    def images(num, cache):
        drawing = loaded.drawing(num, guidance_scale=1.0, batch_size=16)
        return sample_sets.SampleSet(drawing, cache, "").images()

    images(40, tmp_path)
    more = images(48, tmp_path)
    assert drawn == [(0, 16), (16, 32), (32, 40), (32, 48)]
    np.testing.assert_array_equal(more, images(48, tmp_path / "new"))


def test_what_other_code_drew_is_drawn_anew(run, monkeypatch):
    def other(*names):
        return "other code"

    monkeypatch.setattr(digests, "of_code", other)
    monkeypatch.setattr(drawing, "draw_images", None)
    with pytest.raises(TypeError, match="not callable"):
        measured(run, "other", metrics=["fid"])


def test_statistics_of_the_reference_are_computed_once(run, monkeypatch):
    of = moments.of

    def not_of_reference(rows):
        assert len(rows) < 1437
        return of(rows)

    monkeypatch.setattr(moments, "of", not_of_reference)
    again = measured(run, "once", metrics=["fid"])
    assert figure(again, "fid") == figure(read(run, "a"), "fid")


@pytest.mark.wide(3)
def test_samples_are_drawn_as_asked(run):
    given = {"sampling": {"num_steps": 3, "eta": 0.5}, "options": ["threshold=0.995"]}
    report = measured(run, "asked", metrics=["memorisation"], space=SpaceFlags(), **given)
    told = report["protocol"]["sampling"]
    assert (told["num_steps"], told["eta"], told["threshold"]) == (3, 0.5, 0.995)
    assert report["samples"][0]["nfe"] == 3
    drawn = experiment.load(run).sample(
        NUM, guidance_scale=1.0, num_steps=3, eta=0.5, threshold=0.995
    )
    real = pixel_metrics.real_images(*(build_source("digits", split) for split in SPLITS))
    images = pixel_metrics.Images(drawn, np.arange(NUM) % 10)
    expected = pixel_metrics.measure(METRICS["memorisation"], real, images)["memorisation"]
    assert figure(report, "memorisation") == expected.record()
    with pytest.raises(
        UserError, match="--eta applies only to samples, and --metrics=bpd draws none"
    ):
        evaluate.evaluate(str(run), metrics=["bpd"], sampling={"eta": 0.0})
    with pytest.raises(UserError, match=r"sample\.num_stps; did you mean sample\.num_steps"):
        measured(run, "x", metrics=["fid"], options=["num_stps=1"])


def test_a_damaged_cache_is_told_and_made_again(run, capsys):
    cache = run / "eval" / "cache"
    for path in cache.rglob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    again = measured(run, "damaged", metrics=["fid"])
    assert figure(again, "fid") == figure(read(run, "a"), "fid")
    assert capsys.readouterr().err.count("is damaged") >= 2


@pytest.mark.wide(6)
def test_repeats_are_sets_of_the_next_seeds(run):
    options = {"metrics": ["memorisation"], "space": SpaceFlags()}
    three = figure(measured(run, "three", repeats=3, **options), "memorisation")
    many = [measured(run, f"seed_{s}", seed=s, **options) for s in range(3)]
    own = [figure(report, "memorisation")["value"] for report in many]
    assert three["values"] == own
    assert three["value"] == pytest.approx(np.mean(own))
    half = 4.302653 * np.std(own, ddof=1) / np.sqrt(3)  # Student's t of 2 degrees at 97.5%
    assert three["high"] - three["value"] == pytest.approx(half, rel=1e-5)


@pytest.mark.wide(3)
def test_a_reference_can_be_a_file_of_statistics(run, tmp_path):
    pixels = np.round(train_images() * (255 / 16)).reshape(-1, 64) / 255
    out = SpaceFlags(extractor="pixels", export_reference=str(tmp_path / "digits.npz"))
    measured(run, "exported", metrics=["fid"], space=out)
    with np.load(tmp_path / "digits.npz") as held:
        np.testing.assert_allclose(held["mu"], pixels.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(held["sigma"], np.cov(pixels.T), atol=1e-6)
    space = SpaceFlags(extractor="pixels", reference=str(tmp_path / "digits.npz"))
    report = measured(run, "file", metrics=["fid"], space=space)
    assert figure(report, "fid")["value"] == pytest.approx(figure(read(run, "a"), "fid")["value"])
    assert report["protocol"]["reference"]["file"] == "digits.npz"
    with np.load(tmp_path / "digits.npz") as held:  # as ADM's reference batches are
        np.savez(tmp_path / "batch.npz", arr_0=np.zeros((9, 64, 64, 3), np.uint8), **held)
    batch = SpaceFlags(extractor="pixels", reference=str(tmp_path / "batch.npz"))
    other = measured(run, "batch", metrics=["fid"], space=batch)
    assert figure(other, "fid") == figure(report, "fid")
    with pytest.raises(UserError, match=r"--metrics=kid: needs the reference's features"):
        measured(run, "file", metrics=["kid"], space=space)


@pytest.mark.wide(3)
def test_results_of_one_protocol_are_compared(run):
    measured(run, "older", metrics=["fid", "memorisation"], step=700)
    a, b = (run / "eval" / f"{name}.json" for name in ("a", "older"))
    done = tiny_runs.script("evaluate", "compare", str(a), str(b))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"A: {a}, step 800, state ")
    assert lines[1].startswith(f"B: {b}, step 700, state ")
    row = next(line for line in lines if line.startswith("| fid |"))
    first, second, difference = (float(cell.split()[0]) for cell in row.split("|")[2:5])
    assert difference == pytest.approx(second - first, abs=2e-3)
    assert first == pytest.approx(figure(read(run, "a"), "fid")["value"], abs=1e-3)


def test_unlike_results_are_refused_and_each_field_is_named(run):
    measured(run, "few", metrics=["fid"], num_samples=80, seed=3)
    a, b = (run / "eval" / f"{name}.json" for name in ("a", "few"))
    with pytest.raises(UserError, match=r"num_samples: 100 and 80; seed: 0 and 3; .*--allow"):
        compare.compare(a, b)
    told = compare.compare(a, b, ["num_samples", "seed"])
    assert "num_samples: 100 and 80" in told
    done = tiny_runs.script("evaluate", "compare", str(a), str(b), "--allow=num_samples")
    assert done.returncode == 2
    assert done.stderr.startswith("error: these are not measured alike: seed: 0 and 3; ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("{", "cannot be compared"),
        ("[]", "no result of format"),
        ('{"format": 1}', "no result of format"),
        ('{"format": 2, "protocol": {}, "run": {}}', "its samples is missing"),
        (
            '{"format": 2, "protocol": {}, "run": {}, "samples": [3], "held_out_data": {}}',
            "samples.0. is no JSON object",
        ),
    ],
)
def test_what_is_no_result_is_named(run, tmp_path, content, words):
    if content is not None:
        (tmp_path / "b.json").write_text(content)
    with pytest.raises(UserError, match=f"b.json: cannot be compared .*{words}|{words}"):
        compare.compare(run / "eval" / "a.json", tmp_path / "b.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"space": SpaceFlags(extractor="fancy")}, "--extractor=fancy.*unknown.*choose among"),
        ({"space": SpaceFlags(reference="test")}, "--reference=test: need train or validation"),
        ({"space": SpaceFlags(reference="no.npz")}, "--reference=no.npz: No such file"),
        ({"space": SpaceFlags(num_reference=1)}, "--num_reference=1: need at least 2"),
        ({"metrics": ["sfid"]}, "--metrics=sfid: .*no spatial part.*inception"),
        ({"metrics": ["is"]}, "--metrics=is: .*without classes.*classifier"),
        ({"metrics": ["prdc"], "num_samples": 4}, "--metrics=prdc: .*more than k"),
        ({"metrics": ["fid"], "kid_subsets": 5}, "--kid_subsets=5 applies only to --metrics=kid"),
        (
            {"metrics": ["memorisation"]},
            "--extractor=pixels applies only to fid, .*has none of them",
        ),
        ({"repeats": 0}, "--repeats=0: need at least 1"),
        ({"step": "worst"}, "step=worst: need the number of a checkpoint, or best"),
        ({"space": SpaceFlags(extractor="pixels", export_reference="a.txt")}, "need a file F.npz"),
    ],
)
def test_what_does_not_fit_is_one_line(run, options, words):
    with pytest.raises(UserError, match=words):
        measured(run, "bad", **({"metrics": ["fid"]} | options))
    assert not (run / "eval" / "bad.json").exists()


def test_features_that_another_program_exported_are_measured(run, tmp_path):
    rng = np.random.default_rng(0)
    sets = {"a": rng.normal(size=(400, 3)), "b": rng.normal(1.0, 1.0, (500, 3))}
    for name, rows in sets.items():
        np.savez(tmp_path / f"{name}.npz", features=rows.astype(np.float32))
    flags = [f"--workdir={run}", f"--sample_features={tmp_path}/a.npz", "--metrics=fid,kid"]
    given = f"--reference_features={tmp_path}/b.npz"
    done = tiny_runs.script("evaluate", *flags, given)
    assert done.returncode == 0, done.stderr
    report = read(run, "exported")
    assert abs(figure(report, "fid_infinity")["value"] - 3) < 0.7  # three means, 1 apart
    assert report["protocol"]["num_samples"] == 400
    assert report["protocol"]["reference"]["num"] == 500
    for wrong, words in (
        ([*flags, given, "--num_samples=5"], "--num_samples is not of exported features"),
        (flags, "--reference_features is missing"),
        ([*flags, given, "--metrics=spread"], "--metrics=spread is not of features"),
        ([*flags, "--reference_features=no.npz"], "--reference_features: no file no.npz"),
    ):
        done = tiny_runs.script("evaluate", *wrong)
        assert done.returncode == 2
        assert words in done.stderr, done.stderr


def test_too_few_samples_for_the_dimensions_are_told(run, capsys):
    measured(run, "rank", metrics=["fid"], num_samples=50)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "rank" in x]
    assert line.startswith("50 samples in 64 dimensions")
    assert "KID" in line


def test_the_other_split_is_called_by_its_name(run):
    space = SpaceFlags(extractor="pixels", reference="validation")
    report = measured(run, "split", metrics=["fid", "memorisation"], space=space)
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in evaluate.table(report).splitlines()
    ]
    shown = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert shown["training data"]["fid"]
    assert not shown["held-out data"]["fid"]
    assert shown["held-out data"]["memorisation"].startswith("1.000")
