"""A data set of one's own with named conditions: trained, resumed, drawn from and measured.

The data set is the one that docs/extending.md shows, as it stands there.
"""

import hashlib
import importlib
import json
import re
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
import tiny_runs
from PIL import Image
from tiny_runs import brief_config, in_process

from ddpm_jax import experiment
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt

PAGE = tiny_runs.ROOT / "docs" / "extending.md"
EXAMPLE, CONFIG = (
    re.search(pattern, PAGE.read_text(), re.S | re.M).group(1)
    for pattern in (r"```python\n(# my_bars\.py\n.*?)```", r"```python\n(config\.data.*?)```")
)


def config_of_bars(**changes):
    config = brief_config(train={"checkpoint_every": 2, "num_steps": 4, "validate_every": 4})
    exec(CONFIG, {"config": config})
    config.optim.update(learning_rate=0.05, warmup_steps=0)
    for group, fields in changes.items():
        config[group].update(fields)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where my_bars.py lies; it can be imported as long as the module's tests run."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_bars.py").write_text(EXAMPLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder
    sys.modules.pop("my_bars", None)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("bars") / "run"
    assert train.train(config_of_bars(), workdir) == 0
    return workdir


@pytest.fixture
def own(folder):
    return {"my_bars:bars": importlib.import_module("my_bars").bars}


def test_batches_hold_what_the_examples_hold(own):
    built = experiment.build(config_of_bars(), own=own)
    source = built.source("train")
    batches = attempt.training_batches(built, source)
    batch, rows = batches.batch_at(3), batches.example_ids(3)
    np.testing.assert_array_equal(batch["shade"], [row % 3 for row in rows])
    np.testing.assert_array_equal(batch["bar"], [source[row]["bar"] for row in rows])
    for name, one in built.batch_shapes().items():
        assert (batch[name].shape, batch[name].dtype) == (one.shape, one.dtype), name


@pytest.mark.wide(3)
def test_a_run_resumes_to_the_same_bits(run, tmp_path):
    assert train.train(config_of_bars(), tmp_path / "twice", until=2) == 75
    assert train.train(config_of_bars(), tmp_path / "twice") == 0
    assert tiny_runs.final(tmp_path / "twice") == tiny_runs.final(run)


def test_the_record_is_kept_by_the_digest_of_its_source(run):
    (done,) = json.loads((run / "manifest.json").read_text())["attempts"]
    digest = hashlib.sha256(EXAMPLE.encode()).hexdigest()
    assert done["own_parts"] == {"my_bars:bars": digest}


def test_samples_follow_conditions_by_name_and_by_number(run, folder, own, tmp_path):
    loaded = experiment.load(run, own=own)
    bar = loaded.experiment.source("validation")[2]["bar"]
    by_name = loaded.sample(3, conditions={"shade": ["dark", "bright"], "bar": bar})
    by_number = loaded.sample(3, conditions={"shade": [0, 2, 0], "bar": bar})
    np.testing.assert_array_equal(by_name, by_number)
    for other in ({}, {"shade": ["dark", "bright"]}, {"shade": ["bright", "dark"], "bar": bar}):
        assert (by_name != loaded.sample(3, conditions=other)).any(axis=(1, 2, 3)).all()

    Image.fromarray(bar[..., 0].astype(np.uint8) * 255).save(tmp_path / "bar.png")
    out = tmp_path / "a.npz"
    done = in_process(
        "sample",
        f"--workdir={run}",
        "--code=my_bars",
        f"--code_path={folder}",
        "--num_samples=3",
        "--condition=shade=dark,bright",
        f"--condition=bar={tmp_path / 'bar.png'}",
        f"--out={out}",
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(out)["samples"], by_name)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("shad=dark", "condition shad: this model has no such condition; it has shade, bar; did"),
        ("shade=drak", "condition shade=drak: need one of dark, grey, bright; did you mean 'dark'"),
        ("shade=3", "condition shade=3: need one of dark, grey, bright"),
    ],
)
def test_an_unknown_name_is_one_line(run, folder, tmp_path, condition, said):
    words = [f"--workdir={run}", "--code=my_bars", f"--code_path={folder}", "--num_samples=2"]
    done = in_process("sample", *words, f"--condition={condition}", f"--out={tmp_path / 'a.npz'}")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_condition_that_the_data_do_not_state_is_refused(own):
    config = config_of_bars(model={"conditions": ("shade", "colour")})
    said = r"the data my_bars:bars know no 'colour'; they know shade, bar"
    with pytest.raises(UserError, match=said) as error:
        experiment.build(config, own=own)
    assert "\n" not in str(error.value)


def test_a_network_of_ones_own_is_given_them(own):
    shapes = {}

    class Network(nn.Module):
        out_channels: int
        attributes: tuple = ()

        @nn.compact
        def __call__(self, xt, time, conditions=None, train=False):
            assert self.attributes == (("shade", 3),)
            shapes.update(jax.tree.map(lambda array: array.shape, conditions))
            return nn.Dense(self.out_channels)(xt + conditions["bar"])

    parts = own | {"mine:Network": Network}
    built = experiment.build(config_of_bars(model={"name": "mine:Network"}), own=parts)
    built.state_shapes()
    assert {name: shape[1:] for name, shape in shapes.items()} == {"shade": (), "bar": (8, 8, 1)}
