import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import tiny_config

from ddpm_jax import experiment
from ddpm_jax.errors import UserError
from ddpm_jax.training import optimizers


def rates(steps, **options):
    options = {"warmup_steps": 0, "decay": "constant", "num_steps": 100} | options
    schedule = optimizers.learning_rate(0.5, **options)
    return [float(schedule(step)) for step in steps]


def test_warm_up_rises_in_a_line_and_stays():
    assert rates([0, 1, 5, 10, 11, 10_000], warmup_steps=10) == pytest.approx(
        [0, 0.05, 0.25, 0.5, 0.5, 0.5], rel=1e-6
    )
    assert rates([0, 99]) == [0.5, 0.5]


def test_a_cosine_falls_to_nothing_at_the_last_step():
    # Over 80 steps behind the warm-up: a quarter turn is cos(pi / 4), half of the way is 1/2.
    at = [0, 10, 20, 40, 60, 80, 100]
    quarter = (1 + np.sqrt(0.5)) / 2
    expected = [0, 0.25, 0.5, 0.5 * quarter, 0.25, 0.5 * (1 - quarter), 0]
    assert rates(at, warmup_steps=20, decay="cosine") == pytest.approx(expected, abs=1e-7)
    assert rates([0, 50, 100], decay="cosine") == pytest.approx([0.5, 0.25, 0], abs=1e-7)


def test_a_run_within_its_warm_up_is_the_warm_ups():
    short = rates(range(10), warmup_steps=20, decay="cosine", num_steps=10)
    assert short == pytest.approx(rates(range(10), warmup_steps=20))


@pytest.mark.parametrize("decay", ["constant", "cosine"])
@pytest.mark.parametrize("warmup_steps", [0, 1, 20, 150])
def test_numbers_that_are_arguments_make_the_same_schedule(warmup_steps, decay):
    @jax.jit
    def traced(peak, warmup, count):
        schedule = optimizers.traced_learning_rate(
            peak, warmup_steps=warmup, decay=decay, num_steps=100
        )
        return schedule(count)

    steps = [0, 1, 5, 19, 20, 21, 60, 99, 100, 101, 1000]
    got = [float(traced(0.5, warmup_steps, step)) for step in steps]
    assert got == pytest.approx(rates(steps, warmup_steps=warmup_steps, decay=decay), abs=1e-7)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"peak": 0.0}, "learning_rate"),
        ({"peak": -1.0}, "learning_rate"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"decay": "linear"}, "linear"),
    ],
)
def test_a_bad_schedule_is_named(options, named):
    options = {"peak": 1.0, "warmup_steps": 0, "decay": "constant", "num_steps": 100} | options
    with pytest.raises(ValueError, match=named):
        optimizers.learning_rate(options.pop("peak"), **options)


@pytest.mark.parametrize(
    ("optim", "named"),
    [
        ({"name": "sgd"}, "optim.name='sgd': need one of adam, adamw"),
        ({"weight_decay": 0.1}, "optim.name=adamw"),
        ({"name": "adamw", "weight_decay": -0.1}, "weight_decay"),
        ({"grad_clip": -1.0}, "grad_clip"),
        ({"options": {"beta_1": 0.5}}, "beta_1=0.5: .*did you mean beta"),
    ],
)
def test_a_bad_optimizer_is_named(optim, named):
    with pytest.raises(UserError, match=named):
        experiment.build(tiny_config(optim=optim))


def made(name, rate, *, weight_decay=0, grad_clip=0):
    """As config.optim names it."""
    decay = {"weight_decay": weight_decay} if weight_decay else {}
    return optimizers.clipped(getattr(optimizers, name)(rate, **decay), grad_clip)


@pytest.mark.parametrize(
    ("name", "weight_decay", "grad_clip"), [("adam", 0, 0), ("adamw", 0.1, 0), ("adam", 0, 1.0)]
)
def test_the_updates_are_those_of_torch(name, weight_decay, grad_clip):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=4)}
    # Norms on both sides of the clip, for Adam alone sees no common factor.
    gradients = [
        {k: rng.normal(size=v.shape) * 3.0 ** rng.integers(-3, 3) for k, v in start.items()}
        for _ in range(30)
    ]

    params = {k: jnp.asarray(v, jnp.float32) for k, v in start.items()}
    schedule = optimizers.learning_rate(0.1, warmup_steps=5, decay="constant", num_steps=30)
    ours = made(name, schedule, weight_decay=weight_decay, grad_clip=grad_clip)
    opt_state = ours.init(params)
    for gradient in gradients:
        gradient = {k: jnp.asarray(v, jnp.float32) for k, v in gradient.items()}
        updates, opt_state = ours.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)

    peers = {k: torch.tensor(v, requires_grad=True) for k, v in start.items()}
    extra = {"weight_decay": weight_decay} if weight_decay else {}
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    theirs = kind(peers.values(), lr=0.0, **extra)
    for step, gradient in enumerate(gradients):
        theirs.param_groups[0]["lr"] = 0.1 * min(step / 5, 1)
        for k, peer in peers.items():
            peer.grad = torch.tensor(gradient[k])
        if grad_clip:
            torch.nn.utils.clip_grad_norm_(peers.values(), grad_clip)
        theirs.step()
    for k, peer in peers.items():
        np.testing.assert_allclose(params[k], peer.detach().numpy(), rtol=0, atol=1e-5)


def test_a_clip_bounds_the_global_norm_and_keeps_the_direction():
    clip = made("adam", optax.constant_schedule(1.0), grad_clip=1.0)
    free = made("adam", optax.constant_schedule(1.0))
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    long = {"a": jnp.array([2.0, 3.0]), "b": jnp.array([6.0])}  # of norm 7
    unit = {"a": jnp.array([2.0, 3.0]) / 7, "b": jnp.array([6.0]) / 7}

    def moments(optimizer, gradient):
        opt_state = optimizer.update(gradient, optimizer.init(params), params)[1]
        return np.concatenate(list(optax.tree.get(opt_state, "mu").values()))

    np.testing.assert_allclose(moments(clip, long), moments(free, unit), rtol=1e-6)
    # What is short already is left alone.
    short = {"a": jnp.array([0.2, 0.3]), "b": jnp.array([0.6])}
    np.testing.assert_allclose(moments(clip, short), moments(free, short), rtol=1e-6)
