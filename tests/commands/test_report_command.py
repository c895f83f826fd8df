import json
import os
import platform
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_runs
from html_reader import Reader
from PIL import Image

from ddpm_jax import experiment
from ddpm_jax.commands.report import drawing, report
from ddpm_jax.data import evaluation_batches
from ddpm_jax.errors import UserError


@pytest.fixture(scope="module")
def written(finished_run, tmp_path_factory):
    """A report of the finished run, read; the run as the script found it and left it."""
    before = tiny_runs.snapshot(finished_run.workdir)
    out = tmp_path_factory.mktemp("report") / "new" / "a.html"
    done = tiny_runs.script("report", f"--workdir={finished_run.workdir}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report of 1 run(s) in {out}\n"
    assert tiny_runs.snapshot(finished_run.workdir) == before
    assert [path.name for path in out.parent.iterdir()] == ["a.html"]
    return Reader(out.read_text())


@pytest.fixture(scope="module")
def drawn(finished_run):
    """What its newest checkpoint draws."""
    return drawing.drawn(finished_run.workdir)


def without(finished_run, tmp_path, *names):
    """A copy of the finished run without some of what is in it."""
    workdir = tmp_path / "copy"
    ignored = shutil.ignore_patterns("checkpoints", *names)
    shutil.copytree(finished_run.workdir, workdir, ignore=ignored)
    return workdir


def plots(found):
    given = (json.loads(a["data-plot"]) for _, a in found if "data-plot" in a)
    return {(plot["x"], plot["series"][0]["name"], len(plot["series"])): plot for plot in given}


@pytest.mark.wide(3)
def test_it_shows_what_the_run_left(written, finished_run):
    lines = [line for line in tiny_runs.metrics(finished_run.workdir) if "loss" in line]
    told = " ".join(written.text.split())
    assert f"{lines[-1]['loss']:.3g}" in told
    assert "800 of 800" in told
    assert "--config.train.num_steps=800" in told
    assert f"jax {jax.__version__}, python {platform.python_version()}" in told
    assert "All 2 pictures." in told
    assert "has not been measured yet" in told
    # The raw curve lies behind the smoothed one, a point a line of metrics.jsonl.
    faint = [a for _, a in written.found if a.get("class") == "c0 faint"]
    assert faint
    first = next(a["d"] for t, a in written.found if t == "path" and a.get("class") == "line")
    assert first.count("L") == len(lines) - 1


def test_it_draws_with_the_checkpoint(written):
    assert "moving average of step 800" in " ".join(written.text.split())
    alts = [a["alt"] for t, a in written.found if t == "img"]
    assert len(alts) == 3
    assert any("rows of" in alt for alt in alts)
    # Five steps are six images on the way.
    assert any("of 6 pictures" in alt for alt in alts)


@pytest.mark.wide(6)
def test_the_film_ends_in_the_samples_of_the_run(finished_run, drawn):
    loaded = experiment.load(finished_run.workdir)
    np.testing.assert_array_equal(drawn.film[:, -1], loaded.sample(len(drawn.film)))
    assert drawn.step == 800


def test_the_loss_by_t_is_what_validation_measures_by_quarter(finished_run, drawn):
    losses = drawn.losses
    assert losses.num == drawing.EXAMPLES * drawing.ROUNDS
    np.testing.assert_allclose(losses.t, np.arange(1, 11) / 10, rtol=1e-6)  # T = 10
    # Other noise, other times, and the sums of the training loop.
    loaded = experiment.load(finished_run.workdir)
    step, key = loaded.experiment.validation_step(), jax.random.key(7)
    source, encode = loaded.experiment.source("validation"), loaded.experiment.codec.encode_batch
    batches = evaluation_batches(source, 8, 320, encode=encode)
    sums = [step(loaded.params, b, jax.random.fold_in(key, k)) for k, b in enumerate(batches)]
    sums = jax.device_get(sums)
    total, count = (
        np.sum([s[name] for s in sums], axis=0) for name in ("quarter_loss_sum", "quarter_count")
    )
    for quarter, among in enumerate((slice(0, 2), slice(2, 5), slice(5, 7), slice(7, 10))):
        mean, error = losses.mean[among], losses.standard_error[among]
        # Draws at one t, of which there were so many, deviate by so much; t itself is drawn too.
        deviation = error.mean() * np.sqrt(losses.num / 10) + mean.std()
        expected = np.hypot(deviation / np.sqrt(count[quarter]), np.sqrt((error**2).sum()))
        assert abs(mean.mean() - total[quarter] / count[quarter]) < 4 * expected


def test_the_schedule_is_the_papers(written):
    # Nichol & Dhariwal 2021, equation 17, at t of the nodes of T = 10.
    plot = next(p for p in plots(written.found).values() if p["series"][0]["name"] == "alpha")
    alpha, sigma = (np.array(one["y"]) for one in plot["series"])
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-5)
    t = np.array(plot["series"][0]["x"])
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    nodes = np.isclose(t * 10 % 1, 0) & (t < 0.95)
    assert nodes.sum() == 10
    np.testing.assert_allclose(alpha[nodes] ** 2, f[nodes], atol=1e-4)


def test_what_is_missing_is_said(finished_run, tmp_path):
    workdir = without(finished_run, tmp_path, "metrics.jsonl", "samples", "manifest.json")
    (workdir / "eval").mkdir()
    (workdir / "eval" / "old.json").write_text('{"samples": []}')
    text = " ".join(Reader(report.report([str(workdir)]).read_text()).text.split())
    for told in (
        "There is no checkpoint that can be read",
        "There is no metrics.jsonl",
        "There is no manifest.json",
        "No samples were drawn",
        "old.json (another version wrote it",
    ):
        assert told in text, told


def test_damage_is_said_and_not_fatal(finished_run, tmp_path):
    workdir = without(finished_run, tmp_path)
    (workdir / "manifest.json").write_text("{")
    (workdir / "metrics.jsonl").write_bytes(b"\x00\n" * 3)
    for picture in (workdir / "samples").iterdir():
        picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    out = report.report([str(workdir)], draw=False)
    assert out == workdir / "report.html"
    text = " ".join(Reader(out.read_text()).text.split())
    assert "is not a manifest" in text
    assert "metrics.jsonl holds no figures yet" in text
    assert "step_000400.png cannot be shown" in text
    assert "as --nodraw asks for" in text


def test_a_config_of_any_size_is_no_obstacle(finished_run, tmp_path):
    workdir = without(finished_run, tmp_path)
    config = json.loads((workdir / "config.json").read_text())
    config["diffusion"]["num_steps"] = 10**15  # betas, of a discrete schedule
    config["more"] = {f"field_{k}": k for k in range(20_000)}
    (workdir / "config.json").write_text(json.dumps(config))
    out = report.report([str(workdir)], draw=False)
    text = " ".join(Reader(out.read_text()).text.split())
    assert "The schedule is not shown: diffusion.num_steps is 1000000000000000." in text
    assert "more are left out." in text
    assert out.stat().st_size < 1_000_000


def test_names_that_are_no_text_are_no_obstacle(finished_run, tmp_path):
    workdir = without(finished_run, tmp_path)
    name = os.fsencode(workdir / "samples") + b"/\xff\xfe<b>.png"
    shutil.copy(workdir / "samples" / "step_000400.png", name)
    out = report.report([str(workdir)], draw=False)
    assert "b" not in {
        tag for tag, a in Reader(out.read_text()).found if a.get("class") == "frames"
    }
    assert "<b>.png" not in out.read_text()


def test_runs_side_by_side(finished_run, tmp_path):
    workdir = without(finished_run, tmp_path)
    config = json.loads((workdir / "config.json").read_text())
    config["optim"]["learning_rate"] = 0.25
    (workdir / "config.json").write_text(json.dumps(config))
    given = [str(finished_run.workdir), str(workdir)]
    found = Reader(report.report(given, str(tmp_path / "b.html"), draw=False).read_text())
    assert "2 runs compared" in found.text
    marked = [a for t, a in found.found if t == "td" and "differs" in a.get("class", "")]
    assert len(marked) == 2
    assert any(a.get("type") == "range" for _, a in found.found)
    assert ("step", "run", 2) in plots(found.found)


def test_mistakes_are_one_line(finished_run, tmp_path):
    run = str(finished_run.workdir)
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "file").touch()
    wrong = [
        ([], {}, "--workdir is missing"),
        ([str(tmp_path / "none")], {}, "no such folder"),
        ([str(tmp_path)], {}, "no config.json"),
        ([run, str(tmp_path / "link")], {}, "is named twice"),
        ([run] * 9, {}, "too many"),
        ([run], {"out": str(tmp_path / "a.pdf")}, "need a file F.html"),
        ([run], {"out": ""}, "need a file F.html"),
        ([run], {"out": str(tmp_path / "file" / "a.html")}, "cannot write there"),
    ]
    for workdirs, options, told in wrong:
        with pytest.raises(UserError, match=told):
            report.report(workdirs, **options, draw=False)
    done = tiny_runs.script("report", f"--workdir={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --workdir=")
    assert done.stderr.count("\n") == 1


PEAK = """
import resource, sys
from ddpm_jax.commands.report import report
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report.report(sys.argv[1:2], sys.argv[2], draw=False)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.wide(3)
def test_a_long_run_takes_little_memory_and_makes_a_small_page(finished_run, tmp_path):
    workdir = without(finished_run, tmp_path, "samples")
    (workdir / "samples").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    Image.fromarray(noise).save(workdir / "noise.png")  # 270 kB, which nothing makes smaller
    for k in range(1, 1001):
        os.link(workdir / "noise.png", workdir / f"samples/step_{1000 * k:06d}.png")
        (workdir / f"checkpoints/{1000 * k}").mkdir(parents=True)
    with (workdir / "metrics.jsonl").open("w") as lines:
        lines.writelines(f'{{"step": {k}, "loss": {1 / k:.6g}}}\n' for k in range(1, 1_000_001))
    out = tmp_path / "a.html"
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(workdir), str(out)],
        cwd=tiny_runs.ROOT,
        env=tiny_runs.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 200, "MiB"  # 31 MiB of metrics, 270 MB of pictures
    assert out.stat().st_size < 10_000_000
    found = Reader(out.read_text())
    captions = [a["alt"].split()[-1] for t, a in found.found if t == "img"]
    assert len(captions) == 40
    assert (captions[0], captions[-1]) == ("1,000", "1,000,000")
    curve = next(p for p in plots(found.found).values() if p["x"] == "step")
    assert 400 <= len(curve["series"][0]["x"]) <= 800
