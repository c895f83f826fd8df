"""What is measured of a run with a data set of one's own: `evaluate --code=mine`.

Its pixels take 4 values, a function reads its condition back from them, and it names an extractor.
"""

import json
import sys

import numpy as np
import pytest
import tiny_runs
from tiny_runs import brief_config, in_process

from ddpm_jax import experiment
from ddpm_jax.commands.train import train

SOURCE = """
import numpy as np

from ddpm_jax import data


class Frames:
    info = data.DataInfo((8, 8, 1), 0, 4, ())

    def __init__(self, first, num):
        self.first, self.num = first, num

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        image = np.full((8, 8, 1), index % 4, np.uint8)
        rng = np.random.default_rng(self.first + index)
        image[1:-1, 1:-1] = rng.integers(0, 4, (6, 6, 1))
        return {"image": image, "label": np.int32(-1), "edge": np.int32(index % 4)}


def build(split):
    return Frames(0, 60) if split == "train" else Frames(60, 20)


def describe(image):
    return {"edge": round(float(image[0].mean()) / 85)}


frames = data.dataset(
    build,
    info=data.Expected(4),
    conditions={"edge": ("black", "dark", "light", "white")},
    describe=describe,
    extractor="pixels",
)
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A run of a data set of one's own, the folder of its module, and the data set itself."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(SOURCE)
    config = brief_config(
        data={"name": "mine:frames"},
        model={"num_classes": 0, "conditions": ("edge",)},
        diffusion={"label_dropout": 0.0, "condition_dropout": (0.1,)},
        sample={"guidance_scale": 1.0},
        train={"num_steps": 4, "evaluate_every": 4, "evaluate_samples": 20}
        | {"evaluate_metric": "kid"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert train.train(config, folder / "run") == 0
        import mine

        yield folder, mine.frames
    sys.modules.pop("mine", None)


def measured(folder, *words):
    """What evaluate.py writes, by a command that has to be told where the module is."""
    done = in_process(
        "evaluate",
        f"--workdir={folder / 'run'}",
        "--code=mine",
        f"--code_path={folder}",
        "--name=mine",
        *words,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "run" / "eval" / "mine.json").read_text())


def kernel_distance(samples, reference):
    """The unbiased squared discrepancy under (x.y / D + 1)^3, of pixels from 0 to 1."""
    x, y = (one.reshape(len(one), -1) / 255 for one in (samples, reference))
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3  # noqa: E731
    within = [
        (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))
    ]
    return sum(within) - 2 * kernel(x, y).mean()


def images(source):
    return np.stack([source[k]["image"] for k in range(len(source))]) * np.uint8(85)


@pytest.mark.parametrize("words", [["--extractor=pixels"], []], ids=["named", "the data set's"])
def test_the_distance_of_samples_is_of_its_pixels(mine, words):
    folder, frames = mine
    report = measured(folder, "--metrics=kid", "--num_samples=20", *words)
    assert report["protocol"]["extractor"]["name"] == "pixels"
    drawn = experiment.load(folder / "run", own={"mine:frames": frames}).sample(20)
    expected = kernel_distance(drawn, images(frames.build("train")))
    assert report["samples"][0]["metrics"]["kid"]["value"] == pytest.approx(expected, rel=1e-4)


def test_it_was_measured_while_it_was_trained(mine):
    folder, _ = mine
    (value,) = (
        m["evaluation_kid"] for m in tiny_runs.metrics(folder / "run") if "evaluation_kid" in m
    )
    assert np.isfinite(value)


def test_what_it_reads_back_is_compared_with_what_was_asked_for(mine):
    folder, frames = mine
    report = measured(folder, "--num_samples=20")  # by default, as its record has `describe`
    assert report["held_out_data"]["metrics"]["attributes"]["value"] == 1
    wanted = [k % 4 for k in range(20)]
    loaded = experiment.load(folder / "run", own={"mine:frames": frames})
    drawn = loaded.sample(20, conditions={"edge": wanted})
    shown = [frames.describe(image)["edge"] for image in drawn]
    share = np.mean(np.equal(shown, wanted))
    assert report["samples"][0]["metrics"]["attributes"]["value"] == pytest.approx(share)


@pytest.mark.wide(3)
def test_bits_are_of_as_many_values_as_its_pixels_take(mine):
    folder, _ = mine
    report = measured(folder, "--metrics=bpd")
    bits = report["likelihood"]
    assert (bits["levels"], bits["num_examples"]) == (4, 20)
    assert bits["figures"]["discrete_vlb"]["mean"] > 0


def test_without_its_code_it_is_one_line(mine):
    folder, _ = mine
    done = in_process("evaluate", f"--workdir={folder / 'run'}")
    assert done.returncode == 2
    assert "config.data.name=mine:frames" in done.stderr
    assert "--code=mine" in done.stderr
    assert len(done.stderr.splitlines()) == 1
