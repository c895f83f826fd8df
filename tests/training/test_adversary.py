"""A game on a ring of Gaussians: what a generator learns of it, and what it loses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.diffusion.losses.adversarial import GAMES
from ddpm_jax.training import players
from ddpm_jax.training.objectives import adversary
from ddpm_jax.training.players import Player

MODES, STD, Z = 8, 0.05, 4
CENTRES = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)


def mlp(sizes):
    """(initial parameters of a key, (params, x) -> y)."""

    def init(key):
        keys = jax.random.split(key, len(sizes) - 1)
        return {
            str(k): {
                "w": jax.random.normal(one, (a, b)) * np.sqrt(2 / a),
                "b": jnp.zeros(b),
            }
            for k, (one, a, b) in enumerate(zip(keys, sizes[:-1], sizes[1:], strict=True))
        }

    def apply(params, x):
        for k in range(len(sizes) - 1):
            layer = params[str(k)]
            x = x @ layer["w"] + layer["b"][None]
            if k < len(sizes) - 2:
                x = jax.nn.leaky_relu(x, 0.2)
        return x

    return init, apply


INIT_G, APPLY_G = mlp((Z, 64, 64, 2))
INIT_D, APPLY_D = mlp((2, 64, 64, 1))


def generate(params, z, batch):
    return APPLY_G(params["generator"], z)


def judge(params, x, batch):
    return APPLY_D(params["discriminator"], x)


def game(name, penalty=0.0, every=1):
    """Both players of a game on the ring."""
    optimizer = optax.adam(1e-3, b1=0.5, b2=0.9)
    options = {"latent_size": Z}
    return {
        "discriminator": Player(
            adversary.discriminator(generate, judge, GAMES[name], penalty=penalty, **options),
            optimizer,
            ("discriminator",),
        ),
        "generator": Player(
            adversary.generator(generate, judge, GAMES[name], **options),
            optimizer,
            ("generator",),
            every=every,
        ),
    }


def init_params(key):
    first, second = jax.random.split(key)
    return {"generator": INIT_G(first), "discriminator": INIT_D(second)}


def ring(rng, num):
    return (CENTRES[rng.integers(0, MODES, num)] + STD * rng.standard_normal((num, 2))).astype(
        np.float32
    )


def trained(the_players, steps, seed, batch=128):
    state = players.init_state(init_params, the_players, seed, average=False)
    step = jax.jit(players.make_train_step(the_players, ema_decay=None))
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        state, _ = step(state, {"x0": ring(rng, batch)})
    return state


def modes_found(state, num=2000):
    """How many modes have at least a share of 1 in 40 of samples within four deviations."""
    z = np.random.default_rng(9).standard_normal((num, Z)).astype(np.float32)
    made = np.asarray(generate(state.params, z, {}))
    distance = np.linalg.norm(made[:, None] - CENTRES[None], axis=-1)
    near = distance.min(axis=1) < 4 * STD
    counts = np.bincount(distance.argmin(axis=1)[near], minlength=MODES)
    return int((counts >= num / 40).sum()), float(near.mean())


@pytest.mark.slow
@pytest.mark.wide(3)
@pytest.mark.parametrize("seed", range(3))
def test_a_penalty_finds_all_modes_of_a_ring_and_a_slow_discriminator_loses_them(seed):
    """Mode collapse: the generator follows what it is told now, and only that."""
    held = trained(game("non_saturating", penalty=0.1), 2500, seed)
    found, near = modes_found(held)
    assert found == MODES
    assert near > 0.3
    slow = game("non_saturating")
    slow["discriminator"] = dataclasses.replace(slow["discriminator"], every=3)
    assert modes_found(trained(slow, 800, seed))[0] <= 2


def test_each_player_moves_its_own_and_the_generator_in_its_turn():
    several = game("hinge", penalty=1.0, every=2)
    state = players.init_state(init_params, several, 0, average=False)
    step = jax.jit(players.make_train_step(several, ema_decay=None))
    batch = {"x0": ring(np.random.default_rng(0), 32)}
    moved = []
    for _ in range(3):
        after, metrics = step(state, batch)
        moved.append(
            tuple(
                not np.array_equal(after.params[name]["0"]["w"], state.params[name]["0"]["w"])
                for name in ("discriminator", "generator")
            )
        )
        state = after
    assert moved == [(True, True), (True, False), (True, True)]
    assert {"discriminator_loss", "generator_loss"} <= {*metrics}


def test_the_penalty_is_half_gamma_times_the_squared_gradient():
    params = init_params(jax.random.key(0))
    batch = {"x0": jnp.asarray(ring(np.random.default_rng(1), 8))}
    args = (params, batch, jax.random.key(3), True, {})
    plain = adversary.discriminator(generate, judge, GAMES["hinge"], latent_size=Z)(*args)
    held = adversary.discriminator(generate, judge, GAMES["hinge"], latent_size=Z, penalty=4.0)(
        *args
    )
    slope = jax.vmap(jax.grad(lambda x: judge(params, x[None], batch)[0, 0]))(batch["x0"])
    np.testing.assert_allclose(
        held.loss - plain.loss, 2 * (slope**2).sum(axis=1), rtol=1e-4, atol=1e-5
    )


def test_noise_is_of_the_place_in_the_batch_alone():
    objective = adversary.generator(generate, judge, GAMES["hinge"], latent_size=Z)
    params, key = init_params(jax.random.key(0)), jax.random.key(3)
    batch = {"x0": jnp.zeros((8, 2))}
    whole = objective.draws(params, batch, key, True, {})["z"]
    few = objective.draws(params, {"x0": batch["x0"][:3]}, key, True, {})["z"]
    np.testing.assert_array_equal(few, whole[:3])
    assert (whole[0] != whole[1]).all()
