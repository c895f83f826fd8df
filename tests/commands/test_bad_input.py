"""Every mistake of a user's ends in one line, exit code 2, and everything as it was."""

import shutil

import numpy as np
import pytest
import tiny_runs
from PIL import Image
from tiny_runs import tiny_config

from ddpm_jax.commands.sample import sample
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError


@pytest.mark.slow
def test_every_mistake_in_a_command_is_one_line_and_exit_code_2(
    finished_run, unconditional_run, tmp_path
):
    new = tmp_path / "new"
    config = "--config=configs/digits.py"
    good = tiny_runs.tiny_flags(new)
    trained, plain = f"--workdir={finished_run.workdir}", f"--workdir={unconditional_run.workdir}"
    out = f"--out={tmp_path / 'a.npz'}"
    cases = [
        (["train", config, "--config.optim.learning_rat=1"], ["learning_rat", "learning_rate?"]),
        (["train", config, "--noconfig.data.flop"], ["flop", "config.data.flip?"]),
        (["train", config, "--config.model=5"], ["--config.model=5"]),
        (["train", config, "--config.data.batch_size=many"], ["data.batch_size=many"]),
        (["train", config, "--config.data.batch_size=1.5"], ["data.batch_size=1.5"]),
        (["train", config, "--config.data.flip=maybe"], ["data.flip=maybe"]),
        (["train", config, "--workdri=x"], ["workdri", "workdir"]),
        (["train", config, "x"], ["'x'", "--name=value"]),
        (["train", config], ["--workdir is missing"]),
        (["train", f"--workdir={new}"], ["--config is missing"]),
        (["train", "--config=configs/none.py"], ["configs/none.py"]),
        (["train", *good, f"--workdir={finished_run.workdir}", "--config.seed=9"],
         ["another experiment", "seed: 0 (int) there, 9 (int) here", "--workdir=NEW"]),
        (["sample", plain, out, "--labels=1"], ["labels=1", "unconditional"]),
        (["sample", trained, out, "--num_steps=few"], ["num_steps=few"]),
        (["sample", trained, out, "--step=13"], ["no checkpoint of step 13", "700, 800"]),
        (["evaluate", plain, "--metrics=spread"], ["needs labels"]),
    ]  # fmt: skip
    before = tiny_runs.snapshot(finished_run.workdir), tiny_runs.snapshot(unconditional_run.workdir)
    for command, named in cases:
        done = tiny_runs.in_process(*command)
        assert done.returncode == 2, (command, done.stderr)
        assert done.stdout == "", command
        assert len(done.stderr.splitlines()) == 1, (command, done.stderr)
        assert done.stderr.startswith("error: "), command
        assert all(part in done.stderr for part in named), (command, done.stderr)
    # And so it is in a shell.
    command, _ = cases[0]
    fresh, forked = tiny_runs.fresh_script(*command), tiny_runs.script(*command)
    assert (fresh.returncode, fresh.stdout, fresh.stderr) == (2, "", forked.stderr)
    after = tiny_runs.snapshot(finished_run.workdir), tiny_runs.snapshot(unconditional_run.workdir)
    assert after == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data": {"batch_size": 12}, "mesh": {"data": 8}}, r"data\.batch_size=12.* 8 devices"),
        ({"mesh": {"data": 9}}, "9 x 1 devices, there are 8"),
        ({"model": {"channel_multipliers": (1,) * 5}}, "8x8 is not divisible by 16"),
        ({"data": {"image_size": (9, 8)}}, r"digits are 8x8.*\(9, 8\)"),
        ({"data": {"name": "digit"}}, "'digit'.*'digits'"),
        ({"data": {"name": "folder", "data_dir": "NONE"}}, r"no such folder: .*NONE"),
        (
            {"data": {"name": "folder", "data_dir": "EMPTY"}},
            "no PNG, JPEG or WebP .*EMPTY",
        ),
        ({"data": {"name": "folder", "data_dir": "THREE"}}, "num_classes=10.* 3 classes"),
        (
            {"data": {"name": "folder", "data_dir": "THREE"}, "model": {"num_classes": 2}},
            "num_classes=2.*go up to 2.*set it to 3",
        ),
        ({"model": {"num_classes": 7}}, "num_classes=7.*go up to 9: set it to 10"),
        ({"model": {"num_classes": 0}}, r"needs sample\.guidance_scale=1"),
        ({"diffusion": {"label_dropout": 0.0}}, "guidance needs a model trained with"),
        ({"model": {"name": "unnet"}}, r"model\.name='unnet': need one of unet, dit"),
        ({"train": {"validate_examples": 0}}, r"train\.validate_examples=0"),
        ({"train": {"num_steps": 0}}, r"train\.num_steps=0: need at least 1"),
        ({"optim": {"name": "muno"}}, r"optim\.name='muno'.*did you mean muon"),
        ({"optim": {"decay": "wsdd"}}, r"optim\.decay='wsdd'.*did you mean wsd"),
        ({"optim": {"frozen": ("conv_in",)}}, "'conv_in' fits no parameter.* conv_in/bias"),
        ({"train": {"init_from": "a.ckpt"}}, r"train\.init_from=.*a\.ckpt is a pickle"),
        ({"sample": {"eta": 1.5}}, r"config\.sample.*eta=1\.5"),
        ({"diffusion": {"variance": "large"}}, r"diffusion\.variance='large'.*fixed_small"),
        ({"sample": {"num_steps": 11}}, "num_steps <= T = 10"),
        ({"model": {"attention_resolutions": (4,)}}, r"attention_resolutions=\(4,\).* 8 pixels"),
        ({"diffusion": {"weighting": "inverse_variance"}}, "set prediction=posterior_mean"),
    ],
)
@pytest.mark.wide(4)
def test_a_run_that_cannot_be_leaves_no_workdir(tmp_path, changes, named):
    (tmp_path / "EMPTY").mkdir()
    for label in "abc":
        (tmp_path / "THREE" / label).mkdir(parents=True)
        for k in range(3):
            image = Image.fromarray(np.full((8, 8), 80 * k, np.uint8))
            image.save(tmp_path / "THREE" / label / f"{k}.png")
    changes = {group: dict(fields) for group, fields in changes.items()}
    if name := changes.get("data", {}).get("data_dir"):
        changes["data"]["data_dir"] = str(tmp_path / name)
    before = tiny_runs.snapshot(tmp_path)
    with pytest.raises(UserError, match=named):
        train.train(tiny_config(**changes), tmp_path / "run")
    assert tiny_runs.snapshot(tmp_path) == before


def test_a_workdir_of_another_experiment_is_refused_field_by_field(finished_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run.workdir, workdir)
    before = tiny_runs.snapshot(workdir)
    other = tiny_config(model={"channels": 16}, optim={"learning_rate": 2e-3},
                        train={"num_steps": 900}, sample={"num_steps": 4})  # fmt: skip
    with pytest.raises(UserError) as error:
        train.train(other, workdir)
    said = str(error.value)
    assert "model.channels: 8 (int) there, 16 (int) here" in said
    assert "optim.learning_rate: 0.001 (float) there, 0.002 (float) here" in said
    assert "--workdir=NEW" in said
    # How long to train and how to draw may change.
    assert "num_steps" not in said
    assert tiny_runs.snapshot(workdir) == before


@pytest.mark.parametrize("content", ["{", "[]", "3", "\x00"])
def test_a_damaged_config_is_named(finished_run, tmp_path, content):
    shutil.copytree(finished_run.workdir, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(content)
    before = tiny_runs.snapshot(tmp_path)
    with pytest.raises(UserError, match=r"config\.json is not a config.*; name another workdir"):
        train.train(tiny_config(), tmp_path / "run")
    assert tiny_runs.snapshot(tmp_path) == before


def test_checkpoints_of_nobody_knows_what_are_refused(finished_run, tmp_path):
    shutil.copytree(finished_run.workdir / "checkpoints", tmp_path / "checkpoints")
    before = tiny_runs.snapshot(tmp_path)
    with pytest.raises(UserError, match=r"checkpoints but no config\.json.*--workdir=NEW"):
        train.train(tiny_config(), tmp_path)
    assert tiny_runs.snapshot(tmp_path) == before


def test_data_that_went_away_leave_the_run_as_it_was(unconditional_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(unconditional_run.workdir, workdir)
    config = config_files.read(workdir)
    gone = {"data": {"data_dir": str(tmp_path / "gone")}, "train": {"num_steps": 8}}
    before = tiny_runs.snapshot(tmp_path)
    with pytest.raises(UserError, match=r"no such folder: .*gone"):
        train.train(config_files.override(config, gone), workdir)
    assert tiny_runs.snapshot(tmp_path) == before


def test_an_unwritable_workdir_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    before = tiny_runs.snapshot(tmp_path)
    for workdir in (tmp_path / "file", tmp_path / "file" / "run", "/proc/none"):
        with pytest.raises(UserError, match=f"--workdir={workdir}: cannot write there"):
            train.train(tiny_config(), workdir)
    assert tiny_runs.snapshot(tmp_path) == before


@pytest.mark.wide(3)
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"labels": ["10"]}, "label 10 is outside 0..9"),
        ({"labels": ["-1"]}, "label -1 is outside"),
        ({"labels": ["one"]}, "--labels=one"),
        ({"num_samples": 0}, "at least 1, got 0"),
        ({"step": 13}, "no checkpoint of step 13 in .*there are 700, 800"),
        ({"sampler": "ddimm"}, "'ddimm': need one of ancestral, ddim"),
        ({"num_steps": 11}, "num_steps <= T = 10"),
        ({"eta": 2.0}, r"config\.sample.*eta=2\.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"batch_size": 0}, r"sample\.batch_size=0"),
        ({"workdir": None}, "--workdir is missing"),
        ({"workdir": "NONE"}, "no checkpoint in .*NONE"),
        ({"workdir": "PLAIN", "labels": ["0"]}, "labels=0.*unconditional"),
        ({"workdir": "PLAIN", "guidance_scale": 2.0}, "guidance_scale=2.0.*unconditional"),
        ({"out": None}, "--out is missing"),
        ({"out": "a.jpg"}, r"a\.jpg: need a file F\.npz or F\.png, or a folder"),
        ({"out": "file/a.npz"}, "--out=.*file/a.npz: cannot write there"),
        ({"out": "file/images"}, "--out=.*file/images: cannot write there"),
        ({"out": "file"}, "--out=.*file: cannot write there"),
        ({"out": "folder.npz"}, r"folder\.npz is a folder"),
        ({"out": "/proc/a.npz"}, r"--out=/proc/a\.npz: cannot write there"),
    ],
)
def test_samples_that_cannot_be_leave_nothing(
    finished_run, unconditional_run, tmp_path, options, named
):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.npz").mkdir()
    options = {"workdir": "TRAINED", "out": "new/images", "num_samples": 4} | options
    places = {
        "TRAINED": finished_run.workdir,
        "PLAIN": unconditional_run.workdir,
        "NONE": tmp_path / "NONE",
        None: "",
    }
    workdir = str(places[options.pop("workdir")])
    if out := options.pop("out"):
        out = str(tmp_path / out)
    watched = (tmp_path, finished_run.workdir, unconditional_run.workdir)
    before = [tiny_runs.snapshot(folder) for folder in watched]
    with pytest.raises(UserError, match=named):
        sample.to_files(workdir, out, **options)
    assert [tiny_runs.snapshot(folder) for folder in watched] == before
