"""scripts/reproduce.py: a run repeated from its manifest, equal or not, and what differs."""

import json
import os
import shutil

import pytest
import tiny_runs
from tiny_runs import brief_config

from configs import default
from ddpm_jax.commands.reproduce import reproduce
from ddpm_jax.commands.train import train
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of the run that is repeated."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert train.train(brief_config(), workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def repeated(finished, tmp_path_factory):
    """Its repetition: workdir, result, exit code."""
    workdir = tmp_path_factory.mktemp("repeated") / "run"
    return workdir, *repeat(finished / "manifest.json", workdir)


def repeat(path, workdir, **options):
    return reproduce.reproduce(path, workdir, default.get_config(), **options)


@pytest.fixture
def changed(finished, tmp_path):
    """Writes the manifest with something changed in its attempts: the file."""

    def of(change):
        content = json.loads((finished / "manifest.json").read_text())
        change(content["attempts"])
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(content))
        return path

    return of


def again(repeated, tmp_path):
    """A copy of the repetition, so that nothing is left to train."""
    return shutil.copytree(repeated[0], tmp_path / "again")


@pytest.mark.wide(6)
def test_a_repetition_ends_in_the_same_bits(finished, repeated):
    workdir, result, code = repeated
    assert (code, result["equal"]) == (0, True)
    assert result["differences"] == []
    final = tiny_runs.final(finished)
    assert result["expected"] == result["got"] == final == tiny_runs.final(workdir)
    assert config_files.read(workdir) == config_files.read(finished)


def test_another_digest_is_different(changed, repeated, tmp_path, capsys):
    def other(attempts):
        attempts[0]["final"]["ema_sha256"] = "0" * 64

    result, code = repeat(changed(other), again(repeated, tmp_path))
    assert (code, result["equal"]) == (1, False)
    assert result["expected"]["ema_sha256"] == "0" * 64
    assert result["got"]["ema_sha256"] == tiny_runs.final(repeated[0])["ema_sha256"]
    assert "step 6: params equal, ema different, state equal" in capsys.readouterr().err


def test_what_differs_around_it_is_listed_and_stops_nothing(changed, repeated, tmp_path, capsys):
    def elsewhere(attempts):
        entry = attempts[0]
        entry["versions"]["jax"] = "0.0.1"
        entry["versions"]["abacus"] = "2"
        entry["git"]["commit"] = "f" * 40
        entry["devices"]["kind"] = "quill"
        entry["jax"]["enable_x64"] = True
        entry["variables"]["XLA_FLAGS"] = "--xla_magic"
        entry["process_count"] = 2

    result, code = repeat(changed(elsewhere), again(repeated, tmp_path))
    assert (code, result["equal"]) == (0, True)
    here = json.loads((repeated[0] / "manifest.json").read_text())["attempts"][0]
    assert sorted(result["differences"]) == sorted(
        [
            f"jax: 0.0.1 there, {here['versions']['jax']} here",
            "abacus: 2 there, nothing here",
            f"git.commit: {'f' * 40} there, {here['git']['commit'] or 'nothing'} here",
            "devices.kind: quill there, cpu here",
            "jax.enable_x64: True there, False here",
            f"variables.XLA_FLAGS: --xla_magic there, {os.environ['XLA_FLAGS']} here",
            "process_count: 2 there, 1 here",
        ]
    )
    said = capsys.readouterr().err.splitlines()
    assert set(result["differences"]) <= set(said)


@pytest.mark.wide(3)
def test_what_never_finished_is_compared_at_its_newest_checkpoint(tmp_path):
    # Half of a cosine as long as the run that was meant, not as far as it came.
    config = brief_config(optim={"decay": "cosine", "warmup_steps": 2})
    assert train.train(config, tmp_path / "run", until=5) == 75
    path = tmp_path / "run" / "manifest.json"
    (entry,) = json.loads(path.read_text())["attempts"]
    assert (entry["reached"], set(entry["checkpoints"])) == (5, {"2", "4", "5"})
    result, code = repeat(path, tmp_path / "new")
    assert (code, result["equal"]) == (0, True)
    assert result["got"] == {"step": 5, "state_sha256": entry["checkpoints"]["5"]}
    assert config_files.read(tmp_path / "new").train.num_steps == 6
    assert not (tmp_path / "new" / "final.json").exists()
    # Once more in the same place: nothing is left to train.
    assert repeat(path, tmp_path / "new") == (result, 0)


@pytest.mark.wide(3)
def test_a_repetition_that_is_stopped_goes_on(finished, tmp_path, monkeypatch):
    # As a signal after the third step would.
    whole = train.train
    monkeypatch.setattr(train, "train", lambda *a, until, **k: whole(*a, until=3, **k))
    result, code = repeat(finished / "manifest.json", tmp_path / "new")
    assert (code, result["equal"], result["got"]) == (75, False, None)
    monkeypatch.undo()
    result, code = repeat(finished / "manifest.json", tmp_path / "new")
    assert (code, result["equal"]) == (0, True)
    starts = json.loads((tmp_path / "new" / "manifest.json").read_text())["attempts"]
    assert [entry["start"] for entry in starts] == [0, 3]


def second_attempt(attempts, **changes):
    """Another attempt that goes on from step 6, with another config."""
    entry = json.loads(json.dumps(attempts[0])) | {"start": 6}
    entry["final"]["step"] = entry["config"]["train"]["num_steps"] = 12
    for name, value in changes.items():
        group, field = name.split("__")
        entry["config"][group][field] = value
    attempts.append(entry)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda a: second_attempt(a, optim__learning_rate=0.5), "optim.learning_rate"),
        # Free on resuming, and still other bits.
        (lambda a: second_attempt(a, train__accumulate=2, model__remat="block"),
         "differ in model.remat, train.accumulate"),
        # A cosine of 6 steps and then one of 12.
        (lambda a: (a[0]["config"]["optim"].update(decay="cosine"), second_attempt(a)),
         "differ in train.num_steps"),
        (lambda a: (second_attempt(a), a[0]["data"].update(train="0")),
         "differ in data.fingerprint,"),
        (lambda a: a[0]["config"]["model"].update(chanels=3), "model.chanels"),
        (lambda a: a[0]["config"].update(extra={"a": 1}), "extra.a"),
        (lambda a: a[0]["config"]["model"].update(channels="many"), "model.channels"),
        (lambda a: a[0]["config"].update(seed={}), "seed"),
        (lambda a: a[0]["data"].update(train="0" * 64), "the data are not those"),
        (lambda a: a[0].update(final={"step": 6}), "final"),
        (lambda a: a[0].update(final=None, checkpoints={}), "nothing to compare"),
        (lambda a: a.clear(), "nothing to compare"),
        (lambda a: a[0].pop("versions"), "has no versions"),
    ],
)  # fmt: skip
def test_what_cannot_be_repeated_is_refused_before_anything_is_written(
    changed, tmp_path, change, named
):
    with pytest.raises(UserError, match=named):
        repeat(changed(change), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.wide(6)
def test_a_longer_run_of_a_constant_rate_is_one_run(finished, repeated, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    assert train.train(brief_config(train={"num_steps": 8}), run) == 0
    result, code = repeat(run / "manifest.json", tmp_path / "new")
    assert (code, result["equal"], result["expected"]["step"]) == (0, True, 8)


def test_a_field_that_is_newer_than_the_manifest_is_told(changed, repeated, tmp_path):
    path = changed(lambda a: a[0]["config"]["data"].pop("dequantise"))
    result, code = repeat(path, again(repeated, tmp_path))
    assert code == 0
    assert result["differences"] == [
        "config.data.dequantise: unknown there, False here",
        "config_sha256: the config was changed after the run took it down",
    ]


def test_only_a_new_workdir_or_its_own_is_taken(finished, repeated, tmp_path):
    path = finished / "manifest.json"
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    shutil.copytree(finished, tmp_path / "copy")
    for name in ("used", "file", "copy"):
        with pytest.raises(UserError, match="name another"):
            repeat(path, tmp_path / name)
    for own in (finished, repeated[0]):  # equal to itself, which says nothing
        with pytest.raises(UserError, match="name another"):
            repeat(own / "manifest.json", own)


@pytest.mark.wide(3)
def test_data_that_moved_are_named(tmp_path):
    images = tiny_runs.images_of_digits(tmp_path / "images")
    data = {"name": "folder", "data_dir": str(images), "holdout": 0.0}
    assert train.train(brief_config(data=data, train={"num_steps": 2}), tmp_path / "run") == 0
    path = tmp_path / "run" / "manifest.json"
    shutil.move(images, tmp_path / "moved")
    with pytest.raises(UserError, match="no such folder"):
        repeat(path, tmp_path / "new")
    result, code = repeat(path, tmp_path / "new", data_dir=str(tmp_path / "moved"))
    assert (code, result["equal"]) == (0, True)
    shutil.copy(tmp_path / "moved/0/0.png", tmp_path / "moved/0/other.png")
    with pytest.raises(UserError, match="--data_dir"):
        repeat(path, tmp_path / "other", data_dir=str(tmp_path / "moved"))


@pytest.mark.wide(3)
def test_the_commands_take_their_flags(finished, repeated, tmp_path):
    workdir = again(repeated, tmp_path)
    flags = [f"--manifest={finished / 'manifest.json'}", f"--workdir={workdir}"]
    done = tiny_runs.script("reproduce", *flags)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # and nothing else is printed there
    assert result["equal"] is True
    assert any(line.startswith("devices.count: ") for line in result["differences"])
    assert set(result["differences"]) <= set(done.stderr.splitlines())

    flags = tiny_runs.tiny_flags(
        workdir, tiny_runs.BRIEF, optim__learning_rate=0.01, optim__decay="cosine"
    )
    done = tiny_runs.script("train", *flags, "--allow_drift=optim.learning_rate")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "optim.decay: 'constant' (str) there, 'cosine' (str) here. Start" in done.stderr
