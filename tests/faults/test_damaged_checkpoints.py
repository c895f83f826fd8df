"""A checkpoint that is not what was written is never used, and never lost."""

import errno
import json
import os
import shutil

import damage
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training

from ddpm_jax.diffusion import schedules
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.digests import digest
from ddpm_jax.training import step_files
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.step_files import Damaged, Unreadable


@pytest.fixture(scope="module")
def states():
    """The states after 1, 2 and 3 steps, by step."""
    state, train_step = toy_training.setup(schedules.linear(num_steps=8))
    found = {}
    for step in (1, 2, 3):
        state, _ = train_step(state, toy_training.batch(8))
        found[step] = state
    return found


@pytest.fixture(scope="module")
def written(states, tmp_path_factory):
    """A workdir with these three steps. Not to be changed."""
    workdir = tmp_path_factory.mktemp("written")
    with Checkpoints(workdir) as saved:
        for step, state in states.items():
            saved.save(step, state)
            saved.wait()
    return workdir


@pytest.fixture
def workdir(written, tmp_path):
    """A copy of it."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


def newest(workdir, like):
    """What a run would go on from: (its step, its digest, what was said)."""
    said = []
    with Checkpoints(workdir) as saved:
        found = saved.restore_newest(like, said.append)
    return (found[1], digest(found[0]), said) if found else (None, None, said)


@pytest.mark.wide(6)
def test_every_flipped_bit_is_found(workdir):
    folder = workdir / "checkpoints" / "3"
    rng = np.random.default_rng(0)
    with Checkpoints(workdir, read_only=True) as saved:
        for _ in range(150):
            place = damage.random_flip(folder, rng)
            damage.flip(*place)
            with pytest.raises(Damaged, match="checkpoints/3"):
                saved.verify(3)
            damage.flip(*place)
        saved.verify(3)


@pytest.mark.parametrize(
    "how", ["empty", "half", "less one byte", "one byte more", "gone", "link", "pipe"]
)
def test_every_file_that_is_cut_or_gone_is_found(states, workdir, tmp_path_factory, how):
    folder = workdir / "checkpoints" / "3"
    aside = tmp_path_factory.mktemp("aside") / "file"
    for path in damage.files_of(folder):
        shutil.copyfile(path, aside)
        size = path.stat().st_size
        if how in ("gone", "link", "pipe"):
            path.unlink()
        else:
            sizes = {"empty": 0, "half": size // 2, "less one byte": size - 1}
            with path.open("r+b") as stream:
                stream.truncate(sizes.get(how, size + 1))
        if how == "link":
            path.symlink_to(aside)
        if how == "pipe":
            os.mkfifo(path)
        with Checkpoints(workdir, read_only=True) as saved, pytest.raises(Damaged):
            saved.restore(3, states[3])
        path.unlink(missing_ok=True)
        shutil.copyfile(aside, path)
    with Checkpoints(workdir, read_only=True) as saved:
        saved.verify(3)


def test_a_file_that_was_added_is_found(workdir):
    (workdir / "checkpoints" / "3" / "state" / "d" / "more").write_bytes(b"x")
    with (
        Checkpoints(workdir, read_only=True) as saved,
        pytest.raises(Damaged, match="state/d/more does not belong"),
    ):
        saved.verify(3)


def test_a_leaf_that_was_written_wrong_is_found_though_every_file_is_whole(states, tmp_path):
    wrong = states[3]._replace(step=states[3].step + 1)
    with Checkpoints(tmp_path) as saved:
        saved.save(3, states[3])
        saved.save(4, wrong)
    # The files of one step under the digests of another, with sums that agree.
    folder = tmp_path / "checkpoints" / "4"
    record = step_files.read_record(tmp_path / "checkpoints" / "3")
    (folder / step_files.RECORD).write_bytes(
        step_files._text(record._replace(step=4, files=step_files._sums(folder)))
    )
    with (
        Checkpoints(tmp_path, read_only=True) as saved,
        pytest.raises(Damaged, match=r"\.step has other values"),
    ):
        saved.restore(4, states[3])


def test_the_newest_whole_step_is_used_and_the_damaged_one_kept_aside(states, workdir):
    folder = workdir / "checkpoints" / "3"
    before = {p.name: p.read_bytes() for p in damage.files_of(folder / "state" / "d")}
    damage.flip(*damage.random_flip(folder / "state" / "d", np.random.default_rng(1)))
    step, found, said = newest(workdir, states[3])
    assert (step, found) == (2, digest(states[2]))
    assert len(said) == 1
    assert "checkpoints/3 is damaged" in said[0]
    assert said[0].endswith("set aside as 3.bad")
    assert {p.name for p in damage.files_of(workdir / "checkpoints" / "3.bad/state/d")} == set(
        before
    )
    # The name is free again, and a second misfortune has a name of its own.
    with Checkpoints(workdir) as saved:
        saved.save(3, states[3])
        saved.wait()
    (folder / step_files.RECORD).unlink()
    assert newest(workdir, states[3])[2][0].endswith("set aside as 3.bad-2")


def test_where_no_step_is_whole_nothing_starts_anew(states, workdir):
    for step in (1, 2, 3):
        (workdir / "checkpoints" / str(step) / "state" / "_METADATA").write_bytes(b"{}")
    for _ in range(2):  # nor at the second try
        with pytest.raises(UserError, match=r"no checkpoint .* is whole.*3\.bad.*--workdir=NEW"):
            newest(workdir, states[3])
    kept = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    assert kept == ["1.bad", "2.bad", "3.bad"]


def test_empty_and_foreign_folders_are_no_steps(states, workdir):
    for name in ("9", "notes", "7.tmp", "08", "-5", ".12.partial", "٣"):
        (workdir / "checkpoints" / name).mkdir()
    (workdir / "checkpoints" / "notes" / "file").write_text("mine")
    (workdir / "checkpoints" / "8").write_text("a file")
    (workdir / "checkpoints" / ".12.partial" / "digests.json").write_text("{}")
    (workdir / "checkpoints" / "08" / "digests.json").write_text("{}")
    with Checkpoints(workdir) as saved:
        assert saved.steps() == [1, 2, 3]
    assert newest(workdir, states[3]) == (3, digest(states[3]), [])
    assert (workdir / "checkpoints" / "notes" / "file").read_text() == "mine"
    assert not (workdir / "checkpoints" / ".12.partial").exists()


@pytest.mark.parametrize("seed", range(8))
def test_a_step_copied_halfway_is_passed_over(states, workdir, seed):
    rng = np.random.default_rng(seed)
    damage.copied_halfway(workdir / "checkpoints" / "3", workdir / "checkpoints" / "4", rng)
    step, found, said = newest(workdir, states[3])
    assert (step, found) == (3, digest(states[3]))
    assert len(said) == 1
    assert "checkpoints/4" in said[0]


def test_a_step_with_another_ones_name_is_no_such_step(states, workdir):
    shutil.copytree(workdir / "checkpoints" / "3", workdir / "checkpoints" / "30")
    step, _, said = newest(workdir, states[3])
    assert step == 3
    assert "is step 3" in said[0]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"record": {}}', b"\xff\xfe", b"[" * 100_000, b"null", b"1e9"],
)
def test_a_record_that_is_none_is_one_line(workdir, content):
    (workdir / "checkpoints" / "3" / "digests.json").write_bytes(content)
    with (
        Checkpoints(workdir, read_only=True) as saved,
        pytest.raises(Damaged, match=r"3/digests\.json is damaged") as caught,
    ):
        saved.verify(3)
    assert "\n" not in str(caught.value)


def test_a_record_whose_values_were_changed_is_found(workdir):
    path = workdir / "checkpoints" / "3" / "digests.json"
    content = json.loads(path.read_text())
    content["record"]["validation_loss"] = 0.0
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    with Checkpoints(workdir, read_only=True) as saved, pytest.raises(Damaged, match="own digest"):
        saved.verify(3)


def test_readers_pass_over_a_damaged_step_and_touch_nothing(states, workdir):
    damage.flip(workdir / "checkpoints" / "3" / "state" / "_METADATA", 5, 1)
    said = []
    with Checkpoints(workdir, read_only=True) as saved:
        assert saved.newest_whole(said.append) == 2
    assert len(said) == 1
    assert "checkpoints/3" in said[0]
    assert (workdir / "checkpoints" / "3").is_dir()


def test_a_state_that_is_not_finite_is_never_written(states, tmp_path):
    bad = states[3]._replace(ema={"default": {"w": jnp.array([1.0, jnp.nan])}})
    with Checkpoints(tmp_path) as saved:
        saved.save(1, states[1])
        saved.save(2, bad)
        with pytest.raises(UserError, match=r"\.ema\['default'\]\['w'\] is not finite"):
            saved.wait()
        saved.save(3, states[3])
        saved.wait()
        assert saved.steps() == [1, 3]


def test_the_best_step_is_kept_beside_the_latest(states, tmp_path):
    losses = {1: 0.5, 2: 0.2, 3: 0.9, 4: None, 5: float("nan"), 6: 0.3}
    with Checkpoints(tmp_path, keep=2) as saved:
        assert saved.best() is None
        for step, loss in losses.items():
            saved.save(step, states[1], loss)
        saved.wait()
        assert saved.steps() == [2, 5, 6]
        assert saved.best() == 2
        assert saved.records()[6].validation_loss == 0.3


def test_the_digest_of_a_step_is_that_of_its_state(states, written):
    with Checkpoints(written, read_only=True) as saved:
        assert {k: r.state_sha256 for k, r in saved.records().items()} == {
            step: digest(state) for step, state in states.items()
        }


ODD_NAMES = ("br[1]", "[lab] exp", "[[]", "a*b", "what?", "back\\slash", os.fsdecode(b"\xff"))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_checkpoint_is_whole_wherever_it_is_written(states, tmp_path, name):
    """Orbax takes a folder's name as a glob pattern, TensorStore no backslash and no bytes."""
    for folder in ("ab", "br1", "l exp", "["):  # what the patterns would match
        (tmp_path / folder).mkdir()
    workdir = tmp_path / name / "run"
    with Checkpoints(workdir) as saved:
        saved.save(1, states[1])
        saved.wait()
    with Checkpoints(workdir, read_only=True) as saved:
        assert saved.verify(1).files.keys() >= set(step_files.NEEDED)
    assert newest(workdir, states[1]) == (1, digest(states[1]), [])
    assert not list((tmp_path / "ab").iterdir())


def test_a_name_that_cannot_be_written_to_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(step_files, "DESCRIPTORS", tmp_path / "none")  # another system
    with pytest.raises(UserError, match=r"--workdir=.*br\[1\]/run: .*name another"):
        Checkpoints(tmp_path / "br[1]" / "run")
    Checkpoints(tmp_path / "plain")
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def without_manifest(folder):
    """As an earlier version wrote a step below a folder whose name is a pattern."""
    (folder / "state" / "manifest.ocdbt").unlink()
    record = step_files.read_record(folder)
    (folder / step_files.RECORD).write_bytes(
        step_files._text(record._replace(files=step_files._sums(folder)))
    )


def test_what_is_as_it_was_written_is_never_set_aside(states, workdir):
    folder = workdir / "checkpoints" / "3"
    without_manifest(folder)
    with (
        Checkpoints(workdir, read_only=True) as saved,
        pytest.raises(Unreadable, match=r"as it was written, but without state/manifest\.ocdbt"),
    ):
        saved.verify(3)
    with pytest.raises(UserError, match=r"nothing was changed; .*move the step's folder away"):
        newest(workdir, states[3])
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["1", "2", "3"]
    said = []
    with Checkpoints(workdir, read_only=True) as saved:
        assert saved.newest_whole(said.append) == 2
    assert len(said) == 1


@pytest.mark.parametrize("fault", [MemoryError(), RuntimeError("no thread"), ValueError("x")])
def test_a_restore_that_fails_leaves_a_whole_step_where_it_is(states, workdir, monkeypatch, fault):
    def failing():
        raise fault

    monkeypatch.setattr(step_files, "_orbax", failing)
    with pytest.raises(UserError, match="as it was written, and cannot be restored"):
        newest(workdir, states[3])
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["1", "2", "3"]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES])
def test_a_file_that_this_process_may_not_read_is_not_damaged(states, workdir, monkeypatch, code):
    def refused(path):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(step_files, "_open", refused)
    with pytest.raises(UserError, match=f"cannot be read .{os.strerror(code)}"):
        newest(workdir, states[3])
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["1", "2", "3"]


def test_the_first_save_of_a_run_is_restored_once(states, tmp_path, monkeypatch):
    write, restored = step_files.write_plain, []

    def incomplete(folder, host):
        write(folder, host)
        (folder / "manifest.ocdbt").unlink()

    proven = step_files.prove
    monkeypatch.setattr(step_files, "prove", lambda *args: restored.append(args) or proven(*args))
    with Checkpoints(tmp_path) as saved:
        with monkeypatch.context() as broken:
            broken.setattr(step_files, "write_plain", incomplete)
            saved.save(1, states[1])
            with pytest.raises(UserError, match=r"step 1 could not be saved .*manifest"):
                saved.wait()
        assert saved.steps() == []
        for step in (2, 3):
            saved.save(step, states[step])
            saved.wait()
        assert saved.steps() == [2, 3]
    assert [step for _, step, _ in restored] == [1, 2]
