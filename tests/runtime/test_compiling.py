"""Convolutions of few channels are compiled for all cores of a CPU."""

import jax
import jax.numpy as jnp
import pytest

from ddpm_jax.runtime import compiling


def convolved(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


SHAPES = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((16, 16, 16, 64), (3, 3, 64, 64))]


def compiled(jit, **options):
    return jit(convolved, **options).lower(*SHAPES).compile().as_text()


def test_convolutions_are_left_to_the_library_that_shares_them_among_cores(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert "ynn" in compiled(jax.jit)  # without it there is nothing to mend here
    assert "ynn" not in compiled(compiling.jit)


def test_what_the_caller_asked_of_the_compiler_wins(monkeypatch):
    asked = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"}
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert "ynn" in compiled(compiling.jit, compiler_options=asked)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")
    assert "ynn" in compiled(compiling.jit)  # this process read its flags before


def test_a_jaxlib_without_the_option_compiles_as_it_does(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(compiling, "_OPERATIONS", "xla_cpu_no_such_option")
    compiling._is_known.cache_clear()
    try:
        assert "convolution" in compiled(compiling.jit)
    finally:
        compiling._is_known.cache_clear()


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_it_is_an_option_of_cpus_alone(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert compiling._of_networks() == {}
