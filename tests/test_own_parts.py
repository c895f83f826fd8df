"""Parts of one's own: named in a config, trained, resumed, loaded; and what is refused in a line.

The parts are those of tests/own_parts/my_parts.py, which docs/extending.md describes.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.commands.train import train
from ddpm_jax.config import own_code
from ddpm_jax.errors import UserError

FOLDER = Path(__file__).parent / "own_parts"
OWN = {
    "data": {"name": "my_parts:stripes", "options": {"width": 1}},
    "model": {"name": "my_parts:Network", "options": {"width": 8}, "num_classes": 2},
    "diffusion": {
        "schedule": "my_parts:schedule",
        "schedule_options": {"power": 3.0},
        "loss": "my_parts:huber",
        "loss_options": {"delta": 0.5},
    },
    "optim": {"name": "my_parts:optimizer", "options": {"momentum": 0.5}, "learning_rate": 0.1},
    "sample": {"sampler": "my_parts:sampler", "options": {"pull": 0.5}, "guidance_scale": 1.0},
    "train": {"num_steps": 4, "checkpoint_every": 2, "log_every": 1},
}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """As PYTHONPATH would; and forgotten afterwards, as another process would not know it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    sys.modules.pop("my_parts", None)


def own_config(**changes):
    groups = {group: OWN.get(group, {}) | changes.get(group, {}) for group in OWN | changes}
    return brief_config(**groups)


def handed_over(config):
    return experiment.imported_parts(config)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with parts of its own, finished; its workdir."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        workdir = tmp_path_factory.mktemp("own") / "run"
        assert train.train(own_config(), workdir) == 0
    return workdir


@pytest.mark.wide(6)
def test_it_resumes_to_the_same_bits(run, tmp_path):
    assert train.train(own_config(), tmp_path / "twice", until=2) == 75
    assert train.train(own_config(), tmp_path / "twice") == 0
    assert tiny_runs.final(tmp_path / "twice") == tiny_runs.final(run)


def test_names_options_and_sources_are_kept(run):
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["name"] == "my_parts:Network"
    assert config["model"]["options"] == {"width": 8}
    assert "channels" not in config["model"]  # of the built-in networks, which nothing reads here
    (attempt,) = json.loads((run / "manifest.json").read_text())["attempts"]
    source = hashlib.sha256((FOLDER / "my_parts.py").read_bytes()).hexdigest()
    parts = ("Network", "huber", "optimizer", "sampler", "schedule", "stripes")
    assert attempt["own_parts"] == {f"my_parts:{name}": source for name in parts}


def test_a_workdir_imports_nothing(run):
    with pytest.raises(UserError, match=r"--code=my_parts") as error:
        experiment.load(run)
    assert "\n" not in str(error.value)
    assert "my_parts" not in sys.modules


def test_a_planted_name_runs_nothing(run, tmp_path):
    """Whoever writes a config.json could name any module that is there to be imported."""
    import shutil

    workdir = Path(shutil.copytree(run, tmp_path / "run"))
    (tmp_path / "planted_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = json.loads((workdir / "config.json").read_text())
    config["diffusion"]["loss"] = "planted_module:loss"
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        own = own_code.from_modules(["my_parts"], ["my_parts:Network", "planted_module:loss"])
        assert list(own) == ["my_parts:Network"]
        with pytest.raises(UserError, match="planted_module:loss"):
            experiment.load(workdir, own=handed_over(own_config()))
    assert not (tmp_path / "ran").exists()


def test_it_samples_where_its_parts_are_handed_over(run):
    loaded = experiment.load(run, own=handed_over(own_config()))
    drawn = loaded.sample(4, seed=1)
    assert drawn.shape == (4, 8, 8, 1)
    np.testing.assert_array_equal(loaded.sample(4, seed=1, pull=0.5), drawn)
    assert (loaded.sample(4, seed=1, pull=0.0) == 128).all()  # nothing but zeros, in grey
    assert loaded.sample(2, sampler="ddim").shape == (2, 8, 8, 1)


def test_another_source_is_another_experiment(run, tmp_path, monkeypatch):
    import shutil

    workdir = Path(shutil.copytree(run, tmp_path / "run"))
    monkeypatch.setattr(own_code, "sources", lambda own: dict.fromkeys(own, "0" * 64))
    longer = own_config(train={"num_steps": 6})
    with pytest.raises(UserError, match=r"own_parts\.my_parts:Network: .* there.*--allow_drift="):
        train.train(longer, workdir)
    allowed = [f"own_parts.{name}" for name in handed_over(longer)]
    assert train.train(longer, workdir, allow_drift=allowed) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "no_such_module:Network"}}, "no module named no_such_module"),
        ({"model": {"name": "my_parts:Netwerk"}}, "has no Netwerk; did you mean Network?"),
        ({"model": {"options": {"widht": 3}}}, "widht=3: .*no such option.*did you mean width"),
        ({"model": {"options": {"width": 3.5}}}, r"width=3\.5: need int"),
        ({"model": {"options": {"num_classes": 3}}}, "given this by the rest of the config"),
        ({"model": {"name": "my_parts:no_network", "options": {}}}, "has no init"),
        (
            {"model": {"name": "my_parts:WrongShape", "options": {}}},
            r"output for images \[2, 8, 8, 1\] is \[2, 8, 8, 2\]; need \[2, 8, 8, 1\]",
        ),
        ({"diffusion": {"loss": "my_parts:loss_of_four", "loss_options": {}}}, "takes no eps"),
        (
            {"diffusion": {"loss": "my_parts:mean_loss", "loss_options": {}}},
            r"for a batch of 2 it returned shape \(\)",
        ),
        ({"diffusion": {"loss_options": {"delta": "much"}}}, "delta='much': need float"),
        (
            {"diffusion": {"schedule": "my_parts:no_schedule", "schedule_options": {}}},
            "returns a diffusion.schedules.Schedule",
        ),
        ({"diffusion": {"weighting": "my_parts:weighting"}}, "takes no weighting"),
        ({"sample": {"options": {"pul": 1.0}}}, "did you mean pull"),
        ({"optim": {"weight_decay": 0.1}}, "has no weight decay"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, said):
    config = own_config(**changes)
    with pytest.raises(UserError, match=said) as error:
        experiment.build(config, own=handed_over(config))
    assert "\n" not in str(error.value)
    assert re.search(r"config\.|my_parts|no_such_module", str(error.value))


def test_an_own_weighting_goes_with_a_loss_that_is_weighted():
    def loss(scale):
        options = {"weighting": "my_parts:weighting", "weighting_options": {"scale": scale}}
        own = {"loss": "simple", "loss_options": {}} | options
        config = own_config(diffusion=own)
        built = experiment.build(config, own=handed_over(config))
        import jax

        params = built.init_params(jax.random.key(0))
        batch = {
            name: np.zeros((2, *one.shape[1:]), one.dtype)
            for name, one in built.batch_shapes().items()
        }
        return built.objective(params, batch, jax.random.key(1), False, {}).loss

    np.testing.assert_allclose(loss(3.0), 3 * loss(1.0), rtol=1e-6)


def test_images_that_do_not_fit_are_refused():
    config = own_config(data={"name": "my_parts:big_stripes", "options": {}})
    built = experiment.build(config, own=handed_over(config))
    with pytest.raises(UserError, match=r"16|image"):
        built.source("train")
