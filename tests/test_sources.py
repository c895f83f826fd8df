"""Digests of parts written in Python: another constant is another part, another comment is not."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.runtime.sources import digest_of

SCRIPT = """
import functools, jax, jax.numpy as jnp
from ddpm_jax.runtime.sources import digest_of
{extra}
FACTOR = {factor}

def helper(x):
    return FACTOR * x {comment}

def made(scale):
    def loss(network, schedule, x0, t, eps):
        return (lambda: scale * helper(x0))()
    return loss

print(digest_of(made({scale})))
"""


def printed(tmp_path, **changes):
    """The digest that another process finds, of a file of its own."""
    path = tmp_path / "own.py"
    path.write_text(
        SCRIPT.format(**({"extra": "", "factor": 2, "comment": "", "scale": 3} | changes))
    )
    return subprocess.run(
        [sys.executable, path], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.slow
@pytest.mark.wide(6)
def test_another_process_finds_the_same_and_sees_every_change(tmp_path):
    plain = printed(tmp_path)
    assert printed(tmp_path) == plain
    assert printed(tmp_path, extra="UNUSED = 1  # and a comment") == plain
    assert printed(tmp_path, factor=2.5) != plain
    assert printed(tmp_path, comment="+ 1") != plain
    assert printed(tmp_path, scale=4) != plain


@dataclasses.dataclass
class Point:
    x: float
    inner: object = None


def of_default(x, scale=1.0):
    return scale * x


def made(scale):
    return lambda x: scale * x


SAME = {
    "a closure": lambda: made(2.0),
    "a partial": lambda: functools.partial(of_default, scale=2.0),
    "a record": lambda: Point(1.0, {"a": (1, "b")}),
    "an array": lambda: np.arange(3.0),
    "a jax array": lambda: jnp.arange(3.0),
    "a key": lambda: jax.random.key(3),
    "a jitted one": lambda: jax.jit(made(2.0)),
    "a schedule": lambda: schedules.cosine(10),
    "an optimiser": lambda: optax.adam(1e-3),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_made_anew_is_the_same(name):
    assert digest_of(SAME[name]()) == digest_of(SAME[name]())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (made(2.0), made(3.0)),
        (jax.jit(made(2.0)), jax.jit(made(3.0))),
        (functools.partial(of_default, scale=2.0), functools.partial(of_default, scale=3.0)),
        (Point(1.0), Point(2.0)),
        (Point(1.0, [1, 2]), Point(1.0, [2, 1])),
        (1, True),
        (0.0, -0.0),
        (np.arange(3.0), np.arange(3)),
        (jax.random.key(3), jax.random.key(4)),
        (schedules.cosine(10), schedules.cosine(11)),
        (schedules.cosine(10), schedules.linear(10)),
        (optax.adam(1e-3), optax.adam(2e-3)),
        (made, of_default),
    ],
)
def test_what_differs_is_seen(one, other):
    assert digest_of(one) != digest_of(other)


def test_what_holds_itself_ends():
    point = Point(1.0)
    point.inner = point
    assert digest_of(point) != digest_of(Point(1.0))
