import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_training import init_params

from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.digests import digest, digests
from ddpm_jax.training.state import init_state

TREE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.zeros(4, np.int32)}}


def changed(**leaves):
    return TREE | leaves


@pytest.mark.parametrize(
    "other",
    [
        changed(a=TREE["a"].reshape(3, 2)),
        changed(a=TREE["a"].view(np.int32)),
        changed(a=np.nextafter(TREE["a"], np.float32(9))),
        changed(a=np.where(TREE["a"] == 0, np.float32(-0.0), TREE["a"])),
        changed(b={"d": TREE["b"]["c"]}),
        changed(b={"c": np.zeros(5, np.int32)}),
        changed(b={"c": np.zeros(4, np.int32), "d": np.zeros(0, np.int32)}),
        {"b": TREE["a"], "a": {"c": TREE["b"]["c"]}},
        {"a": TREE["a"]},
    ],
    ids=["shape", "dtype", "last bit", "sign of 0", "path", "size", "empty leaf", "swap", "less"],
)
def test_a_digest_sees_every_change(other):
    assert digest(other) != digest(TREE)


def test_a_digest_knows_neither_order_nor_layout_nor_placement():
    straight = digest(TREE)
    assert digest(dict(reversed(TREE.items()))) == straight
    assert digest(changed(a=np.asfortranarray(TREE["a"]))) == straight
    assert digest(jax.tree.map(jnp.asarray, TREE)) == straight
    rows = {"a": np.arange(16, dtype=np.float32)}
    spread = jax.device_put(rows, sharding.batch_sharding(sharding.make_mesh()))
    assert len(spread["a"].devices()) == 8
    assert digest(spread) == digest(rows)


def test_a_digest_reads_keys_and_half_precision():
    keys = [{"key": jax.random.key(seed)} for seed in (0, 1, 0)]
    assert digest(keys[0]) != digest(keys[1])
    assert digest(keys[0]) == digest(keys[2])
    half = [{"x": jnp.full(2, value, jnp.bfloat16)} for value in (1, 2)]
    assert digest(half[0]) != digest(half[1])


def test_the_first_state_is_a_function_of_the_seed():
    init = functools.partial(init_params, num_steps=3)

    def of(seed):
        return init_state(init, optax.adam(1e-3), seed)

    assert digests(of(5)) == digests(of(5))
    names = ("params_sha256", "ema_sha256", "state_sha256")
    assert set(digests(of(5))) == set(names)
    assert all(digests(of(5))[name] != digests(of(6))[name] for name in names)


def test_the_first_state_starts_every_part():
    key_seen = []

    def init(key):
        key_seen.append(jax.random.key_data(key))
        return init_params(key, 3)

    state = init_state(init, optax.adam(1e-3), 0)
    assert state.step == 0
    assert digest(state.ema["default"]) == digest(state.params)
    moments = state.opt_state[0]
    assert all(not leaf.any() for leaf in jax.tree.leaves((moments.mu, moments.nu)))
    # The run must not draw its noise from the key that the parameters came from.
    assert (jax.random.key_data(state.key) != key_seen[0]).any()
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.ema))]
    assert len(set(buffers)) == len(buffers)
