"""How the suite compiles: quickly, as a user's run where bits must agree; how large it grows."""

import contextlib
import ctypes
import gc
import os
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


# Beyond so many bytes a process forgets its programs. A worker that has imported torch and every
# file of tests holds 1 GB already, and no test adds more than a half.
LARGE = 1.5e9
ROOM = 0.3e9  # before it forgets again, were it as large without any
_limit = LARGE


def stay_small():
    """Forget all compiled programs if this process holds much memory, and return it."""
    global _limit
    if resident_size() < _limit:
        return
    import jax  # after the flags are set

    jax.clear_caches()
    gc.collect()
    # glibc keeps what was freed: of 564 MB after one tiny run, 240.
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    _limit = max(LARGE, resident_size() + ROOM)


def resident_size():
    """Bytes of memory that this process holds; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


_COMPILED = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def compilations():
    """A list that gets the name of each function that is compiled meanwhile, cached or not."""
    seen = []

    import jax  # after the flags are set

    def listen(event, duration, **metadata):
        if event == _COMPILED:
            seen.append(metadata["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
