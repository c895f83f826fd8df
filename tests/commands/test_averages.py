"""Averages that a run kept, and those that are made of its snapshots, where they are asked for."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors
import tiny_runs
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.commands.checkpoint import average, checkpoint
from ddpm_jax.commands.evaluate import compare, evaluate
from ddpm_jax.commands.sample import sample
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.digests import digest
from ddpm_jax.training import post_hoc
from ddpm_jax.training.checkpoints import Checkpoints

STEPS = 12
EMA = {
    "decay": 0.9,
    "warmup": False,
    "decays": (0.5, 0.9),
    "power_stds": (0.1, 0.2),
    "snapshots_every": 1,
}


def config(**changes):
    fields = {"num_steps": STEPS, "checkpoint_every": 1, "keep_checkpoints": STEPS}
    ema = EMA | changes.pop("ema", {})
    changes = {"train": fields, "optim": {"warmup_steps": 0}, "ema": ema} | changes
    return brief_config(**changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a checkpoint and a snapshot of each step. Not to be changed."""
    workdir = tmp_path_factory.mktemp("averages") / "run"
    assert train.train(config(), workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def path(run):
    """The parameters after each step, [{path: array}]."""
    like = experiment.load(run).params
    with Checkpoints(run, read_only=True) as saved:
        return [flat(saved.restore_params(k, "raw", like)) for k in range(1, STEPS + 1)]


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def flat(params):
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(p): np.asarray(leaf, np.float64) for p, leaf in leaves}


def accumulated(path, std):
    """The power average of parameters, by its weights on paper: cells of t^(gamma + 1)."""
    power = post_hoc.exponent(std) + 1
    weights = np.diff((np.arange(len(path) + 1) / len(path)) ** power)
    return {name: np.tensordot(weights, [p[name] for p in path], 1) for name in path[0]}


def assert_within(ours, theirs, path, share):
    """As near as a share of how far the parameters went on their way, leaf by leaf."""
    for name, leaf in ours.items():
        way = np.linalg.norm(np.ptp([p[name] for p in path], axis=0))
        assert np.linalg.norm(leaf - theirs[name]) <= share * way + 1e-6, name


@pytest.mark.parametrize("step", [STEPS, 8])
@pytest.mark.wide(2)
def test_an_average_that_was_kept_is_that_of_the_parameters(run, path, step):
    for std in EMA["power_stds"]:
        loaded = experiment.load(run, step=step, ema=f"std:{std}")
        assert (loaded.parameters, loaded.step, loaded.reconstruction) == (f"std:{std}", step, {})
        assert_within(flat(loaded.params), accumulated(path[:step], std), path, 1e-4)
    loaded = experiment.load(run, step=step, ema=0.5)
    halves = 0.5 ** np.arange(step, 0, -1)
    recent = {n: np.tensordot(halves, [p[n] for p in path[:step]], 1) for n in path[0]}
    start = flat(loaded.experiment.init_state().params)
    expected = {n: leaf + 0.5**step * start[n] for n, leaf in recent.items()}
    assert loaded.parameters == "0.5"
    assert_within(flat(loaded.params), expected, path, 1e-4)


@pytest.mark.parametrize("std", [0.12, 0.16])
@pytest.mark.wide(2)
def test_an_average_that_was_not_kept_is_made_of_the_snapshots(run, path, std):
    loaded = experiment.load(run, ema=f"std:{std}")
    assert loaded.parameters == f"std:{std}"
    made = loaded.reconstruction
    assert made["steps"] == [*range(1, STEPS + 1)]
    assert made["residual"] < 5e-3
    wanted = accumulated(path, std)
    assert_within(flat(loaded.params), wanted, path, 1e-3)
    kept = flat(experiment.load(run, ema="std:0.2").params)
    with pytest.raises(AssertionError):
        assert_within(kept, wanted, path, 1e-2)


def test_the_first_average_is_what_nothing_else_is_asked_for(run):
    first, again = experiment.load(run), experiment.load(run, ema="0.90")
    assert (first.parameters, again.parameters) == ("ema", "ema")
    assert digest(first.params) == digest(again.params)
    final = tiny_runs.final(run)
    assert set(final["averages_sha256"]) == {"0.5", "std:0.1", "std:0.2"}
    with Checkpoints(run, read_only=True) as saved:
        names = saved.verify(STEPS).averages
    assert sorted(names) == ["0.5", "default", "std:0.1", "std:0.2"]


def test_a_snapshot_is_enough_where_the_checkpoint_went(copy, path):
    shutil.rmtree(copy / "checkpoints" / "8")
    loaded = experiment.load(copy, step=8, ema="std:0.15")
    assert_within(flat(loaded.params), accumulated(path[:8], 0.15), path, 1e-3)
    with pytest.raises(UserError, match="no checkpoint of step 8"):
        experiment.load(copy, step=8, ema=0.5)
    with pytest.raises(UserError, match=r"no checkpoint or snapshot of step 13 .*1, 2, .* 12"):
        experiment.load(copy, step=13, ema="std:0.15")


def test_a_damaged_snapshot_is_told_and_left_out(copy, path, capsys):
    for step, place in ((9, -1), (3, 9)):
        file = copy / "averages" / f"{step}.safetensors"
        content = bytearray(file.read_bytes())
        content[place] ^= 1
        file.write_bytes(content)
    loaded = experiment.load(copy, ema="std:0.15")
    said = capsys.readouterr().err.splitlines()
    assert ["3.safetensors" in said[0], "9.safetensors" in said[1]] == [True, True]
    assert all("is damaged" in line and line.endswith("left out") for line in said[:2])
    assert "made of 10 snapshots" in said[2]
    assert loaded.reconstruction["steps"] == [1, 2, 4, 5, 6, 7, 8, 10, 11, 12]
    assert_within(flat(loaded.params), accumulated(path, 0.15), path, 2e-3)


@pytest.mark.wide(3)
def test_an_average_as_a_workdir_draws_and_measures_like_the_run(run, tmp_path, capsys):
    out = tmp_path / "wide"
    words = ("--std=0.15", f"--workdir={run}", f"--out={out}")
    done = tiny_runs.in_process("checkpoint", "average", *words)
    assert done.returncode == 0, done.stderr
    made, written = done.stderr.splitlines()
    assert made.startswith("ema=std:0.15: made of 12 snapshots up to step 12, relative residual 0.")
    assert written == f"step 12: std:0.15 in {out}"
    ours, theirs = experiment.load(out), experiment.load(run, ema="std:0.15")
    assert digest(ours.params) == digest(theirs.params)
    assert (ours.parameters, ours.step) == ("std:0.15", 12)
    content = json.loads((out / "average.json").read_text())
    assert content["reconstruction"] == theirs.reconstruction
    assert content["checkpoint"] == tiny_runs.final(run)["state_sha256"]
    assert checkpoint.verify(out, None) == 0
    for workdir, asked in ((out, {}), (run, {"ema": "std:0.15"})):
        picture = tmp_path / f"{workdir.name}.png"
        sample.to_files(str(workdir), str(picture), num_samples=3, **asked)
    assert (tmp_path / "wide.png").read_bytes() == (tmp_path / "run.png").read_bytes()
    # What was measured of another average is no figure of the same protocol.
    options = {"metrics": ["memorisation"], "num_samples": 2}
    evaluate.evaluate(str(out), **options)
    copied = shutil.copytree(run, tmp_path / "copy")
    evaluate.evaluate(str(copied), **options, ema="0.5")
    with pytest.raises(UserError, match=r"not measured alike: parameters: std:0\.15 and 0\.5;"):
        compare.compare(out / "eval" / "samples.json", copied / "eval" / "samples.json")
    capsys.readouterr()
    # It is no run.
    with pytest.raises(UserError, match=r"holds an average that checkpoint\.py made"):
        train.train(config(), out)
    for asked, named in (
        ({"raw_params": True}, r"raw_params: .*no raw parameters, but std:0\.15"),
        ({"ema": 0.9}, r"ema=0\.9: .*no such average; there is std:0\.15"),
        ({"ema": "std:0.1"}, r"ema=std:0\.1: .*nor power averages .*there is std:0\.15"),
    ):
        with pytest.raises(UserError, match=named):
            experiment.load(out, **asked)


def test_mistakes_are_named(run, tmp_path):
    few = shutil.copytree(run, tmp_path / "few")
    shutil.rmtree(few / "averages")
    out = tmp_path / "out"
    cases = [
        (run, "0.3", r"need a std above 0 and below 0\.2887, got 0\.3"),
        (run, "-0.1", "need a std above 0"),
        (run, "0.01", r"12 snapshots up to step 12 .* at most 5% .*nearest .* std:0\.0\d"),
        (few, "0.02", "what 1 snapshots up to step 12"),
        (tmp_path / "none", "0.15", "no checkpoint in .*none"),
    ]
    for workdir, std, named in cases:
        with pytest.raises(UserError, match=named):
            average.write(workdir, float(std), out)
        assert not out.exists()
    with pytest.raises(UserError, match=f"--out={few} is there already"):
        average.write(run, 0.15, few)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"--out=.*file/out: cannot write it"):
        average.write(run, 0.15, tmp_path / "file" / "out")
    for asked, named in (
        ({"ema": "wide"}, r"ema=wide: need a decay that the run kept, such as 0\.9, or std:0\.05"),
        ({"ema": "std:"}, "ema=std:: need a decay"),
        ({"ema": 0.7}, r"ema=0\.7: .*there is .*0\.5, .*0\.9, .*std:0\.1, std:0\.2, raw"),
        ({"ema": 0.5, "raw_params": True}, "raw parameters are no average"),
    ):
        with pytest.raises(UserError, match=named):
            experiment.load(run, **asked)
    for words, named in (
        (["average", f"--out={out}"], "--std is missing"),
        (["average", "--std=0.1"], "--out is missing"),
        (["list", "--std=0.1"], "--std applies only to average, not to list"),
        (["average", "--std=0.1", f"--out={out}", "--ema=0.5"], "--ema applies only to export"),
    ):
        done = tiny_runs.in_process("checkpoint", *words, f"--workdir={run}")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert named in done.stderr


@pytest.mark.parametrize(
    ("ema", "named"),
    [
        ({"decays": (0.9, 0.9)}, r"ema\.decays=\(0\.9, 0\.9\): .*each once"),
        ({"decays": (1.0,)}, r"ema\.decays=.*above 0 and below 1"),
        ({"decays": ("x",)}, r"ema\.decays="),
        ({"power_stds": (0.1, 0.3)}, r"ema\.power_stds=.*below 0\.2887"),
        ({"power_stds": (0.1, 0.1)}, r"ema\.power_stds=.*each once"),
        ({"power_stds": ()}, r"ema\.snapshots_every=1: .*set ema\.power_stds"),
        ({"snapshots_every": -1}, r"ema\.snapshots_every=-1: need at least 0"),
        ({"decay": None}, r"ema\.decay=None: need at least 0"),
    ],
)
def test_averages_that_cannot_be_are_refused(ema, named):
    with pytest.raises(UserError, match=named):
        experiment.build(config(ema=ema))


@pytest.mark.wide(3)
def test_a_dry_run_counts_the_averages_and_the_bytes_of_snapshots(tmp_path):
    words = tiny_runs.tiny_flags(tmp_path / "new", tiny_runs.BRIEF, ema__snapshots_every=2)
    flags = ["--config.ema.power_stds=0.05,0.1", "--config.ema.decays=(0.999,)", "--dry_run"]
    done = tiny_runs.in_process("train", *words, *flags)
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)
    # The parameters, four averages, Adam's two moments; three snapshots of two averages.
    kept, batch = 7 * 4 * cost["parameters"], 8 * (64 + 1) * 4
    assert cost["state_bytes"] == pytest.approx(kept + batch, rel=0.01)
    assert cost["snapshot_bytes"] == 3 * 2 * 4 * cost["parameters"]


def test_an_export_says_which_average_it_is(run, tmp_path):
    out = tmp_path / "w.safetensors"
    assert checkpoint.export(run, 4, out, False, ema="0.5") == 0
    with safetensors.safe_open(out, "numpy") as file:
        assert file.metadata()["parameters"] == "0.5"
