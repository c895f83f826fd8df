import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import tiny_runs
from ml_collections import ConfigDict
from tiny_runs import tiny_config

from ddpm_jax import experiment, samplers
from ddpm_jax.build import paths, sampling
from ddpm_jax.config import config_files
from ddpm_jax.diffusion import schedules
from ddpm_jax.errors import UserError
from ddpm_jax.measures import training_evaluation
from ddpm_jax.reporting import writers
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.digests import digest
from ddpm_jax.trained import program

CONFIGS = sorted(path.stem for path in (tiny_runs.ROOT / "configs").glob("*.py"))
# What needs more to be built: data, or the pipeline that goes on training (test_tuned_pipelines).
UNFINISHED = ("default", "stable_diffusion_finetune")
# Ho et al. (2020), section 4: 35.7 and 114 million; the exact numbers are of their code.
PUBLISHED = {"cifar10": 35_746_307, "celebahq256": 113_673_219, "lsun256": 113_673_219}
# Radford et al. (2021), by transformers' and open_clip's models; RN50's norms have no statistics.
PUBLISHED |= {
    "clip_vit_b32": 151_277_313,
    "clip_vit_b16": 149_620_737,
    "clip_vit_l14": 427_616_513,
    "clip_rn50": 102_007_137,
}
# Dhariwal & Nichol (2021), Tables 11 and 12, say so many million.
MILLIONS = {
    "adm64": 296,
    "adm128": 422,
    "adm256": 554,
    "adm64_classifier": 65,
    "adm128_classifier": 43,
    "adm256_classifier": 54,
}


LEARNED = {"schedule": "learned", "loss": "continuous_vlb"}


def get_config(name):
    module = __import__(f"configs.{name}", fromlist=["get_config"])
    return module.get_config()


@pytest.mark.wide(4)
@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in UNFINISHED])
def test_every_config_builds_and_has_the_size_that_was_published(name):
    config = get_config(name)
    config.mesh.data = 1
    built = experiment.build(config)
    params = jax.eval_shape(built.init_params, jax.random.key(0))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    if name in PUBLISHED:
        assert size == PUBLISHED[name]
    elif name in MILLIONS:
        assert round(size / 1e6) == MILLIONS[name]
    else:  # nobody has published one
        assert size > 100_000


def test_the_defaults_alone_miss_only_their_data():
    config = get_config("default")
    built = experiment.build(config)
    with pytest.raises(UserError, match="digits are 8x8"):
        built.source("train")


@pytest.mark.parametrize(
    "model",
    [
        {"name": "dit", "num_heads": 2, "patch_size": 4},
        {
            "name": "unet",
            "channel_multipliers": (1, 2),
            "attention_resolutions": (4,),
            "num_heads": 2,
            "scale_shift_norm": True,
            "resample_blocks": True,
            "residual_scale": 0.7,
        },
        {"attention_resolutions": (8,)},
    ],
    ids=["dit", "adm", "classifier"],
)
@pytest.mark.wide(6)
def test_a_step_of_another_network_moves_every_parameter(model):
    groups = {"model": model, "optim": {"warmup_steps": 0, "learning_rate": 0.1}}
    kind = "denoiser" if "name" in model else "classifier"
    # The first step of adaLN-Zero moves the zeroed layers alone; the second reaches the rest.
    built = experiment.build(tiny_config(kind=kind, **groups))
    images = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
    batch = {"x0": jnp.asarray(images), "label": jnp.arange(8, dtype=jnp.int32)}
    state, train_step = built.init_state(), built.train_step()
    before = jax.device_get(state.params)
    for _ in range(3):
        state, metrics = train_step(state, batch)
    assert np.isfinite(metrics["loss"])
    after = jax.device_get(state.params)
    still = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
    assert not any(jax.tree.leaves(still)), still


def nonsense():
    """Each field of the tiny config with values that it cannot have."""
    bad = {
        str: ["bogus"],
        int: [-1],
        float: [float("nan"), float("inf"), -1.0],
        tuple: [(0,), (-1,)],
        bool: [],
        ConfigDict: [{"bogus": 1}],
    }
    for group in ("model", "diffusion", "optim", "ema", "train", "sample"):
        fields = get_config("default")[group]  # it knows the types of fields that are None
        for name in fields:
            for other in bad[fields.get_type(name)]:
                if (name, other) != ("guidance_scale", -1.0):  # away from the label: a choice
                    yield group, name, other


@pytest.mark.parametrize(("group", "name", "value"), list(nonsense()))
@pytest.mark.wide(4)
def test_nonsense_in_any_field_is_refused_by_name(group, name, value):
    config = tiny_config(**{group: {name: value}})
    # Metrics, extractors and writers are unknown to `build`, which also reads no weights; training
    # asks this before it begins.
    refuse = {
        "evaluate_metric": training_evaluation.check,
        "evaluate_extractor": training_evaluation.check,
        "init_from": lambda config: experiment.build(config).starting_weights(),
        "writers": lambda config: writers.check(config.train.writers),
    }.get(name, experiment.build)
    with pytest.raises(UserError, match=f"config.{group}"):
        refuse(config)


@pytest.mark.wide(8)
@pytest.mark.parametrize("name", paths.SCHEDULES)
def test_every_schedule_can_be_sampled(name):
    """By three samplers and grids, others for each schedule; a path to alpha = 0 needs a level.

    What comes out has the data's mean and standard deviation.
    """
    schedule = paths.schedule(tiny_config(diffusion={"schedule": name, "num_steps": 1000}))
    if schedule is None:
        schedule = schedules.from_gamma(lambda t: 18.3 * t - 13.3)
    data = oracles.Gaussian(0.1, 0.3)
    first = 3 * [*paths.SCHEDULES].index(name)
    drawing = [name for name in sampling.SAMPLERS if name != "repaint"]  # which paints a part
    for n in range(first, first + 3):
        sampler = drawing[n % len(drawing)]
        grid = [*sampling.GRIDS][(n + n // len(drawing)) % len(sampling.GRIDS)]
        options = {"grid": grid, "sampler": sampler, "num_steps": 100, "clip_x0": False}
        if grid == "karras" and name in ("flow", "cosine_continuous"):
            options["grid_sigma_max"] = 80.0
        if grid in ("leading", "linspace") and schedule.betas is None:
            options["grid"] = "quadratic"
        if grid == "uniform" and name == "edm":  # t is the level: the last step is from 1.6 to 0
            options["grid"] = "karras"
        c = tiny_config(sample=options)
        times = sampling.times(c, schedule)
        x = samplers.initial_noise(jax.random.key(0), schedule, times, (500, 8))
        run = sampling.sampler(c)
        x0 = run(data.denoiser(schedule), schedule, times, jax.random.key(1), x)
        # 100 steps are few for a corrector, and Langevin dynamics from edm's even t for none.
        wide = {"predictor_corrector": 0.3, "langevin": 1.0}.get(sampler, 0.13)
        assert abs(x0.mean() - 0.1) < 0.04, (name, options)
        assert x0.std() / np.sqrt(0.3) == pytest.approx(1, abs=wide), (name, options)


@pytest.mark.parametrize(
    ("group", "fields", "words"),
    [
        ("diffusion", {"schedule": "flow", "shift": 0.0}, "shift=0.0"),
        ("diffusion", {"schedule": "ve", "sigma_max": 0.001}, "sigma_max=0.001"),
        ("diffusion", {"schedule": "cosine", "shift": 2.0}, r"cosine has no.*\(flow has\)"),
        ("diffusion", {"schedule": "flow", "zero_terminal_snr": True}, "zero_terminal_snr"),
        ("diffusion", {"prediction": "edm", "sigma_data": 0.0}, "sigma_data=0.0"),
        ("diffusion", {"prediction": "v", "sigma_data": 0.5}, "sigma_data=0.5"),
        ("diffusion", {"schedule": "cosine", "max_beta": 1.5}, "max_beta=1.5"),
        ("diffusion", {"schedule": "linear", "cosine_s": 0.1}, r"linear has no.*\(cosine, "),
        (
            "diffusion",
            {"schedule": "linear", "time_min": 0.1},
            r"t_min=0.1: the times of linear",
        ),
        ("diffusion", {"loss": "simple", "vlb_weight": 0.1}, r"vlb_weight=0.1.*\(hybrid has\)"),
        ("diffusion", LEARNED | {"gamma_0": 5.0, "gamma_1": -5.0}, "gamma_0=5.0, gamma_1=-5.0"),
        ("optim", {"spike_window": 50}, "spike_window=50.*spike_sigma"),
        ("optim", {"spike_sigma": 3.0, "spike_window": 1}, "spike_window=1.*at least 2"),
        ("model", {"fourier_features": ("a",)}, "fourier_features.*whole numbers"),
        ("model", {"patch_size": 2}, "patch_size=2: .*name=dit"),
        ("model", {"name": "dit", "patch_size": 3}, "8x8 is not divisible by patch_size=3"),
        ("model", {"name": "dit", "num_heads": 3}, "num_heads=3"),
        ("model", {"name": "dit", "head_dim": 3}, "head_dim=3: 8 channels"),
        ("model", {"head_dim": 4, "num_heads": 2}, "num_heads=2: need 0 beside"),
        ("model", {"num_heads": 3, "attention_resolutions": (8,)}, "into 3 heads"),
        ("sample", {"sampler": "probability_flow", "max_steps": 0}, "max_steps=0"),
        ("sample", {"sampler": "probability_flow", "solver": "rk"}, "solver.*'rk'"),
        ("sample", {"sampler": "dpm_solver_pp", "order": 4}, "order must be 1, 2 or 3, got 4"),
        ("sample", {"sampler": "dpm_solver_pp", "form": "x"}, "form must be"),
        ("sample", {"sampler": "unipc", "variant": "bh3"}, "variant must be"),
        ("sample", {"sampler": "edm_stochastic", "S_churn": -1.0}, "S_churn=-1.0"),
        ("sample", {"sampler": "heun", "order": 2}, r"heun has no.*dpm_solver_pp"),
        ("sample", {"grid": "uniform", "grid_rho": 7.0}, r"uniform has no.*karras"),
        ("sample", {"sampler": "ddim", "eta": "much"}, "eta='much': need float or int"),
        ("sample", {"sampler": "unipc", "order": 2.0}, "order=2.0: need int"),
        ("sample", {"sampler": "unipc", "corrector": 1}, "corrector=1: need bool"),
        ("sample", {"threshold": 1.5, "clip_x0": False}, "quantile=1.5"),
        ("sample", {"threshold": 0.9, "clip_x0": True}, "choose one"),
    ],
)
@pytest.mark.wide(4)
def test_options_are_refused_by_name(group, fields, words):
    with pytest.raises(UserError, match=rf"config\.{group}.*{words}"):
        experiment.build(tiny_config(**{group: fields}))


@pytest.mark.parametrize("grid", ["leading", "linspace"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_grid_that_begins_where_the_image_is_still_there_is_refused(grid, schedule):
    diffusion = {"schedule": schedule, "num_steps": 1000}
    config = tiny_config(diffusion=diffusion, sample={"grid": grid, "num_steps": 1})
    words = rf"config\.sample\.grid={grid} with num_steps=1: .* t = 0\.001,.*uniform"
    with pytest.raises(UserError, match=words):
        experiment.build(config)
    # It is a grid for what begins with an image.
    image = np.zeros((8, 8, 1), np.uint8)
    experiment.build(config, experiment.Task(init_images=[image], strength=1.0))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"grid": "nope"}, "grid='nope'"),
        ({"sampler": "dpm_solver_pp", "order": 9}, "got 9"),
        ({"num_steps": 0}, "num_steps=0"),
    ],
)
def test_a_learned_schedule_refuses_its_sampler_before_training(fields, words):
    sample = {"guidance_scale": 1.0} | fields
    with pytest.raises(UserError, match=rf"config\.sample.*{words}"):
        experiment.build(
            tiny_config(
                model={"num_classes": 0}, diffusion=LEARNED | {"label_dropout": 0.0}, sample=sample
            )
        )


@pytest.mark.wide(6)
def test_a_learned_schedule_is_sampled_in_its_present_state():
    config = tiny_config(
        model={"num_classes": 0},
        diffusion={"schedule": "learned", "loss": "continuous_vlb", "label_dropout": 0.0},
        sample={"sampler": "dpm_solver_pp", "order": 2, "num_steps": 5, "guidance_scale": 1.0},
    )
    built = experiment.build(config)
    params = jax.jit(built.init_params)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 8)
    sample_fn = program.sample_fn(built)
    first = sample_fn(params, keys, {})
    np.testing.assert_array_equal(sample_fn(params, keys, {}), first)
    # A gamma that training has moved is another schedule, and the samples follow it.
    moved = params | {"gamma": params["gamma"] | {"gamma_0": jnp.array(-8.0)}}
    second = sample_fn(moved, keys, {})
    assert np.isfinite(second).all()
    assert np.abs(second - first).max() > 1e-3
    # As a schedule that was built by hand from the same parameters.
    by_hand = built.schedule_of(moved)
    np.testing.assert_allclose(-by_hand.log_snr(jnp.zeros(())), -8.0, rtol=1e-5)


def test_another_sampler_does_not_inherit_options():
    c = tiny_config(sample={"sampler": "ddim", "eta": 0.5, "clip_x0": False})
    assert sampling.changed({"sampler": "heun"}, c)["options"] == {}
    assert sampling.changed({"num_steps": 3}, c)["options"] == {"eta": 0.5}
    # A threshold is asked for in place of the clip that the run has by default.
    clipped = tiny_config(sample={"clip_x0": True})
    assert sampling.changed({"threshold": 0.9}, clipped)["clip_x0"] is False
    assert sampling.changed({"threshold": 0.9, "clip_x0": True}, clipped)["clip_x0"]
    assert sampling.changed({"sampler": "ddim", "eta": 0.1}, c)["options"] == {"eta": 0.1}
    assert sampling.changed({"grid_rho": 5.0}, c)["grid_options"] == {"rho": 5.0}


@pytest.mark.wide(3)
def test_the_first_objectives_weights_are_those_of_the_config():
    # The same network, draws and targets: the losses differ by 1 / (2 sigma²) of the step alone.
    def losses_of(**diffusion):
        config = tiny_config(diffusion={"prediction": "posterior_mean", **diffusion})
        built = experiment.build(config)
        shapes = built.state_shapes().params
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
        batch = {"x0": jnp.full((16, 8, 8, 1), 0.5), "label": jnp.zeros(16, jnp.int32)}
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
@pytest.mark.wide(3)
def test_eight_devices_train_the_network_as_one_does(monkeypatch):
    """A real network on a real mesh: sharded state, split batches, donated buffers."""
    monkeypatch.setattr(sharding, "MIN_FSDP_SIZE", 256)
    images = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
    batch = {"x0": images, "label": np.arange(8, dtype=np.int32)}
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


def test_all_devices_sample_whatever_the_batch_divides_by(finished_run, tmp_path):
    # Trained with 6 images a step somewhere; here are 8 devices.
    shutil.copytree(finished_run.workdir, tmp_path / "run")
    config = config_files.override(config_files.read(tmp_path / "run"), {"data": {"batch_size": 6}})
    config_files.write(tmp_path / "run", config)
    loaded = experiment.load(tmp_path / "run")
    assert loaded.experiment.mesh.size == 8
    np.testing.assert_array_equal(loaded.sample(3), experiment.load(finished_run.workdir).sample(3))
