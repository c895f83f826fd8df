"""How programs are compiled that spend their time in a network."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax

# Which operations of a CPU's programs XLA hands to YNNPACK. By default convolutions are among them,
# and those to fewer than 128 channels then run on one core, however many there are. On two AVX2
# cores, in float32, of 3x3 pixels:
#
#   [B, H, W, C] -> channels    YNNPACK    Eigen     torch
#   [16, 32, 32, 64] -> 64      36 ms      19 ms     17 ms
#   [16, 32, 32, 32] -> 32      10 ms      4.9 ms    4.5 ms
#   [64, 8, 8, 32] -> 32        2.6 ms     1.3 ms    1.2 ms
#   [64, 4, 4, 64] -> 64        2.4 ms     1.3 ms    1.2 ms
#   [1, 16, 16, 64] -> 64       0.74 ms    0.39 ms   0.57 ms
#   [8, 32, 32, 128] -> 128     38 ms      35 ms     33 ms
#
# Small products of matrices are faster with it.
_OPERATIONS = "xla_cpu_experimental_ynn_fusion_type"
_WITH_YNNPACK = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit` with the compiler's options for a network on this machine.

    For what is called by itself: the options go with a whole program, not with a part of one.

    Args:
      function: to compile.
      options: of `jax.jit`; "compiler_options" win over those that are set here.
    """
    asked = options.pop("compiler_options", None) or {}
    return jax.jit(function, compiler_options={**_of_networks(), **asked} or None, **options)


def _of_networks() -> dict[str, Any]:
    """Options of every such program; none but on CPUs, and none where XLA_FLAGS name them."""
    if jax.default_backend() != "cpu" or _OPERATIONS in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {_OPERATIONS: _WITH_YNNPACK} if _is_known() else {}


@functools.cache
def _is_known() -> bool:
    """Whether this jaxlib has the option, which is none of those that stay."""
    try:
        jax.jit(lambda: 0, compiler_options={_OPERATIONS: _WITH_YNNPACK}).lower().compile()
    except (RuntimeError, ValueError):  # "No such compile option", or another spelling of its value
        return False
    return True
