"""Snapshots of power averages: whole or told, and to the same bytes."""

import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training

from ddpm_jax.diffusion import schedules
from ddpm_jax.errors import UserError
from ddpm_jax.training import ema, snapshots
from ddpm_jax.training.step_files import Damaged


@pytest.fixture(scope="module")
def state():
    averages = {"0.9": ema.constant(0.9), "std:0.05": ema.power(0.05), "std:0.1": ema.power(0.1)}
    state, train_step = toy_training.setup(schedules.linear(8), averages=averages)
    train_step = jax.jit(train_step)
    for k in range(3):
        batch = toy_training.batch(8, seed=k)
        state, _ = train_step(state, batch if k else batch | {"x0": batch["x0"] * np.nan})
    return state


def test_power_averages_come_back_with_the_updates_that_they_are_of(state, tmp_path):
    snapshots.save(tmp_path, 3, state)
    (found,) = snapshots.listed(tmp_path)
    assert (found.step, found.updates, found.averages) == (3, 2, ("std:0.05", "std:0.1"))
    read = snapshots.read(found, state.params)
    for name in found.averages:
        jax.tree.map(np.testing.assert_array_equal, read[name], state.ema[name])
    assert [path.name for path in (tmp_path / "averages").iterdir()] == ["3.safetensors"]


def test_the_same_averages_are_the_same_bytes_and_others_take_their_place(state, tmp_path):
    path = tmp_path / "averages" / "3.safetensors"
    snapshots.save(tmp_path, 3, state)
    first = path.read_bytes()
    snapshots.save(tmp_path, 3, state)
    assert path.read_bytes() == first
    moved = state.ema | {"std:0.1": jax.tree.map(lambda leaf: leaf + 1, state.ema["std:0.1"])}
    snapshots.save(tmp_path, 3, state._replace(ema=moved))
    assert path.read_bytes() != first


def test_averages_of_half_precision_are_kept_in_single(state, tmp_path):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state.ema["std:0.1"])
    snapshots.save(tmp_path, 3, state._replace(ema={"std:0.1": half}))
    (found,) = snapshots.listed(tmp_path)
    (tree,) = snapshots.read(found, half).values()
    for leaf, kept in zip(jax.tree.leaves(tree), jax.tree.leaves(half), strict=True):
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, kept.astype(jnp.float32))


@pytest.mark.parametrize("place", [0, 9, 400, -1])
def test_a_flipped_bit_is_told(state, tmp_path, place):
    snapshots.save(tmp_path, 3, state)
    (before,) = snapshots.listed(tmp_path)
    content = bytearray(before.path.read_bytes())
    content[place] ^= 4
    before.path.write_bytes(content)
    said = []
    for found in snapshots.listed(tmp_path, said.append):
        with pytest.raises(Damaged, match="is damaged"):
            snapshots.read(found, state.params)
        said.append("damaged")
    assert len(said) == 1


@pytest.mark.parametrize(
    "changes",
    [{"step": 4}, {"step": "3"}, {"updates": -1}, {"averages": ["std:2"]}, {"averages": ["x"]},
     {"averages": 3}],
)  # fmt: skip
def test_a_header_that_cannot_be_is_left_out_with_a_line(state, tmp_path, changes):
    snapshots.save(tmp_path, 3, state)
    (found,) = snapshots.listed(tmp_path)
    content = found.path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    record = json.loads(header["__metadata__"]["snapshot"])
    header["__metadata__"]["snapshot"] = json.dumps(record | changes)
    text = json.dumps(header).encode()
    found.path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    said = []
    assert snapshots.listed(tmp_path, said.append) == []
    assert len(said) == 1
    assert "3.safetensors is damaged" in said[0]


def test_what_is_no_snapshot_is_not_looked_at(state, tmp_path):
    assert snapshots.listed(tmp_path) == []
    snapshots.save(tmp_path, 3, state)
    for name in (".4.safetensors.partial", "note.txt", "x.safetensors"):
        (tmp_path / "averages" / name).write_text("no snapshot")
    said = []
    assert [found.step for found in snapshots.listed(tmp_path, said.append)] == [3]
    assert not said


def test_a_snapshot_of_another_network_is_refused(state, tmp_path):
    snapshots.save(tmp_path, 3, state)
    (found,) = snapshots.listed(tmp_path)
    with pytest.raises(UserError, match="holds the averages of another network"):
        snapshots.read(found, state.params | {"scale": jnp.zeros(9)})


def test_later_snapshots_go_where_a_run_goes_on_from_an_earlier_step(state, tmp_path):
    assert snapshots.discard_after(tmp_path, 0) == []
    for step in (3, 6, 20):
        snapshots.save(tmp_path, step, state)
    assert snapshots.discard_after(tmp_path, 6) == [20]
    assert [found.step for found in snapshots.listed(tmp_path)] == [3, 6]
    assert snapshots.discard_after(tmp_path, 0) == [3, 6]


def test_a_disk_that_takes_a_part_keeps_nothing_and_what_was_there(state, tmp_path):
    snapshots.save(tmp_path, 3, state)
    before = (tmp_path / "averages" / "3.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        for step in (3, 6):
            with pytest.raises(OSError, match="too large"):
                snapshots.save(tmp_path, step, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "averages" / "3.safetensors").read_bytes() == before
    assert [path.name for path in (tmp_path / "averages").iterdir()] == ["3.safetensors"]


def test_a_folder_that_cannot_be_written_is_an_os_error(state, tmp_path):
    (tmp_path / "averages").write_text("a file")
    with pytest.raises(OSError, match="averages"):
        snapshots.save(tmp_path, 3, state)
