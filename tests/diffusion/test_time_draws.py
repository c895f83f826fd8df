"""Draws of t against the laws that they are named after, and what importance sampling promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy import stats

from ddpm_jax.diffusion import schedules, time_draws

KEY = jax.random.key(11)
DISCRETE, FLOW = schedules.linear(20), schedules.flow()
KINDS = {
    "uniform": time_draws.uniform(),
    "stratified": time_draws.stratified(),
    "importance": time_draws.importance(),
    "log_normal": time_draws.log_normal(),
    "logit_normal": time_draws.logit_normal(),
}


def keys_of(size, key=KEY):
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(size))


def drawn(kind, schedule, size, history=None):
    """t and weight of one batch, compiled."""
    history = kind.init(schedule) if history is None else history
    call = jax.jit(lambda keys, history: kind.draw(schedule, keys, KEY, history))
    return tuple(np.asarray(x, np.float64) for x in call(keys_of(size), history))


def p_value(sample, law):
    return stats.kstest(sample, law.cdf).pvalue


@pytest.mark.parametrize("t_min", [0.0, 1e-5, 0.25])
def test_uniform_times_are_uniform(t_min):
    t, weight = drawn(time_draws.uniform(t_min), FLOW, 20_000)
    assert p_value(t, stats.uniform(t_min, 1 - t_min)) > 1e-3
    assert t_min < t.min()
    assert t.max() <= 1
    np.testing.assert_array_equal(weight, 1)


def test_uniform_steps_are_uniform():
    t, _ = drawn(time_draws.uniform(), DISCRETE, 20_000)
    index, counts = np.unique(np.rint(t * 20), return_counts=True)
    np.testing.assert_array_equal(index, np.arange(1, 21))
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.wide(4)
def test_a_drawn_step_is_on_its_node_however_it_was_compiled(kind):
    # XLA multiplies by 1 / T when it compiles the division: the last bit of t differs from i / T.
    schedule = schedules.cosine(4000)
    t, _ = drawn(KINDS[kind], schedule, 2000)
    time = np.asarray(schedule.network_time(jnp.asarray(t, jnp.float32)))
    np.testing.assert_array_equal(time, np.rint(t * 4000) - 1)
    assert time.min() >= 0
    assert time.max() <= 3999


def test_stratified_times_fill_the_interval_evenly():
    t, weight = drawn(time_draws.stratified(0.0), FLOW, 64)
    gaps = np.diff(np.sort(t))
    np.testing.assert_allclose(gaps, 1 / 64, atol=1e-6)
    np.testing.assert_array_equal(weight, 1)
    t, _ = drawn(time_draws.stratified(), DISCRETE, 60)
    np.testing.assert_array_equal(np.unique(np.rint(t * 20), return_counts=True)[1], 3)


def stratified_batches(schedule, size, number):
    kind = time_draws.stratified(0.0)
    one = jax.vmap(lambda key: kind.draw(schedule, keys_of(size), key, {})[0])
    return np.asarray(jax.jit(one)(jax.random.split(KEY, number)), np.float64)


def test_each_stratified_time_is_uniform_by_itself():
    t = stratified_batches(FLOW, 8, 4000)
    for place in (0, 5):
        assert p_value(t[:, place], stats.uniform(0, 1)) > 1e-3


def test_stratified_means_vary_less_than_uniform_ones():
    # f(t) = t²: independent draws have Var f / B = 4 / 45 B; of a uniform grid with one offset,
    # the mean's variance is that of the trapezoid's error, of the order 1 / 12 B².
    means = (stratified_batches(FLOW, 16, 4000) ** 2).mean(axis=1)
    assert abs(means.mean() - 1 / 3) < 5 * means.std() / np.sqrt(len(means))
    assert means.var() < 1.2 / (12 * 16**2)
    assert means.var() < 0.1 * 4 / 45 / 16


@pytest.mark.parametrize("name", ["edm", "flow", "vp_continuous", "ve"])
def test_log_normal_ratios_are_log_normal_on_any_path(name):
    schedule = getattr(schedules, name)()
    t, _ = drawn(time_draws.log_normal(-0.6, 0.7), schedule, 20_000)
    assert p_value(-0.5 * schedule.log_snr(t), stats.norm(-0.6, 0.7)) > 1e-3


def test_log_normal_steps_are_the_nearest_ones():
    schedule = schedules.linear(1000)
    t, _ = drawn(time_draws.log_normal(-0.6, 0.7), schedule, 20_000)
    # Neighbours are at most 0.1 apart in log rho here: rounding adds no more to the moments.
    log_rho = -0.5 * np.asarray(schedule.log_snr(jnp.asarray(t)))
    assert abs(log_rho.mean() + 0.6) < 0.03
    assert abs(log_rho.std() - 0.7) < 0.03


def test_ratios_beyond_the_path_are_its_ends():
    schedule = schedules.ve(0.5, 0.6)
    t, _ = drawn(time_draws.log_normal(0.0, 3.0, t_min=1e-4), schedule, 1000)
    assert {t.min().round(8), t.max()} == {1e-4, 1.0}


def test_logit_normal_times_are_logit_normal():
    t, weight = drawn(time_draws.logit_normal(0.5, 1.5, t_min=0.0), FLOW, 20_000)
    assert p_value(np.log(t / (1 - t)), stats.norm(0.5, 1.5)) > 1e-3
    np.testing.assert_array_equal(weight, 1)
    t, _ = drawn(time_draws.logit_normal(0.5, 1.5), DISCRETE, 20_000)
    ends = np.arange(21) / 20
    with np.errstate(divide="ignore"):
        law = stats.norm(0.5, 1.5).cdf(np.log(ends / (1 - ends)))
    counts = np.bincount(np.rint(t * 20).astype(int), minlength=21)[1:]
    assert stats.chisquare(counts, np.diff(law) * 20_000).pvalue > 1e-3


def history_of(losses):
    """The history in which every step had its loss ten times."""
    losses = jnp.asarray(losses, jnp.float32)
    return {
        "loss": jnp.broadcast_to(losses[:, None], (len(losses), 10)),
        "count": jnp.full(len(losses), 10, jnp.int32),
    }


STEEP = np.exp(-0.4 * np.arange(20))  # as losses over t are: 2,000 to 1


def test_importance_takes_steps_at_their_probabilities():
    t, weight = drawn(KINDS["importance"], DISCRETE, 40_000, history_of(STEEP))
    index = np.rint(t * 20).astype(int) - 1
    # Nichol & Dhariwal: in proportion to sqrt(E[L²]), a thousandth of the draws uniform.
    p = 0.999 * STEEP / STEEP.sum() + 0.001 / 20
    assert stats.chisquare(np.bincount(index, minlength=20), 40_000 * p).pvalue > 1e-3
    np.testing.assert_allclose(weight, 1 / (20 * p[index]), rtol=1e-5)


def test_importance_is_unbiased_and_varies_less():
    losses = STEEP + 0.01
    kind = KINDS["importance"]
    estimates = {}
    for name, history in (("uniform", None), ("importance", history_of(losses))):
        t, weight = drawn(kind, DISCRETE, 40_000, history)
        estimates[name] = weight * losses[np.rint(t * 20).astype(int) - 1]
    for values in estimates.values():
        assert abs(values.mean() - losses.mean()) < 5 * values.std() / np.sqrt(len(values))
    # Losses that are a function of t alone leave nothing to vary but the uniform share.
    assert estimates["importance"].std() < 0.05 * estimates["uniform"].std()


def test_importance_is_uniform_until_every_step_has_ten_losses():
    history = history_of(STEEP)
    history["count"] = history["count"].at[7].set(9)
    t, weight = drawn(KINDS["importance"], DISCRETE, 20_000, history)
    np.testing.assert_allclose(weight, 1, rtol=1e-6)
    counts = np.bincount(np.rint(t * 20).astype(int), minlength=21)[1:]
    assert stats.chisquare(counts).pvalue > 1e-3
    _, weight = drawn(KINDS["importance"], DISCRETE, 100, history_of(np.zeros(20)))
    np.testing.assert_allclose(weight, 1, rtol=1e-6)  # losses of 0 tell nothing


def remember_one_by_one(history, index, loss):
    """Nichol & Dhariwal's update: a list a step, the oldest leaves."""
    for i, value in zip(index, loss, strict=True):
        history[i] = [*history[i], value][-10:]


def test_the_history_is_the_last_ten_losses_of_each_step():
    rng = np.random.default_rng(0)
    kind = KINDS["importance"]
    history = kind.init(DISCRETE)
    plain = {i: [] for i in range(20)}
    update = jax.jit(lambda *args: kind.update(DISCRETE, *args))
    # Batches where no step comes twice, some do, and one has more than ten of one step.
    for size, steps in ((5, 20), (30, 20), (64, 20), (64, 3), (40, 20), (300, 20)):
        index = rng.integers(0, steps, size)
        loss = rng.uniform(0, 1, size).astype(np.float32)
        history = update(history, jnp.asarray((index + 1) / 20, jnp.float32), jnp.asarray(loss))
        remember_one_by_one(plain, index, loss)
        for i in range(20):
            full = min(int(history["count"][i]), 10)
            assert full == len(plain[i])
            np.testing.assert_array_equal(np.sort(history["loss"][i][:full]), np.sort(plain[i]))
    assert min(map(len, plain.values())) == 10
    moments = np.array([np.sqrt(np.mean(np.square(plain[i]))) for i in range(20)])
    p = time_draws.step_probabilities(history, 0.001)
    np.testing.assert_allclose(p, 0.999 * moments / moments.sum() + 0.001 / 20, rtol=1e-5)


def test_losses_that_are_not_finite_are_forgotten():
    kind = KINDS["importance"]
    history = history_of(STEEP)
    t = jnp.asarray([1, 1, 2]) / 20
    after = kind.update(DISCRETE, history, t, jnp.asarray([jnp.nan, 5.0, jnp.inf]))
    changed = np.asarray(after["loss"] != history["loss"])
    assert changed.sum() == 1
    assert after["loss"][0].max() == 5


@pytest.mark.parametrize("kind", KINDS)
def test_draws_do_not_depend_on_the_devices(kind):
    kind, history = KINDS[kind], history_of(STEEP)
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    many = jax.jit(lambda: kind.draw(DISCRETE, keys_of(64), KEY, history), out_shardings=rows)()
    assert len(many[0].devices()) == 8
    one = jax.jit(lambda: kind.draw(DISCRETE, keys_of(64), KEY, history))()
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_max_ulp(np.asarray(a), np.asarray(b), maxulp=2)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"stratified"}))
def test_draws_do_not_depend_on_the_rest_of_the_batch(kind):
    kind, history = KINDS[kind], history_of(STEEP)
    whole = drawn(kind, DISCRETE, 16, history)
    half = drawn(kind, DISCRETE, 8, history)
    for a, b in zip(whole, half, strict=True):
        np.testing.assert_allclose(a[:8], b, rtol=1e-6)
    assert len(np.unique(whole[0])) > 4


def test_validation_has_no_history_and_the_same_objective():
    for name in ("uniform", "log_normal", "logit_normal"):
        assert KINDS[name].validation is None
        assert KINDS[name].init(DISCRETE) == {}
    for name in ("stratified", "importance"):
        t, weight = drawn(KINDS[name].validation, DISCRETE, 20_000)
        counts = np.bincount(np.rint(t * 20).astype(int), minlength=21)[1:]
        assert stats.chisquare(counts).pvalue > 1e-3
        np.testing.assert_array_equal(weight, 1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: time_draws.uniform(1.0), "t_min < 1, got t_min=1.0"),
        (lambda: time_draws.stratified(-0.1), "t_min=-0.1"),
        (lambda: time_draws.importance(0), "history_size >= 1"),
        (lambda: time_draws.importance(uniform_prob=0), "uniform_prob <= 1, got uniform_prob=0"),
        (lambda: time_draws.log_normal(std=0), "std > 0"),
        (lambda: time_draws.logit_normal(mean=np.nan), "finite mean"),
        (lambda: time_draws.importance().init(FLOW), "continuous"),
    ],
)
def test_bad_input_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
