"""scripts/checkpoint.py: what there is, whether it is whole, and as a file for others."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import tiny_runs

from ddpm_jax import experiment
from ddpm_jax.commands.checkpoint import checkpoint
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.digests import digest

KEPT = {"validate_every": 4, "keep_checkpoints": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A brief run with checkpoints at 2, 4 and 6, of which 4 was validated. Not to be changed."""
    # Below a name that Orbax takes for a pattern.
    workdir = tmp_path_factory.mktemp("brief") / "[lab] exp" / "br[1]"
    assert train.train(tiny_runs.brief_config(train=KEPT), workdir) == 0
    return workdir


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy*[2]")


@pytest.mark.wide(6)
def test_the_list_shows_each_step_and_what_it_is(run, copy, capsys):
    assert checkpoint.show(run) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "state_sha256", "MB", "validation", "loss"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert list(rows) == ["2", "4", "6"]
    assert tiny_runs.final(run)["state_sha256"].startswith(rows["6"].split()[1])
    # The last step is validated too, whatever the period.
    losses = {step: float(rows[step].split()[3]) for step in ("4", "6")}
    assert rows["6"].split()[4].startswith("latest")
    assert "best" in rows[min(losses, key=losses.get)]
    assert len(rows["2"].split()) == 3

    (copy / "checkpoints" / "4" / "digests.json").write_text("{}")
    (copy / "checkpoints" / "2").rename(copy / "checkpoints" / "2.bad")
    checkpoint.show(copy)
    said = capsys.readouterr().out
    assert "damaged" in next(line for line in said.splitlines() if line.startswith("4 "))
    assert "set aside" in next(line for line in said.splitlines() if line.startswith("2.bad"))


def test_verify_names_what_is_damaged_and_changes_nothing(copy):
    path = next(path for path in (copy / "checkpoints" / "4" / "state").rglob("*.ocdbt"))
    path.write_bytes(path.read_bytes()[:-1])
    before = tiny_runs.snapshot(copy)
    done = tiny_runs.script("checkpoint", "verify", f"--workdir={copy}")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 2", "step 4", "step 6"]
    assert "DAMAGED" in lines[1]
    assert path.name in lines[1]
    assert lines[2] == f"step 6: whole, state_sha256 {tiny_runs.final(copy)['state_sha256']}"
    assert checkpoint.verify(copy, 6) == 0
    assert tiny_runs.snapshot(copy) == before


@pytest.mark.parametrize("raw", [False, True])
def test_an_export_is_what_is_sampled_with(run, tmp_path, raw):
    out = tmp_path / "w.safetensors"
    assert checkpoint.export(run, 4, out, raw) == 0
    tensors = safetensors.numpy.load_file(out)
    params = experiment.load(run, step=4, raw_params=raw).params
    flat = {
        "/".join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    assert tensors.keys() == flat.keys()
    assert all((tensors[name] == flat[name]).all() for name in flat)
    with safetensors.safe_open(out, "numpy") as file:
        metadata = file.metadata()
    assert (metadata["step"], metadata["parameters"]) == ("4", "raw" if raw else "ema")
    assert metadata["sha256"] == digest(params)
    assert json.loads(metadata["config"])["data"]["name"] == "digits"
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_mistakes_are_named(run, tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint in .*none"):
        checkpoint.show(tmp_path / "none")
    with pytest.raises(UserError, match=r"no checkpoint of step 5 .*there are 2, 4, 6"):
        checkpoint.verify(run, 5)
    with pytest.raises(UserError, match=r"name a \.safetensors file"):
        checkpoint.export(run, None, tmp_path / "w.pt", False)
    with pytest.raises(UserError, match=r"--out=.*cannot write it"):
        checkpoint.export(run, None, tmp_path / "no" / "w.safetensors", False)
    for flags, named in (
        ([], "one of list, verify, export, average; got nothing"),
        (["prove"], "got prove"),
        (["list"], "--workdir is missing"),
        (["list", "verify", f"--workdir={run}"], "unexpected argument 'verify'"),
        (["export", f"--workdir={run}"], "--out is missing"),
    ):
        done = tiny_runs.script("checkpoint", *flags)
        assert done.returncode == 2
        assert named in done.stderr
        assert len(done.stderr.splitlines()) == 1
