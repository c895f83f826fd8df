import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from tiny_runs import tiny_config

from ddpm_jax import experiment
from ddpm_jax.build import optimizers
from ddpm_jax.errors import UserError
from ddpm_jax.training import learning_rates

PEAK, STEPS = 0.5, 100
COUNTS = [0, 1, 5, 19, 20, 21, 60, 80, 90, 99, 100, 101, 1000]


def behind(warmup_steps, after):
    """optax's own: a line up to PEAK, and then a schedule of the steps since."""
    if warmup_steps == 0:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(0.0, PEAK, warmup_steps), after], [warmup_steps]
    )


def vaswani(warmup_steps, count):
    """Equation 3 of the paper, its constant such that PEAK is the peak."""
    if warmup_steps == 0:
        return PEAK * max(count, 1) ** -0.5
    falls = max(count, 1e-9) ** -0.5
    return PEAK * warmup_steps**0.5 * min(falls, count * warmup_steps**-1.5)


def karras(warmup_steps, count):
    """Equation 67 of the paper, t_ref = 40, times the linear rise of its released code."""
    rise = min(count / warmup_steps, 1) if warmup_steps else 1
    return PEAK / max(count / 40, 1) ** 0.5 * rise


def left(warmup_steps):
    return max(STEPS - warmup_steps, 1)


# {decay: (options, (warm-up, count) -> the rate by optax or by the paper)}
ORACLES = {
    "constant": ({}, lambda w, n: behind(w, optax.constant_schedule(PEAK))(n)),
    "cosine": (
        {"end": 0.1},
        lambda w, n: behind(w, optax.cosine_decay_schedule(PEAK, left(w), alpha=0.1))(n),
    ),
    "linear": (
        {"end": 0.2},
        lambda w, n: behind(w, optax.linear_schedule(PEAK, 0.2 * PEAK, left(w)))(n),
    ),
    "inverse_sqrt": ({}, vaswani),
    "wsd": (
        {"share": 0.3},
        lambda w, n: behind(w, optax.linear_schedule(PEAK, 0.0, min(30, left(w)), max(70 - w, 0)))(
            n
        ),
    ),
    "edm2": ({"t_ref": 40}, karras),
}


def schedule(name, peak, warmup_steps):
    config = tiny_config(
        optim={"decay": name, "decay_options": ORACLES[name][0]}, train={"num_steps": STEPS}
    )
    config = ConfigDict(config.to_dict())
    with config.ignore_type():  # as the members of a group have them
        config.optim.learning_rate, config.optim.warmup_steps = peak, warmup_steps
    return optimizers.learning_rate(config)


def test_every_decay_has_an_oracle():
    assert ORACLES.keys() == optimizers.DECAYS.keys()


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("warmup_steps", [0, 1, 20, 90, 150])
def test_a_decay_is_that_of_optax_or_its_paper_also_of_traced_numbers(name, warmup_steps):
    expected = [float(ORACLES[name][1](warmup_steps, count)) for count in COUNTS]
    plain = schedule(name, PEAK, warmup_steps)
    got = [float(plain(count)) for count in COUNTS]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)

    @jax.jit
    def traced(peak, warmup_steps, counts):
        return jax.vmap(schedule(name, peak, warmup_steps))(counts)

    got = traced(np.float32(PEAK), np.int32(warmup_steps), np.asarray(COUNTS, np.int32))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "warmup_steps"), [("cosine", 7), ("cosine", 0), ("constant", 7)])
def test_what_there_was_before_keeps_its_bits(name, warmup_steps):
    """The schedules that earlier versions trained by, optax's own: their runs resume exactly."""
    after = {
        "cosine": optax.cosine_decay_schedule(0.0137, 333 - warmup_steps),
        "constant": optax.constant_schedule(0.0137),
    }[name]
    before = after
    if warmup_steps:
        rise = optax.linear_schedule(0.0, 0.0137, warmup_steps)
        before = optax.join_schedules([rise, after], [warmup_steps])
    options = {"warmup_steps": warmup_steps, "num_steps": 333} if name == "cosine" else {}
    now = learning_rates.learning_rate(
        0.0137, warmup_steps=warmup_steps, decay=getattr(learning_rates, name)(**options)
    )
    # Operation by operation: what a compiler contracts depends on the machine.
    rates = [[float(jnp.float32(rate(np.int32(n)))) for n in range(400)] for rate in (before, now)]
    assert rates[0] == rates[1]


def test_what_hangs_on_the_length_of_the_run():
    laid_out = [name for name in optimizers.DECAYS if optimizers.is_laid_out(name)]
    assert laid_out == ["cosine", "linear", "wsd"]


@pytest.mark.parametrize(
    ("optim", "named"),
    [
        ({"learning_rate": 0.0}, "learning_rate > 0, got 0"),
        ({"learning_rate": -1.0}, "learning_rate > 0, got -1"),
        ({"warmup_steps": -1}, "warmup_steps >= 0, got -1"),
        ({"decay": "cosin"}, "optim.decay='cosin': need one of constant, .*did you mean cosine"),
        ({"decay": "wsd", "decay_options": {"share": 1.5}}, "0 < share <= 1"),
        ({"decay": "wsd", "decay_options": {"shar": 0.5}}, "decay wsd has no .*did you mean share"),
        ({"decay": "cosine", "decay_options": {"end": -0.1}}, "0 <= end <= 1"),
        ({"decay": "edm2", "decay_options": {"t_ref": 0}}, "t_ref >= 1"),
        ({"decay": "constant", "decay_options": {"t_ref": 9}}, r"no such option \(edm2 has\)"),
        ({"decay": "edm2", "decay_options": {"num_steps": 9}}, "by the rest of the config"),
    ],
)
def test_a_bad_learning_rate_is_named(optim, named):
    with pytest.raises(UserError, match=named):
        experiment.build(tiny_config(optim=optim))
