"""Slices that several processes write are one state: its digests, its blocks, its refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import toy_training

from ddpm_jax.diffusion import schedules
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import digests, sharding
from ddpm_jax.training import shard_files, step_files
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.shard_files import Slice
from ddpm_jax.training.state import TrainState
from ddpm_jax.training.step_files import Damaged, Record, Unreadable


@pytest.fixture
def state(monkeypatch):
    """A state that is split over 8 devices wherever that goes; its key as data."""
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 8)
    start, _ = toy_training.setup(schedules.linear(num_steps=8))
    rng = np.random.default_rng(0)
    extra = {
        "columns": rng.normal(size=(3, 5, 16)).astype(np.float32),
        "half": jnp.asarray(rng.normal(size=(16, 3)), jnp.bfloat16),
        "flags": rng.random(24) > 0.5,
    }
    start = start._replace(extra=start.extra | extra, key=jax.random.key_data(start.key))
    return jax.device_put(start, sharding.state_sharding(sharding.make_mesh(1, 8), start))


def written(folder, state, processes=3):
    """The state's slices in files of three processes; {file: sum}."""
    slices = [*shard_files.own(state, 0).items()]
    return dict(shard_files.write(folder, k, dict(slices[k::processes])) for k in range(processes))


def leaves(state):
    """{path: numpy leaf}."""
    flat = jax.tree_util.tree_flatten_with_path(jax.device_get(state))[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def test_a_leaf_has_the_digest_of_the_whole_whoever_wrote_it(state, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "PIECE", 64)  # so that leaves are read in many pieces
    written(tmp_path, state)
    found = shard_files.stored(tmp_path)
    whole = leaves(state)
    assert found.keys() == whole.keys()
    assert max(len(parts) for parts in found.values()) == 8
    for name, leaf in whole.items():
        assert shard_files.sum_of(found[name], leaf.shape) == digests.sum_of(leaf), name


def test_any_block_of_a_leaf_can_be_read(state, tmp_path):
    written(tmp_path, state)
    found, whole = shard_files.stored(tmp_path), leaves(state)
    rng = np.random.default_rng(1)
    for name in (".extra['columns']", ".extra['half']", ".step"):
        leaf = whole[name]
        for _ in range(10):
            start = [int(rng.integers(size)) for size in leaf.shape]
            shape = [
                int(rng.integers(1, size - a + 1))
                for a, size in zip(start, leaf.shape, strict=True)
            ]
            index = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
            np.testing.assert_array_equal(
                shard_files.read(found[name], start, shape), leaf[index], strict=True
            )


def test_the_files_are_safetensors(state, tmp_path):
    written(tmp_path, state, processes=1)
    tensors = safetensors.numpy.load_file(tmp_path / "shards/0.safetensors")
    columns = [tensors[f".extra['columns']@0,0,{k}"] for k in range(0, 16, 2)]
    np.testing.assert_array_equal(np.concatenate(columns, -1), leaves(state)[".extra['columns']"])


def test_every_slice_has_one_writer_and_each_writes_about_as_much():
    class Device:
        def __init__(self, number):
            self.process_index = number // 2

    class Placed:
        """As 8 devices of 4 processes have a leaf: split over all of them, or copied."""

        def __init__(self, shape, split):
            self.shape, self.dtype, self.sharding = shape, np.dtype(np.float32), self
            self._split = split

        def devices_indices_map(self, shape):
            rows = shape[0] // 8
            return {
                Device(k): (slice(k * rows, (k + 1) * rows) if self._split else slice(None),)
                for k in range(8)
            }

    leaves = {"split": Placed((80,), True)} | {f"c{k}": Placed((10,), False) for k in range(8)}
    chosen = shard_files.owners(leaves)
    loads = [sum(p.shape[0] for p, who in chosen.items() if who == k) for k in range(4)]
    assert loads == [40] * 4  # 160 values, each once
    for part, who in chosen.items():
        if part.leaf == "['split']":
            assert who == part.start[0] // 20


def as_step(folder, state, processes=3):
    """A checkpoint of the state, as several processes write it."""
    files = written(folder, state, processes)
    sums = {name: digests.sum_of(leaf) for name, leaf in leaves(state).items()}
    step_files.write_record(folder, Record(int(folder.name), sums, files, None))


def test_one_process_reads_what_three_wrote(state, tmp_path):
    as_step(tmp_path / "checkpoints/5", state)
    keyed = state._replace(key=jax.random.wrap_key_data(state.key))
    with Checkpoints(tmp_path, read_only=True) as saved:
        restored = saved.restore(5, keyed)
        assert digests.digest(restored) == digests.digest(keyed)
        assert saved.records()[5].state_sha256 == digests.digests(keyed)["state_sha256"]
        params = saved.restore_params(5, "raw", state.params)
        assert digests.digest(params) == digests.digest(state.params)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(keyed), strict=True):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


def test_a_leaf_that_no_process_has_whole_is_placed_block_by_block(state, tmp_path):
    written(tmp_path, state)
    found = shard_files.stored(tmp_path)
    leaf = state.extra["columns"]
    placed = shard_files.placed(found[".extra['columns']"], leaf)
    assert placed.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
    np.testing.assert_array_equal(placed, leaf)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "added"])
def test_damage_is_named(state, tmp_path, damage):
    folder = tmp_path / "7"
    as_step(folder, state)
    path = folder / "shards/1.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 4
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "gone":
        path.unlink()
    else:
        path.with_name("3.safetensors").write_bytes(content)
    fields = TrainState(*state)._asdict()
    with pytest.raises(Damaged, match=r"shards/[13]\.safetensors"):
        step_files.read(folder, fields)


def test_slices_that_do_not_cover_a_leaf_are_no_damage_and_not_read(state, tmp_path):
    folder = tmp_path / "7"
    files = dict([shard_files.write(folder, 0, dict([*shard_files.own(state, 0).items()][1:]))])
    sums = {name: digests.sum_of(leaf) for name, leaf in leaves(state).items()}
    step_files.write_record(folder, Record(7, sums, files, None))
    with pytest.raises(Unreadable, match=r"slices of .* are missing|cannot be restored"):
        step_files.read(folder, state._asdict())


def test_what_is_not_finite_is_named_and_not_written(tmp_path):
    part = Slice(".params['w']", (0,), (3,))
    with pytest.raises(UserError, match=r"\.params\['w'\] is not finite"):
        shard_files.write(tmp_path, 0, {part: np.array([1.0, np.nan, 2.0], np.float32)})
    assert not list(tmp_path.rglob("*.safetensors"))
