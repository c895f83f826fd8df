"""How the suite compiles: quickly, as a user's run where bits must agree; how large it grows."""

import contextlib
import ctypes
import gc
import math
from pathlib import Path

# Most programs of the suite run once: compiling them is what costs (a step of a tiny U-Net took
# 9.9 s to compile, with these 3.5 s).
QUICKLY = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": "false"}

# jax.jit's compiler_options of two programs that must agree to the bit: without the fusion
# emitters, multiplications and additions contract in one program and not in the other.
TO_THE_BIT = {"xla_cpu_use_fusion_emitters": True}


def flags(asked, quickly):
    """XLA_FLAGS as asked for, and those of `quickly` that it does not name."""
    names = {word.lstrip("-").split("=")[0] for word in asked.split()}
    more = [f"--{name}={value}" for name, value in quickly.items() if name not in names]
    return " ".join([*asked.split(), *more])


# A process that keeps programs beyond it forgets them all; the largest module adds less than 1 GB.
LARGE = 2**30


def resident_size():
    """Bytes of memory that this process holds; infinity where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return math.inf
    return pages * 4096


def give_back_memory():
    """Return to the system what was freed: glibc alone keeps it, half of what programs took."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
