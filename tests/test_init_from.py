"""Training that starts from weights: of a file, of another run, in part; refused where unfit."""

import contextlib
import io
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
import tiny_runs
from tiny_runs import brief_config, tiny_config

from ddpm_jax import experiment
from ddpm_jax.build import replicas, starting_weights
from ddpm_jax.commands.checkpoint import checkpoint
from ddpm_jax.commands.reproduce import reproduce
from ddpm_jax.commands.train import dry_run, replay, train
from ddpm_jax.config import config_files
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import group
from ddpm_jax.measures import manifest
from ddpm_jax.runtime import digests, leaves
from ddpm_jax.training.checkpoints import Checkpoints
from ddpm_jax.training.state import init_state

STEP = 3
# A network that the source's weights fit but for the first and the last layer.
OTHER_PATCHES = {"model": {"patch_size": 2}}


def weighted(seed, shapes):
    """A tree of random numbers, other than what any network begins with."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(workdir, its average, its parameters) of a run that was saved at STEP. Not to be changed."""
    workdir = tmp_path_factory.mktemp("source") / "run"
    config = config_files.resolve(brief_config())
    state = experiment.build(config).init_state()
    average, params = (weighted(seed, state.params) for seed in (1, 2))
    with Checkpoints(workdir) as saved:
        saved.save(STEP, state._replace(params=params, ema={"default": average}))
        saved.wait()
    config_files.write(workdir, config)
    return workdir, average, params


def written(path, tree, dtype=np.float32, separator="/"):
    """The tree as F.safetensors, written as another program would; returns its name."""
    tensors = {
        name.replace("/", separator): np.asarray(leaf, dtype)
        for name, leaf in zip(leaves.names(tree), jax.tree.leaves(tree), strict=True)
    }
    safetensors.numpy.save_file(tensors, path)
    return str(path)


def begun(path, strict=True, **changes):
    """(the weights, the state at step 0, an experiment without them) of a run that begins so."""
    plain = experiment.build(brief_config(**changes))
    fields = {"train": {"init_from": str(path), "init_strict": strict}}
    run = experiment.build(config_files.override(plain.config, fields))
    weights = run.starting_weights()
    return weights, run.init_state(weights), plain


def read(path, like, strict=True):
    """The weights alone, for parameters like these."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), like)
    return starting_weights.read(str(path), shapes, strict=strict)


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_run_begins_with_the_average_of_another(source):
    workdir, average, _ = source
    weights, state, plain = begun(workdir)
    assert_equal(state.params, average)
    assert_equal(state.ema["default"], average)
    fresh = plain.init_state()
    assert_equal(state.opt_state, fresh.opt_state)
    assert state.step == 0
    assert_equal(jax.random.key_data(state.key), jax.random.key_data(fresh.key))
    with Checkpoints(workdir, read_only=True) as saved:
        digest = saved.records()[STEP].state_sha256
    assert weights.record == {
        "source": str(workdir),
        "sha256": digests.digest(average),
        "tensors": len(jax.tree.leaves(average)),
        "as_initialised": [],
        "unused": [],
        "step": STEP,
        "checkpoint": digest,
        "parameters": "ema",
    }


def test_a_run_that_keeps_no_average_gives_its_parameters(source, tmp_path):
    _, _, params = source
    state = init_state(lambda _: params, optax.identity(), 0, average=False)
    with Checkpoints(tmp_path) as saved:
        saved.save(STEP, state)
        saved.wait()
    weights = read(tmp_path, params)
    assert_equal(weights.params, params)
    assert weights.record["parameters"] == "raw"


@pytest.mark.parametrize(
    ("names", "taken"), [(["std:0.08"], "std:0.08"), (["std:0.08", "default"], "ema")]
)
def test_the_average_that_is_taken_is_the_first_or_the_only_one(source, tmp_path, names, taken):
    _, average, params = source
    others = dict.fromkeys(names, params)
    kept = others | {"default" if taken == "ema" else taken: average}
    with Checkpoints(tmp_path) as saved:
        saved.save(STEP, init_state(lambda _: {}, optax.identity(), 0)._replace(ema=kept))
        saved.wait()
    weights = read(tmp_path, params)
    assert_equal(weights.params, average)
    assert weights.record["parameters"] == taken


def test_an_exported_file_has_the_digest_that_is_told(source, tmp_path):
    workdir, average, _ = source
    out = tmp_path / "weights.safetensors"
    assert checkpoint.export(workdir, None, out, raw_params=False) == 0
    weights = read(out, average)
    assert_equal(weights.params, average)
    with safetensors.safe_open(out, "numpy") as file:
        assert weights.record["sha256"] == file.metadata()["sha256"]


@pytest.mark.parametrize(
    ("dtype", "separator"), [(np.float16, "."), (jnp.bfloat16, "/"), (np.float64, "/")]
)
def test_a_file_of_other_numbers_is_read_as_float32(source, tmp_path, dtype, separator):
    _, average, _ = source
    path = written(tmp_path / "weights.safetensors", average, dtype, separator)
    rounded = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), average)
    assert_equal(read(path, average).params, rounded)


def test_what_does_not_fit_begins_as_initialised_where_that_is_wanted(source, tmp_path):
    workdir, average, _ = source
    partial = {name: leaf for name, leaf in average.items() if name != "modulation_out"}
    path = written(tmp_path / "weights.safetensors", partial | {"more": {"x": np.ones(3)}})
    weights, state, plain = begun(path, strict=False, **OTHER_PATCHES)
    fresh = plain.init_state().params
    new = {"patch_embedding/kernel", "out/kernel", "out/bias"}
    missing = {"modulation_out/kernel", "modulation_out/bias"}
    for name in leaves.names(fresh):
        layer, _, leaf = name.partition("/")
        taken, own, given = (leaves_of(tree).get(name) for tree in (state.params, fresh, average))
        np.testing.assert_array_equal(taken, own if name in new | missing else given, layer + leaf)
    assert weights.record["as_initialised"] == sorted(new | missing)
    assert weights.record["unused"] == sorted({*new, "more/x"})
    said = "\n".join(weights.lines)
    assert "2 parameters" in said
    assert "modulation_out/bias, modulation_out/kernel" in said
    assert "1 tensors" in said
    assert ": more/x" in said
    assert "out/kernel (float32[8,16] there, float32[8,4] here)" in said
    # Of a run, too.
    unlabelled = {k: v for k, v in average.items() if k != "label_embedding"}
    new = {"new": {"bias": np.ones(3, np.float32)}}
    weights = read(workdir, unlabelled | new, strict=False)
    assert weights.record["unused"] == ["label_embedding/embedding"]
    assert_equal(weights.params, unlabelled | {"new": {"bias": None}})


def leaves_of(tree):
    return dict(zip(leaves.names(tree), jax.tree.leaves(tree), strict=True))


def test_weights_are_born_split_over_the_devices(source, tmp_path):
    wide = {"model": {"channels": 64}, "mesh": {"data": 1, "fsdp": 8}}
    shapes = experiment.build(brief_config(**wide)).state_shapes().params
    values = weighted(0, shapes)
    path = written(tmp_path / "weights.safetensors", values)
    weights, state, plain = begun(path, **wide)
    for tree in (weights.params, state.params, state.ema["default"]):
        assert_equal(tree, values)
        places = jax.tree.map(lambda leaf: leaf.sharding, tree)
        assert jax.tree.all(
            jax.tree.map(
                lambda at, shape: at.is_equivalent_to(shape.sharding, len(shape.shape)),
                places,
                shapes,
            )
        )
    kernel = state.params["block_0"]["mlp_0"]["kernel"]
    assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 8}
    del plain


def test_the_members_of_a_group_begin_with_the_same_weights(source):
    workdir, average, _ = source
    run = experiment.build(brief_config(train={"init_from": str(workdir)}))
    states = replicas.init_states(run, [0, 5])
    for state in states:
        assert_equal(state.params, average)
    assert not np.array_equal(*(jax.random.key_data(state.key) for state in states))


@pytest.mark.wide(6)
def test_a_classifier_begins_with_a_classifiers(tmp_path):
    plain = experiment.build(tiny_config(kind="classifier"))
    values = weighted(0, plain.state_shapes().params)
    path = written(tmp_path / "weights.safetensors", values)
    run = experiment.build(tiny_config(kind="classifier", train={"init_from": path}))
    assert_equal(run.starting_weights().params, values)


@pytest.fixture
def unfit(source, tmp_path):
    """{name: a file that is not to be had}."""
    _, average, _ = source
    made = {"none": tmp_path / "none.safetensors", "folder": tmp_path / "empty"}
    (tmp_path / "empty").mkdir()
    for name in ("weights.ckpt", "weights.bin", "weights.pt", "weights.npz"):
        made[name] = tmp_path / name
        made[name].write_bytes(b"PK\3\4")
    made["pickle"] = tmp_path / "pickle.safetensors"
    made["pickle"].write_bytes(b"PK\3\4" + bytes(100))
    made["half"] = tmp_path / "half.safetensors"
    whole = written(tmp_path / "whole.safetensors", average)
    made["half"].write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-1])
    bad = jax.tree.map(np.copy, average)
    bad["out"]["bias"][3] = np.nan
    made["nan"] = written(tmp_path / "nan.safetensors", bad)
    other = {"unet": {"conv_in": np.ones((3, 3))}}
    made["other"] = written(tmp_path / "other.safetensors", other)
    few = {name: leaf for name, leaf in average.items() if not name.startswith("block")}
    made["few"] = written(tmp_path / "few.safetensors", few | other)
    made["twice"] = tmp_path / "twice.safetensors"
    safetensors.numpy.save_file(
        {"a.b": np.ones(1, np.float32), "a/b": np.ones(1, np.float32)}, made["twice"]
    )
    made["whole"] = whole
    return made


@pytest.mark.parametrize(
    ("which", "named"),
    [
        ("none", "No such file or directory"),
        ("folder", "no checkpoint in"),
        ("weights.ckpt", "is a pickle, which can execute code.*safetensors.torch.save_file"),
        ("weights.bin", "is a pickle"),
        ("weights.pt", "is a pickle"),
        ("pickle", "is a pickle"),
        ("weights.npz", "need a file F.safetensors, or the workdir of a run"),
        ("half", "is not a whole safetensors file"),
        ("nan", "out/bias is not finite"),
        ("twice", "two of its tensors are named a/b"),
        ("few", r"14 without a tensor: block_0/attention_out/bias, .* and 11 more; 1 that this "
                r"network has not: unet/conv_in\); set config.train.init_strict=false"),
        ("other", r"none of its 1 tensors \(unet/conv_in\) is one of this network's 25"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_had_are_refused(unfit, source, which, named):
    with pytest.raises(
        UserError, match=rf"^config\.train\.init_from={unfit[which]}: .*{named}"
    ) as it:
        read(unfit[which], source[1], strict=which != "other")
    assert "\n" not in str(it.value)


def test_they_are_refused_before_data_are_read(unfit, tmp_path, monkeypatch):
    def source(*_):
        raise AssertionError("the data were read")

    monkeypatch.setattr(experiment.Experiment, "source", source)
    config = brief_config(**OTHER_PATCHES, train={"init_from": str(unfit["whole"])})
    before = tiny_runs.snapshot(tmp_path)
    for refuse in (
        lambda: train.train(config, tmp_path / "run"),
        lambda: group.train_group([config] * 2, [tmp_path / "a", tmp_path / "b"]),
        lambda: dry_run.dry_run(config),
    ):
        shapes = r"3 of another shape: out/bias \(float32\[16\] there, float32\[4\] here\)"
        with pytest.raises(UserError, match=shapes):
            refuse()
    assert tiny_runs.snapshot(tmp_path) == before


@pytest.fixture(scope="module")
def tuned(source, tmp_path_factory):
    """(workdir of a run of two steps, its file of weights, what it said)."""
    folder = tmp_path_factory.mktemp("tuned")
    path = written(folder / "weights.safetensors", source[1])
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert train.train(tuned_config(path), folder / "run", until=2) == 75
    return folder / "run", path, said.getvalue()


def tuned_config(path, **changes):
    return brief_config(train={"init_from": path, "num_steps": 4} | changes)


@pytest.mark.wide(3)
def test_a_run_tells_what_it_began_with_and_goes_on_without_it(source, tuned, tmp_path):
    workdir, path, said = tuned
    digest = digests.digest(source[1])
    assert f"begins with 25 tensors of {path}, sha256 {digest[:16]}" in said
    (entry,) = manifest.read(workdir / "manifest.json")
    assert entry["init_from"]["sha256"] == digest
    shutil.copytree(workdir, tmp_path / "resumed")
    straight = tmp_path / "straight"
    assert train.train(tuned_config(path), straight) == 0

    moved = shutil.move(path, tmp_path / "elsewhere")
    try:
        assert train.train(tuned_config(path), tmp_path / "resumed") == 0
    finally:
        shutil.move(moved, path)
    assert tiny_runs.final(tmp_path / "resumed") == tiny_runs.final(straight)
    began, resumed = manifest.read(tmp_path / "resumed" / "manifest.json")
    assert (began["start"], resumed["start"], resumed["init_from"]) == (0, 2, {})
    assert began["init_from"]["sha256"] == digest


@pytest.mark.wide(3)
def test_a_run_that_began_otherwise_is_another_one(source, tuned, tmp_path):
    workdir, path, _ = tuned
    before = tiny_runs.snapshot(workdir)
    for changes in ({"init_from": str(source[0])}, {"init_strict": False}):
        (field,) = changes
        with pytest.raises(UserError, match=rf"another experiment: train\.{field}: "):
            train.train(tuned_config(path, **changes), workdir)
    assert tiny_runs.snapshot(workdir) == before
    copied = shutil.copytree(workdir, tmp_path / "run")
    config = tuned_config("")
    assert train.train(config, copied, allow_drift=["train.init_from"], until=3) == 75


@pytest.mark.wide(3)
def test_a_run_is_repeated_only_from_the_same_weights(source, tuned, tmp_path):
    workdir, path, _ = tuned
    seen = replay.replay(tuned_config(path), workdir, 1)
    assert seen["step"] == 1
    whole = shutil.copy(path, tmp_path / "kept")
    written(path, source[2])
    try:
        for repeat in (
            lambda: replay.replay(tuned_config(path), workdir, 1),
            lambda: reproduce.reproduce(workdir / "manifest.json", tmp_path / "again"),
        ):
            with pytest.raises(UserError, match=r"began with other weights than .* put those back"):
                repeat()
    finally:
        shutil.copy(whole, path)
