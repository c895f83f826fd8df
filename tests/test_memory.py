"""Memory by the config: split states, batches in parts, blocks computed again, and what is told."""

import json

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
import tiny_runs
from tiny_runs import brief_config, tiny_config

from configs import adm64
from ddpm_jax import experiment
from ddpm_jax.build import datasets
from ddpm_jax.commands.train import dry_run, train
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import drift
from ddpm_jax.runtime import sharding
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.dispatched import Dispatched

DIT_B2 = {
    "data": {"image_size": (32, 32), "channels": 3, "batch_size": 8},
    "model": {
        "name": "dit",
        "channels": 768,
        "num_blocks": 12,
        "num_heads": 12,
        "patch_size": 2,
        "num_classes": 1000,
    },
    "diffusion": {"variance": "fixed_small"},
}


@pytest.mark.parametrize("name", ["adm64", "dit_b2"])
@pytest.mark.wide(6)
def test_a_published_state_is_split_to_less_than_a_fifth(name):
    """Of the parameters, Adam's moments and the average, on 8 devices; an eighth is the least."""
    config = {
        "adm64": adm64.get_config,
        "dit_b2": lambda: config_files.override(brief_config(), DIT_B2),
    }[name]()
    config = config_files.override(config, {"mesh": {"data": 1, "fsdp": 8}})
    built = experiment.build(config)
    shapes = built.state_shapes()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    assert round(parameters / 1e6) == {"adm64": 296, "dit_b2": 130}[name]
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    assert whole == pytest.approx(4 * 4 * parameters, rel=1e-3)
    assert 0.125 <= sharding.bytes_on_device(shapes) / whole < 0.13


def test_a_leaf_is_split_along_whichever_dimension_divides():
    mesh = sharding.make_mesh(1, 8)
    leaves = {
        "first": (4096, 5, 7),
        "middle": (5, 4096, 7),
        "none": (129, 257),
        "scalar": (),
        "small": (8,),
    }
    shapes = {n: jax.ShapeDtypeStruct(s, np.float32) for n, s in leaves.items()}
    places = sharding.state_sharding(mesh, shapes)
    held = {n: places[n].shard_shape(s) for n, s in leaves.items()}
    assert held == leaves | {"first": (512, 5, 7), "middle": (5, 512, 7)}
    assert sharding.undivided(mesh, shapes) == {"none": 129 * 257 * 4}
    placed = jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, places
    )
    bytes_of = {n: 4 * int(np.prod(s)) for n, s in leaves.items()}
    on_device = bytes_of | {n: bytes_of[n] // 8 for n in ("first", "middle")}
    assert sharding.bytes_on_device(placed) == sum(on_device.values())
    assert sharding.bytes_on_device(shapes) == sum(bytes_of.values())


@pytest.mark.wide(5)
def test_a_state_is_born_split():
    """No device ever holds the whole of it: the program that draws it needs a part of its bytes."""
    model = {"name": "dit", "channels": 256, "num_blocks": 2, "num_heads": 4, "patch_size": 4}
    built = experiment.build(brief_config(model=model, mesh={"data": 1, "fsdp": 8}))
    program = jax.jit(built._init_state, out_shardings=built.state_sharding()).lower().compile()
    memory = program.memory_analysis()
    shapes = built.state_shapes()
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes.params))
    own = sharding.bytes_on_device(shapes)
    assert own < 0.2 * 4 * whole
    assert memory.output_size_in_bytes == pytest.approx(own, rel=0.01)
    assert memory.temp_size_in_bytes < 0.5 * whole


@pytest.mark.wide(5)
def test_a_dry_run_tells_what_is_split_and_what_is_kept():
    model = {"channels": 12}
    changes = {"mesh": {"data": 1, "fsdp": 8}, "data": {"batch_size": 32}}
    spare = brief_config(**changes, train={"accumulate": 4}, model=model | {"remat": "block"})
    told = dry_run.dry_run(spare)
    json.dumps(told)
    built = experiment.build(brief_config(**changes, model=model))
    shapes, split = built.state_shapes(), told["fsdp"]
    assert split["state_bytes_on_device"] == sharding.bytes_on_device(shapes)
    assert split["share"] == split["state_bytes_on_device"] / split["state_bytes_of_all"]
    # Ten digits and none of them, 12 channels: nothing that 8 divides. An MLP has 48 hidden ones.
    for place in ("params", "ema/default"):
        assert split["undivided"][f"{place}/label_embedding/embedding"] == 11 * 12 * 4
        assert not any(
            name.startswith(f"{place}/block_0/mlp_") and "kernel" in name
            for name in split["undivided"]
        )
    # Nothing is large enough to be split, anyway.
    told_bytes = split["too_small_bytes"] + sum(split["undivided"].values())
    assert told_bytes == split["state_bytes_of_all"]
    step = built.train_step().lower(shapes, built.batch_shapes())
    assert told["flop_per_step"] == pytest.approx(step.cost_analysis()["flops"], rel=0.5)
    plain = dry_run.residual_bytes(built, 1)
    assert plain > 4 * 0.6 * told["residual_bytes"]
    parts = brief_config(**changes, model=model, train={"accumulate": 2})
    assert dry_run.residual_bytes(experiment.build(parts), 1) == pytest.approx(plain / 2, rel=0.1)
    assert dry_run.residual_bytes(built, 16) == pytest.approx(2 * 8 * plain, rel=0.01)


def apart(params, others, first):
    """The relative L2 distance of the changes of parameters since the first ones."""
    one, other = (jax.tree.map(np.subtract, end, first) for end in (params, others))
    return optax.tree.norm(jax.tree.map(np.subtract, one, other)) / optax.tree.norm(one)


@pytest.mark.parametrize("mesh", [{"data": 1}, {"data": 2, "fsdp": 2}], ids=str)
@pytest.mark.parametrize("model", [{}, {"name": "dit", "num_heads": 2, "patch_size": 4}], ids=str)
@pytest.mark.wide(4)
def test_a_network_is_trained_in_parts_as_whole(model, mesh, monkeypatch):
    """On CPUs by the host; five steps of Adam."""
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 64)
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (5, 8, 8, 8, 1)).astype(np.float32)
    ends = []
    for count in (1, 2):
        config = tiny_config(model=model, mesh=mesh, optim={"decay": "constant"})
        built = experiment.build(config_files.override(config, {"train": {"accumulate": count}}))
        train_step = built.train_step()
        assert isinstance(train_step, Dispatched) == (count > 1)
        state = built.init_state()
        first = jax.device_get(state.params)
        for x0 in images:
            batch = {"x0": x0, "label": np.arange(8, dtype=np.int32)}
            placed = sharding.put_batch(batch, sharding.batch_sharding(built.mesh))
            state, metrics = train_step(state, placed)
        places = built.state_sharding().params
        assert jax.tree.map(lambda leaf: leaf.sharding, state.params) == places
        ends.append((*jax.device_get((state.params, metrics)), first))
    (params, metrics, first), (others, seen, _) = ends
    assert apart(params, others, first) < 1e-3
    np.testing.assert_allclose(seen["loss"], metrics["loss"], rtol=1e-4)
    np.testing.assert_array_equal(seen["quarter_count"], metrics["quarter_count"])


def params_of(workdir, step):
    built = experiment.build(config_files.read(workdir))
    with Checkpoints(workdir, read_only=True) as saved:
        return jax.device_get(saved.restore(step, built.state_shapes()).params)


@pytest.mark.wide(5)
def test_a_run_goes_on_with_other_parts_and_blocks(tmp_path):
    """They are free fields of a run: what it keeps in memory makes it no other experiment."""
    whole, other = tmp_path / "whole", tmp_path / "other"
    assert train.train(brief_config(), whole) == 0
    assert train.train(brief_config(train={"accumulate": 2}), other, until=4) == 75
    again = brief_config(train={"accumulate": 4}, model={"remat": "full"})
    assert train.train(again, other) == 0
    first = jax.device_get(experiment.build(brief_config()).init_state().params)
    assert apart(params_of(whole, 6), params_of(other, 6), first) < 1e-3
    # But bits are another's: a reproduction needs one of them.
    differing = config_files.differences(brief_config(), again)
    assert {name for name, *_ in differing} == {"train.accumulate", "model.remat"}
    assert {name for name, *_ in differing} <= set(drift.ROUNDING)
    assert drift.not_free(differing) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train": {"accumulate": 3}}, r"config\.train\.accumulate=3: .*batch_size=8 does not"),
        (
            {"train": {"accumulate": 4}, "mesh": {"data": 4}},
            r"config\.train\.accumulate=4: .* on each of 4 device",
        ),
        ({"train": {"accumulate": 0}}, r"config\.train\.accumulate=0: need at least 1"),
        ({"train": {"accumulate": 2, "replicas": 2}}, r"accumulate=2: 2 runs in one program take"),
        (
            {"mesh": {"strict": True, "data": 1}, "data": {"batch_size": 12}},
            r"config\.mesh\.strict_shards=8: config\.data\.batch_size=12 does not divide",
        ),
        (
            {"mesh": {"strict": True, "data": 8, "strict_shards": 4}},
            r"config\.mesh\.strict_shards=4: does not divide among the 8 devices",
        ),
        ({"mesh": {"strict": True, "strict_shards": 6}}, r"strict_shards=6: need a power of two"),
        ({"mesh": {"strict_shards": 0}}, r"config\.mesh\.strict_shards=0: need a power of two"),
        (
            {"mesh": {"strict": True, "data": 1}, "train": {"accumulate": 2}},
            r"config\.train\.accumulate=2: with config\.mesh\.strict a device sees its part",
        ),
        (
            {"mesh": {"strict": True, "data": 1}, "train": {"replicas": 2}},
            r"config\.mesh\.strict=True: 2 runs in one program have bits of their own",
        ),
        ({"mesh": {"data": -1, "fsdp": 3}}, r"config\.mesh: 8 devices do not divide by fsdp=3"),
        ({"model": {"remat": "blocks"}}, r"config\.model\.remat='blocks': .*none, block, full"),
    ],
)
def test_what_does_not_fit_is_refused_before_data_are_read(changes, named, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "source", lambda *args: pytest.fail("data were read"))
    config = brief_config(**changes)
    with pytest.raises(UserError, match=named) as told:
        train.train(config, tmp_path / "run")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train__accumulate": 3}, "train.accumulate=3"),
        ({"mesh__strict": True, "data__batch_size": 12}, "mesh.strict_shards=8"),
    ],
)
def test_a_command_refuses_in_one_line(changes, named, tmp_path):
    flags = tiny_runs.tiny_flags(tmp_path / "run", **changes)
    done = tiny_runs.in_process("train", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: config.{named}: ")
    assert len(done.stderr.splitlines()) == 1


class Plain(nn.Module):
    """A network of one's own that knows of no rematerialisation."""

    out_channels: int

    @nn.compact
    def __call__(self, xt, time, conditions=None, *, train=False):
        return nn.Dense(self.out_channels)(xt)


class Spare(Plain):
    """And one that does."""

    remat: str = "none"


def test_a_network_of_ones_own_has_remat_if_it_takes_it():
    def built(kind):
        model = {"name": f"test_memory:{kind.__name__}", "remat": "block", "num_classes": 0}
        config = brief_config(model=model, diffusion={"label_dropout": 0.0})
        config.sample.guidance_scale = 1.0
        return experiment.build(config, own={config.model.name: kind})

    assert built(Spare).model.remat == "block"
    with pytest.raises(UserError, match=r"config\.model\.remat=block: .*:Plain takes no argument"):
        built(Plain)
