"""From config.diffusion to an objective: what goes together, what does not, and that it trains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from scipy import stats
from tiny_runs import tiny_config

from ddpm_jax import experiment
from ddpm_jax.commands.train import train
from ddpm_jax.errors import UserError

HYBRID = {"loss": "hybrid", "variance": "learned_range"}


def built(**diffusion):
    return experiment.build(tiny_config(diffusion=diffusion))


def loss_of(experiment_, size=16):
    """The loss of a network of zeros on a fixed batch, and the times."""
    shapes = experiment_.state_shapes().params
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    images = np.random.default_rng(0).integers(0, 17, (size, 8, 8, 1)) / 8 - 1
    batch = {"x0": jnp.asarray(images, jnp.float32), "label": jnp.zeros(size, jnp.int32)}
    outcome = jax.jit(experiment_.objective, static_argnums=3)(
        params, batch, jax.random.key(1), False, {}
    )
    return np.asarray(outcome.loss, np.float64), np.asarray(outcome.t), batch["x0"]


def cosine_of_ten_steps():
    """beta and alpha_bar of i = 1..10 (Nichol & Dhariwal 2021)."""
    f = np.cos((np.arange(11) / 10 + 0.008) / 1.008 * np.pi / 2) ** 2
    beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return beta, np.cumprod(1 - beta)


@pytest.mark.wide(5)
@pytest.mark.parametrize(
    ("diffusion", "weight"),
    [
        ({"weighting": "min_snr"}, lambda snr: np.minimum(snr, 5) / snr),
        (
            {"weighting": "min_snr", "weighting_gamma": 0.5},
            lambda snr: np.minimum(snr, 0.5) / snr,
        ),
        (
            {"weighting": "p2", "weighting_gamma": 0.5, "weighting_k": 2.0},
            lambda snr: (2 + snr) ** -0.5,
        ),
        ({"weighting": "sigmoid", "weighting_bias": -1.0}, lambda snr: 1 / (1 + np.e * snr)),
        ({"weighting": "edm", "weighting_sigma_data": 2.0}, lambda snr: 1 + 0.25 / snr),
        ({"weighting": "truncated_snr"}, lambda snr: np.maximum(1, 1 / snr)),
        ({"loss": "score_matching", "weighting": "snr"}, lambda snr: snr),
    ],
)
def test_a_weighting_of_the_config_multiplies_the_loss(diffusion, weight):
    plain, t, _ = loss_of(built())
    weighted, again, _ = loss_of(built(**diffusion))
    np.testing.assert_array_equal(t, again)
    bar = cosine_of_ten_steps()[1][np.rint(t * 10).astype(int) - 1]
    np.testing.assert_allclose(weighted / plain, weight(bar / (1 - bar)), rtol=1e-4)


def test_the_bound_of_digits_is_on_their_17_levels():
    # A network of zeros that predicts v says x_0 = alpha x_1, with digits' fixed_small variance,
    # clipped to that of step 2. With 256 levels a pixel would cost 4 bits more.
    bits, t, images = loss_of(built(loss="vlb", prediction="v"), size=400)
    first = np.rint(t * 10) == 1
    beta, bar = cosine_of_ten_steps()
    std = np.sqrt((1 - bar[0]) / (1 - bar[1]) * beta[1])
    x0 = np.asarray(images)[first]
    noise = np.random.default_rng(1).normal(size=(50, *x0.shape))
    mean = np.sqrt(bar[0]) * (np.sqrt(bar[0]) * x0 + np.sqrt(1 - bar[0]) * noise)
    upper = stats.norm.cdf(np.where(x0 == 1, np.inf, x0 + 1 / 16), mean, std)
    lower = stats.norm.cdf(np.where(x0 == -1, -np.inf, x0 - 1 / 16), mean, std)
    expected = -np.log2(upper - lower).mean()
    assert first.sum() > 20
    assert abs(bits[first].mean() / 10 - expected) < 0.2


@pytest.mark.parametrize(
    ("diffusion", "said"),
    [
        ({"loss": "hybrid"}, "loss=hybrid: trains a learned variance; set variance=learned_range"),
        ({"variance": "learned_range"}, "variance=learned_range: loss=simple does not train"),
        ({**HYBRID, "schedule": "flow"}, "needs the steps of a discrete schedule, and flow"),
        ({"loss": "vlb", "schedule": "flow"}, "set loss=continuous_vlb"),
        ({"loss": "continuous_vlb"}, "needs a continuous schedule, and cosine is discrete"),
        ({"loss": "vlb", "weighting": "snr"}, "has a weighting of its own; set weighting=none"),
        ({"loss": "vlb", "time_draw": "log_normal"}, "time_draw=log_normal: .* uniform times"),
        ({"schedule": "vp_continuous", "time_draw": "importance"}, "set stratified"),
        ({"schedule": "flow", "prediction": "posterior_mean"}, "set another"),
        ({"schedule": "learned"}, "set loss=continuous_vlb"),
        (
            {"weighting": "inverse_variance", "prediction": "posterior_mean", **HYBRID},
            "weights the posterior mean: .*loss=simple",
        ),
        (
            {"weighting": "snr", "weighting_gamma": 5.0},
            r"options.gamma=5.0: .*min_snr, p2",
        ),
        ({"weighting": "p2", "weighting_gamma": -1.0}, "config.diffusion: .*gamma=-1"),
        ({"time_mean": 0.0}, r"time_options.mean=0.0: .*log_normal, logit_normal"),
        ({"time_draw": "importance", "time_history": 0}, "config.diffusion: .*history_size=0"),
        ({"time_draw": "log_normal", "time_std": 0.0}, "std=0.0"),
        ({"time_draw": "often"}, "time_draw='often': need one of uniform, stratified"),
        ({"weighting": "max_snr"}, "weighting='max_snr': need one of none, constant"),
        ({**HYBRID, "vlb_weight": -1.0}, "vlb_weight=-1.0"),
    ],
)
@pytest.mark.wide(4)
def test_choices_that_do_not_go_together_are_refused(diffusion, said):
    with pytest.raises(UserError, match=said):
        built(**diffusion)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "unet"}}, "model.name='unet': need one of classifier"),
        ({"model": {"num_classes": 0}}, "num_classes=0: a classifier needs at least 2"),
        ({"diffusion": {"time_draw": "importance"}}, "keeps no losses; set uniform"),
        ({"diffusion": {"schedule": "learned"}}, "schedule=learned: a classifier"),
        ({"model": {"head_dim": 3}}, "heads of 3"),
    ],
)
def test_a_classifier_refuses_what_does_not_fit(changes, said):
    with pytest.raises(UserError, match=said):
        experiment.build(tiny_config(kind="classifier", **changes))


@pytest.mark.parametrize(
    "field",
    [
        "diffusion.loss",
        "diffusion.prediction",
        "diffusion.variance",
        "diffusion.weighting",
        "diffusion.label_dropout",
        "diffusion.joint_dropout",
        "model.fourier_features",
        "sample.sampler",
        "train.sample_every",
    ],
)
def test_a_config_shows_only_what_its_kind_reads(field):
    group, _, name = field.partition(".")
    with pytest.raises(UserError, match=f"no such config field {field}"):
        tiny_config(kind="classifier", **{group: {name: 0}})


def test_fields_of_another_kind_are_refused_by_name():
    config = tiny_config()
    config.kind = "classifier"
    with pytest.raises(UserError, match=r"\(config\.kind=classifier\) has no such field"):
        experiment.build(config)
    config.kind = "poem"
    with pytest.raises(UserError, match=r"kind='poem': need one of denoiser, classifier"):
        experiment.build(config)


KINDS = {
    "hybrid": {**HYBRID, "time_draw": "importance", "time_history": 2},
    "learned": {"schedule": "learned", "loss": "continuous_vlb", "time_draw": "stratified"},
    "classifier": {},
}


def run(kind, workdir, num_steps, **train_fields):
    config = tiny_config(
        kind="classifier" if kind == "classifier" else "denoiser",
        diffusion=KINDS[kind],
        train={
            "num_steps": num_steps,
            "log_every": 1,
            "checkpoint_every": 0,
            "validate_every": 0,
            **train_fields,
        },
        optim={"decay": "constant", "warmup_steps": 0, "learning_rate": 5e-3},
    )
    assert train.train(config, workdir) == 0
    return [line["loss"] for line in tiny_runs.metrics(workdir)]


@pytest.mark.wide(6)
@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_by_the_command_and_resumes_exactly(kind, tmp_path):
    losses = run(kind, tmp_path / "straight", 40)
    assert np.isfinite(losses).all()
    if kind != "classifier":  # slower; test_evaluate_command sees it learn
        assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])
    run(kind, tmp_path / "twice", 25)
    run(kind, tmp_path / "twice", 40)
    assert tiny_runs.final(tmp_path / "twice") == tiny_runs.final(tmp_path / "straight")
