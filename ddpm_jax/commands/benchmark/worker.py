"""A process that repeats one piece of work when a line asks for it: `processes.Worker`'s other end.

A line of JSON each way. The first one says what to set up and is answered by facts of it; each
further one, {"repeats": n}, by {"seconds", "cpu_seconds"}. It ends with its input.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# Who does the work: a module each, whose `start` makes a Work of a spec. They are imported here
# alone, so that jax and torch never share a process.
SIDES = {
    "ours": "ddpm_jax.commands.benchmark.ours",
    "diffusers": "ddpm_jax.commands.benchmark.peers",
    "transformers": "ddpm_jax.commands.benchmark.clip_peer",
}


class Work(NamedTuple):
    """What a worker repeats.

    Attributes:
      facts: of it, JSON: the answer to the spec.
      run: n -> None, does it n times and returns when the device has finished.
    """

    facts: dict[str, Any]
    run: Callable[[int], None]


def main() -> None:
    """Answer the lines of the standard input, until there is none."""
    # What libraries print must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    spec = json.loads(sys.stdin.readline())
    work: Work = importlib.import_module(SIDES[spec["side"]]).start(spec)
    answer(work.facts)
    for line in sys.stdin:
        began, cpu_began = time.perf_counter(), time.process_time()
        work.run(json.loads(line)["repeats"])
        seconds = time.perf_counter() - began
        answer({"seconds": seconds, "cpu_seconds": time.process_time() - cpu_began})


if __name__ == "__main__":
    main()
