"""Two runs that part at a known place: bisection names the step, the tensor and by how much."""

import io
import json
import shutil

import numpy as np
import pytest
import tiny_runs
from PIL import Image
from tiny_runs import brief_config

from ddpm_jax import experiment
from ddpm_jax.commands.sweep.bisect import bisect
from ddpm_jax.commands.sweep.bisect_table import table
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files
from ddpm_jax.data import Batches
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import attempt
from ddpm_jax.runtime import digests
from ddpm_jax.training import step_files
from ddpm_jax.training.checkpoints import Checkpoints

UNKNOWN = "f" * 64  # no state's digest


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The folder of twenty images that the runs are trained on, in batches of eight."""
    return tiny_runs.images_of_digits(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def config_for(images):
    """The config of the runs, changed: one group of fields, or the seed."""

    def config(seed=0, **changes):
        groups = {
            "data": {"name": "folder", "data_dir": str(images), "holdout": 0.0},
            "optim": {"name": "adamw", "warmup_steps": 0},
            "train": {"keep_checkpoints": 3},
        }
        for group, fields in changes.items():
            groups[group] = groups.get(group, {}) | fields
        changed = brief_config(**groups)
        changed.seed = seed
        return changed

    return config


@pytest.fixture(scope="module")
def straight(config_for, tmp_path_factory):
    """The workdir of a run of six steps."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    assert train.train(config_for(), workdir) == 0
    return workdir


@pytest.fixture
def other(straight, tmp_path):
    """The same run as if it had been killed after step 2, to go on in another way."""
    workdir = shutil.copytree(straight, tmp_path / "other")
    for step in (4, 6):
        shutil.rmtree(workdir / f"checkpoints/{step}")
    (workdir / "final.json").unlink()

    def killed(attempts):
        (entry,) = attempts
        (entry["checkpoints"], entry["final"]) = ({"2": entry["checkpoints"]["2"]}, None)

    edit(workdir, killed)
    return workdir


def bisected(a, b, **options):
    record = bisect(a, b, io.StringIO(), **options)
    json.dumps(record, allow_nan=False)
    assert str(a) in table(record)
    return record


def place(record):
    first = record["first"]
    return first["step"], first["stage"], first["tensor"]


def differing(record):
    """The stages that differ, in their order."""
    return [name for name, stage in record["stages"].items() if stage["differing"]]


def edit(workdir, change):
    path = workdir / "manifest.json"
    content = json.loads(path.read_text())
    change(content["attempts"])
    path.write_text(json.dumps(content))


def went_on(workdir, config, start=2):
    """Enter an attempt that went on from a step with another config and came to other states."""

    def enter(attempts):
        plain = config_files.resolve(config).to_dict()
        plain["data"]["class_names"] = attempts[0]["config"]["data"]["class_names"]
        attempts.append(
            json.loads(json.dumps(attempts[0]))
            | {
                "config": plain,
                "config_sha256": config_files.sha256(plain),
                "seed": config.seed,
                "start": start,
                "checkpoints": {str(start + 2): UNKNOWN},
                "final": None,
            }
        )

    edit(workdir, enter)


def test_equal_runs_are_equal_and_nothing_is_replayed(straight, tmp_path):
    record = bisected(straight, shutil.copytree(straight, tmp_path / "copy"))
    assert record["verdict"] == "equal"
    assert record["checkpoints"] == {"equal": 6, "parts": None, "last": 6, "replayed_from": None}
    assert not any(record["differences"].values())
    assert "equal in every bit up to step 6" in table(record)


@pytest.mark.wide(3)
def test_another_learning_rate_shows_in_the_update_alone(straight, other, config_for):
    went_on(other, config_for(optim={"learning_rate": 2e-3}))
    record = bisected(straight, other)
    assert record["verdict"] == "differ"
    assert record["differences"]["config"] == ["optim.learning_rate: 0.001 in a, 0.002 in b"]
    assert record["checkpoints"] == {"equal": 2, "parts": 4, "last": 4, "replayed_from": 2}
    step, stage, _ = place(record)
    assert (step, stage) == (3, "update")
    assert differing(record) == ["update", "parameter", "moving average"]
    # Twice the step, so the difference is the step itself.
    assert record["first"]["b"] == pytest.approx(2 * record["first"]["a"], rel=1e-4)
    assert record["first"]["relative_l2"] == pytest.approx(1, rel=1e-4)
    # The digest that was entered for b is of no state.
    assert record["reproduced"] == {"a": True, "b": False}
    assert "first difference: step 3, update" in table(record)


@pytest.mark.wide(6)
@pytest.mark.parametrize(
    ("changes", "stage", "tensor"),
    [
        ({"seed": 1}, "batch", "x0"),
        ({"diffusion": {"time_draw": "stratified"}}, "draws", "t"),
        ({"diffusion": {"prediction": "v"}}, "loss", "per_example"),
    ],
)
def test_what_a_config_changes_first(straight, other, config_for, changes, stage, tensor):
    went_on(other, config_for(**changes))
    record = bisected(straight, other)
    assert place(record)[:2] == (3, stage)
    assert differing(record)[0] == stage
    assert record["first"]["tensor"] == tensor
    if stage == "batch":
        a, b = record["examples"]["a"], record["examples"]["b"]
        assert a != b
        assert set(a) | set(b) <= set(range(20))


def test_another_seed_from_the_start_is_another_first_parameter(straight, config_for, tmp_path):
    other = shutil.copytree(straight, tmp_path / "other")
    shutil.rmtree(other / "checkpoints")

    def reseed(attempts):
        config = attempts[0]["config"] | {"seed": 1}
        attempts[:] = [
            attempts[0]
            | {"config": config, "config_sha256": config_files.sha256(config), "seed": 1}
            | {"checkpoints": {"2": UNKNOWN}}
        ]

    edit(other, reseed)
    record = bisected(straight, other)
    assert place(record)[:2] == (0, "parameter")
    assert record["checkpoints"]["equal"] is None
    assert record["differences"]["config"] == ["seed: 0 in a, 1 in b"]


@pytest.mark.wide(3)
def test_one_pixel_of_one_image_is_found_in_the_step_that_reads_it(
    straight, other, images, config_for, tmp_path
):
    built = experiment.build(config_for())
    batches = attempt.training_batches(built, built.source("train"))
    read = [batches.example_ids(step) for step in range(4)]
    index = next(k for k in read[3] if k not in read[2])
    folder = shutil.copytree(images, tmp_path / "images")
    path = sorted(folder.rglob("*.png"))[index]
    pixels = np.array(Image.open(path))
    was, now = int(pixels[5, 2]), int(pixels[5, 2]) ^ 64
    pixels[5, 2] = now
    Image.fromarray(pixels).save(path)

    config = config_for(data={"data_dir": str(folder)})
    assert train.train(config, other, allow_drift=["data.fingerprint"]) == 0
    record = bisected(straight, other)
    assert place(record) == (4, "batch", "x0")
    first = record["first"]
    assert first["elements"] == 1
    assert first["index"] == [read[3].index(index), 5, 2, 0]
    assert first["max_abs"] == pytest.approx(2 * abs(now - was) / 255, rel=1e-6)
    assert record["examples"] == {"a": read[3], "b": read[3]}
    assert record["reproduced"] == {"a": True, "b": True}
    (line,) = record["differences"]["data"]
    assert line.startswith("data.train: ")
    assert "of the same places in the data, which hold something else" in table(record)


@pytest.mark.wide(3)
def test_what_the_configs_do_not_hold_is_not_replayed(straight, other, config_for, monkeypatch):
    batch_at = Batches.batch_at

    def spiked(self, step):
        batch = batch_at(self, step)
        return batch | {"x0": 50 * batch["x0"]} if step == 3 else batch

    monkeypatch.setattr(Batches, "batch_at", spiked)
    assert train.train(config_for(), other) == 0
    monkeypatch.undo()

    def elsewhere(attempts):
        for entry in attempts:
            entry["versions"]["jax"] = "0.0.1"
            entry["git"]["commit"] = "e" * 40

    edit(other, elsewhere)
    record = bisected(straight, other)
    assert record["verdict"] == "replays agree"
    assert record["first"] is None
    assert record["checkpoints"] == {"equal": 2, "parts": 4, "last": 6, "replayed_from": 2}
    assert record["reproduced"] == {"a": True, "b": False}
    (package,), (code,) = record["differences"]["packages"], record["differences"]["code"]
    assert package.startswith("jax: ")
    assert package.endswith(", 0.0.1 in b")
    assert code.startswith("git.commit: ")
    assert [line.partition(": ")[0] for line in record["not_replayed"]] == ["b", "b"]
    assert record["on_disk"]["parameter"]["differing"] > 0
    text = table(record)
    assert "the replay reproduces a's checkpoint of step 4" in text
    assert "the replay does not reproduce b's checkpoint of step 4" in text


def test_a_bit_that_flipped_in_a_checkpoint_is_named(straight, other, config_for):
    with Checkpoints(other, read_only=True) as checkpoints:
        shapes = experiment.build(config_for()).state_shapes()
        host = digests.on_host(checkpoints.restore(2, shapes))
    leaf = host.params["out"]["kernel"]
    before = float(leaf.flat[3])
    leaf.view(np.uint32).flat[3] ^= 1 << 20
    shutil.rmtree(other / "checkpoints/2")
    step_files.write(other / "checkpoints/2", 2, host, None)
    went_on(other, config_for())

    record = bisected(straight, other)
    assert record["verdict"] == "replays agree"
    assert record["altered"] == {"a": [], "b": [2]}
    assert record["checkpoints"] == {"equal": None, "parts": 2, "last": 4, "replayed_from": 0}
    assert record["reproduced"] == {"a": True, "b": False}
    assert [name for name, one in record["on_disk"].items() if one["differing"]] == ["parameter"]
    flipped = record["on_disk"]["parameter"]["first"]
    assert flipped["tensor"] == "out/kernel"
    assert (flipped["elements"], flipped["a"]) == (1, before)
    assert flipped["b"] == float(leaf.flat[3])
    assert "b: the checkpoint of step 2 is not the one that its manifest has" in table(record)


@pytest.mark.wide(3)
def test_a_config_that_changed_on_the_way_changes_in_the_replay(straight, config_for, tmp_path):
    # Neither has the checkpoint of the step where it changed, only its digest.
    pair = [shutil.copytree(straight, tmp_path / name) for name in ("a", "b")]
    for workdir in pair:
        for step in (4, 6):
            shutil.rmtree(workdir / f"checkpoints/{step}")
    went_on(pair[1], config_for(optim={"weight_decay": 0.1}), start=4)
    record = bisected(*pair)
    assert record["checkpoints"] == {"equal": 4, "parts": 6, "last": 6, "replayed_from": 2}
    assert place(record)[:2] == (5, "update")
    assert differing(record) == ["update", "parameter", "moving average"]
    assert record["differences"]["config"] == ["optim.weight_decay: 0.0 in a, 0.1 in b"]


def drop_parts(attempts):
    attempts[0]["changed_in_python"] = {"objective": UNKNOWN}


def of_own_part(attempts):
    config = attempts[0]["config"]
    config["diffusion"]["loss"] = "my_parts:loss"
    attempts[0]["config_sha256"] = config_files.sha256(config)


def of_another_network(attempts):
    config = attempts[0]["config"]
    config["model"]["channels"] = 16
    attempts[0]["config_sha256"] = config_files.sha256(config)


def begun_elsewhere(attempts):
    attempts[0] |= {"start": 1, "checkpoints": {"2": UNKNOWN}}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda attempts: attempts[0].update(checkpoints={}), "no checkpoint of this run"),
        (lambda attempts: attempts.clear(), "no checkpoint of this run"),
        (lambda attempts: attempts[0].pop("versions"), "has no versions"),
        (drop_parts, "objective of this run came from Python"),
        (of_own_part, "--code=my_parts"),
        (of_another_network, r"two networks: parameter .* is float32\[.*8.*\] in a and float32"),
        (begun_elsewhere, "no common step"),
    ],
)
def test_what_cannot_be_bisected_is_refused_in_one_line(straight, other, change, named):
    shutil.rmtree(other / "checkpoints")
    edit(other, lambda attempts: attempts[0].update(checkpoints={"2": UNKNOWN}))
    edit(other, change)
    with pytest.raises(UserError, match=named) as error:
        bisected(straight, other)
    assert "\n" not in str(error.value)


def test_two_runs_are_needed(straight, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=f"--b={folder} holds no run"):
            bisected(straight, folder)
    with pytest.raises(UserError, match="name two runs"):
        bisected(straight, straight / ".")
