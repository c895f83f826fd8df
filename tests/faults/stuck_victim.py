"""scripts/train.py in a process that gets stuck: python stuck_victim.py PLACE FILE flags...

What is stuck is the script itself; only the one function is wrapped. FILE is made when it is.
"""

import os
import runpy
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
STUCK_STEP = 4


def wait_for_a_machine_that_is_dead():
    """Blocks in C, without the interpreter's lock."""
    threading.Event().wait()


def arm(place, mark):
    """Wrap a function: "step" blocks in step 4, "sync" in putting the files of its save on disk."""
    from ddpm_jax.reporting.progress import Progress
    from ddpm_jax.training import checkpoints

    advance, fsync, steps = Progress.advance, os.fsync, 0

    def advance_or_wait(self):
        nonlocal steps
        if steps == STUCK_STEP - 1:  # the save before is over
            for thread in threading.enumerate():
                if thread.name == checkpoints.WRITER:
                    thread.join()
        steps += 1
        if steps == STUCK_STEP and place == "step":
            mark.touch()
            wait_for_a_machine_that_is_dead()
        advance(self)

    def fsync_or_wait(number):
        if steps >= STUCK_STEP and place == "sync":
            mark.touch()
            time.sleep(10_000)
        fsync(number)

    Progress.advance, os.fsync = advance_or_wait, fsync_or_wait


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    arm(sys.argv[1], Path(sys.argv[2]))
    sys.argv = [str(ROOT / "scripts" / "train.py"), *sys.argv[3:]]
    runpy.run_path(sys.argv[0], run_name="__main__")
