import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from tiny_runs import tiny_config

from ddpm_jax import config as configs
from ddpm_jax import experiment
from ddpm_jax.errors import UserError
from ddpm_jax.training import sharding
from ddpm_jax.training.state import digest

CONFIGS = sorted(path.stem for path in (tiny_runs.ROOT / "configs").glob("*.py"))
# Ho et al. (2020), section 4: 35.7 and 114 million; the exact numbers are of their code.
PUBLISHED = {"cifar10": 35_746_307, "celebahq256": 113_673_219, "lsun256": 113_673_219}


def get_config(name):
    module = __import__(f"configs.{name}", fromlist=["get_config"])
    return module.get_config()


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "default"])
def test_every_config_builds_and_has_the_published_size(name):
    config = get_config(name)
    config.mesh.data = 1
    built = experiment.build(config)
    params = jax.eval_shape(built.init_params, jax.random.key(0))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert size == PUBLISHED.get(name, size)
    assert size > 100_000


def test_the_defaults_alone_miss_only_their_data():
    config = get_config("default")
    built = experiment.build(config)
    with pytest.raises(UserError, match="digits are 8x8"):
        built.source("train")


def nonsense():
    """Each field of the tiny config with values that it cannot have."""
    bad = {
        str: ["bogus"],
        int: [-1],
        float: [float("nan"), float("inf"), -1.0],
        tuple: [(0,), (-1,)],
        bool: [],
    }
    for group in ("model", "diffusion", "optim", "ema", "train", "sample"):
        for name, value in tiny_config()[group].items():
            for other in bad[type(value)]:
                if (name, other) != ("guidance_scale", -1.0):  # away from the label: a choice
                    yield group, name, other


@pytest.mark.parametrize(("group", "name", "value"), list(nonsense()))
def test_nonsense_in_any_field_is_refused_by_name(group, name, value):
    with pytest.raises(UserError, match=f"config.{group}"):
        experiment.build(tiny_config(**{group: {name: value}}))


def test_the_first_objectives_weights_are_those_of_the_config():
    # The same network, draws and targets: the losses differ by 1 / (2 sigma²) of the step alone.
    def losses_of(**diffusion):
        config = tiny_config(diffusion={"prediction": "posterior_mean", **diffusion})
        built = experiment.build(config)
        shapes = built.state_shapes().params
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
        batch = {"image": jnp.full((16, 8, 8, 1), 0.5), "label": jnp.zeros(16, jnp.int32)}
        outcome = jax.jit(built.objective, static_argnums=3)(
            params, batch, jax.random.key(1), False, {}
        )
        return np.asarray(outcome.loss), np.round(np.asarray(outcome.t) * 10).astype(int)

    # Nichol & Dhariwal's cosine over ten steps.
    f = np.cos((np.arange(11) / 10 + 0.008) / 1.008 * np.pi / 2) ** 2
    beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
    alpha_bar = np.concatenate([[1], np.cumprod(1 - beta)])
    beta_tilde = (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]) * beta
    beta_tilde[0] = beta_tilde[1]
    plain, i = losses_of(weighting="none")
    assert set(i) > {1, 2}
    for variance, sigma2 in {"fixed_large": beta, "fixed_small": beta_tilde}.items():
        weighted, again = losses_of(weighting="inverse_variance", variance=variance)
        np.testing.assert_array_equal(again, i)
        np.testing.assert_allclose(weighted / plain, 0.5 / sigma2[i - 1], rtol=1e-4)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_has_32_bits(seed):
    config = tiny_config()
    config.seed = seed
    with pytest.raises(UserError, match=f"config.seed={seed}"):
        experiment.build(config)


def test_a_batch_divides_by_the_devices():
    with pytest.raises(UserError, match=r"batch_size=12.*8 devices.*mesh\.data"):
        experiment.build(tiny_config(data={"batch_size": 12}, mesh={"data": -1}))


@pytest.mark.slow
def test_eight_devices_train_the_network_as_one_does(monkeypatch):
    """A real network on a real mesh: sharded state, split batches, donated buffers."""
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 256)
    images = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
    batch = {"image": images, "label": np.arange(8, dtype=np.int32)}
    ends = []
    for mesh in ({"data": 1, "fsdp": 1}, {"data": 4, "fsdp": 2}):
        built = experiment.build(
            tiny_config(mesh=mesh, optim={"decay": "constant"}, model={"dropout": 0.1})
        )
        train_step = built.train_step()
        now = built.init_state()
        start = jax.device_get(now.params)
        for _ in range(3):
            before = now
            placed = sharding.put_batch(batch, sharding.batch_sharding(built.mesh))
            now, metrics = train_step(now, placed)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.opt_state))
        split = [leaf for leaf in jax.tree.leaves(now) if not leaf.sharding.is_fully_replicated]
        held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(now.params))
        ends.append((start, now, float(metrics["loss"]), len(split), held))
    (start_one, one, loss_one, split_one, held_one), (start_many, many, loss, split, held) = ends
    for a, b in zip(jax.tree.leaves(start_one), jax.tree.leaves(start_many), strict=True):
        np.testing.assert_array_max_ulp(a, b, maxulp=4)  # the bits of a normal may round apart
    assert loss == pytest.approx(loss_one, rel=1e-5)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert digest(many.key) == digest(one.key)
    # Parameters, average and moments alike; a device holds little more than half.
    assert split_one == 0
    assert split >= 4 * 10
    assert held < 0.6 * held_one


def test_a_trained_model_is_one_line_away(finished_run):
    images = experiment.load(finished_run.workdir).sample(16)
    assert images.shape == (16, 8, 8, 1)
    assert images.dtype == np.uint8


def test_labels_come_as_any_sequence(finished_run):
    loaded = experiment.load(str(finished_run.workdir))
    assert loaded.step == 800
    for labels in ([1, 2], (1, 2), range(1, 3), np.array([1, 2])):
        assert loaded.labels(3, labels).tolist() == [1, 2, 1]


def test_a_notebooks_mistakes_are_named(finished_run, tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint in .*config\.json"):
        experiment.load(tmp_path)
    loaded = experiment.load(finished_run.workdir)
    with pytest.raises(UserError, match=r"no such config field sample\.num_step;.*num_steps"):
        loaded.sample(2, num_step=3)
    with pytest.raises(UserError, match="label 10 is outside"):
        loaded.sample(2, labels=[10])


def test_devices_that_the_batch_does_not_divide_by_still_sample(finished_run, tmp_path):
    # Trained with 6 images a step somewhere; here are 8 devices.
    shutil.copytree(finished_run.workdir, tmp_path / "run")
    config = configs.override(configs.read(tmp_path / "run"), {"data": {"batch_size": 6}})
    configs.write(tmp_path / "run", config)
    loaded = experiment.load(tmp_path / "run")
    assert loaded.experiment.mesh.size == 2
    assert loaded.sample(3).shape == (3, 8, 8, 1)
