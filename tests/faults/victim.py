"""scripts/train.py in a process that kills itself: python victim.py POINT COUNT flags of train...

At the COUNT-th time that it comes to the point it is gone, as by kill -9: no handler runs, nothing
is flushed. What is killed is the script itself; only the one function is wrapped.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def half_deleted(folder, **_):
    """What rmtree has done when it is killed."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    for path in files[: len(files) // 2]:
        path.unlink()


def points():
    """{name: (the module, its function, when the process dies: before, after or instead)}."""
    from ddpm_jax.runtime import files
    from ddpm_jax.training import checkpoints, step_files

    return {
        # Orbax has written, the digests are not there yet.
        "saved": (step_files, "_sums", "before"),
        # All is written under the other name.
        "before rename": (checkpoints.os, "rename", "before"),
        "after rename": (checkpoints.os, "rename", "after"),
        "clean-up": (checkpoints.shutil, "rmtree", "instead"),
        "restore": (step_files, "verify", "after"),
        "restored": (step_files, "read", "after"),
        "json": (files.os, "replace", "before"),
    }


POINTS = ("saved", "before rename", "after rename", "clean-up", "restore", "restored", "json")


def arm(point, count):
    """Wrap the function of a point."""
    module, name, when = points()[point]
    function, seen = getattr(module, name), 0

    def wrapped(*args, **kwargs):
        nonlocal seen
        if point == "clean-up" and "leaving" not in str(args[0]):
            return function(*args, **kwargs)
        seen += 1
        if seen == count and when == "before":
            die()
        if seen == count and when == "instead":
            half_deleted(*args)
            die()
        result = function(*args, **kwargs)
        if seen == count:
            die()
        return result

    setattr(module, name, wrapped)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    arm(sys.argv[1], int(sys.argv[2]))
    sys.argv = [str(ROOT / "scripts" / "train.py"), *sys.argv[3:]]
    runpy.run_path(sys.argv[0], run_name="__main__")
