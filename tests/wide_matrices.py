"""Which cases of a wide matrix run: a part of them at each commit, all of them within n commits."""

import collections
import subprocess
from pathlib import Path


def selected(marked, k):
    """The tests marked wide(n) that run at commit k, of {node id: n}; in n commits each of them.

    The cases of one test are a matrix. Tests that have fewer than n, or none, take turns with each
    other: all cases of theirs are a matrix of that n.
    """
    matrices = collections.defaultdict(list)
    for name in marked:
        matrices[name.split("[")[0]].append(name)
    turns = collections.defaultdict(list)
    for test in [test for test, cases in matrices.items() if len(cases) < marked[cases[0]]]:
        cases = matrices.pop(test)
        turns[marked[cases[0]]] += cases
    every = (*matrices.values(), *turns.values())
    return {name for cases in every for name in part(cases, marked[cases[0]], k)}


def part(cases, n, k):
    """Every n-th of a sequence of cases, from the k-th on; k counts around.

    One case at least runs of a matrix that has fewer than n. Over any n values of k in a row, each
    case runs.
    """
    stride = min(n, len(cases))
    return cases[k % n % stride :: stride] if stride else cases


def number_of_commits(folder):
    """How many commits lie behind what is checked out in a folder; 0 where no history says it."""

    def git(*arguments):
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        inside = Path(git("rev-parse", "--show-toplevel")).samefile(folder)
        if not inside or git("rev-parse", "--is-shallow-repository") == "true":
            return 0
        return int(git("rev-list", "--count", "HEAD"))
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0
