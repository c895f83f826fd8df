"""Scripts run to their end in processes of their own that need not import jax anew.

A server, started once by each thread of tests, imports what most scripts import and forks for each
script: a process with its own flags, files and exit code, as `python scripts/NAME.py` but for two
seconds of imports. It has started no backend and no thread of jax's when it forks.

  python tests/script_server.py  # one request a line on stdin: the pid and the exit code on stdout
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What most scripts import, and nothing that defines flags of some scripts alone.
IMPORTED = ("ddpm_jax.experiment", "ddpm_jax.commands.train.train", "scipy.stats", "sklearn.svm")
_servers: dict = {}  # by process, thread and environment


def serve():
    """Fork for each request until stdin ends; a fork returns its script's exit code."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jax warns of any fork
            pid = os.fork()
        if pid == 0:
            answers.close()
            return become(**request)
        print(pid, file=answers, flush=True)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(code, file=answers, flush=True)
    return 0


def become(argv, stdout, stderr, variables):
    """Run the script in this process, as Python would; returns its exit code."""
    for number, (path, mode) in enumerate(
        [(os.devnull, os.O_RDONLY), (stdout, os.O_WRONLY), (stderr, os.O_WRONLY)]
    ):
        opened = os.open(path, mode)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.update(variables)
    sys.argv = argv
    sys.path[0] = str((ROOT / argv[0]).parent)
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run(argv, environment, timeout):
    """Run a script, its path from the root first, to its end: a subprocess.CompletedProcess.

    Raises:
      subprocess.TimeoutExpired: it is killed then.
    """
    server = _server(environment)
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        for path in paths:
            open(path, "w").close()
        variables = {name: environment[name] for name in _passing(environment)}
        request = {"argv": argv, "stdout": paths[0], "stderr": paths[1], "variables": variables}
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        said = server.stdout.readline()
        assert said, "the server of scripts has ended; its stderr says why"
        pid = int(said)
        late = not select.select([server.stdout], [], [], timeout)[0]
        if late:
            os.kill(pid, signal.SIGKILL)
        code = int(server.stdout.readline())
        if late:
            raise subprocess.TimeoutExpired(argv, timeout)
        said = [Path(path).read_text() for path in paths]
    return subprocess.CompletedProcess(argv, code, *said)


def _server(environment):
    """The server of this test process for an environment; started where there is none."""
    lasting = {key: environment[key] for key in set(environment) - _passing(environment)}
    here = os.getpid(), threading.get_ident()  # it serves one after the other
    key = *here, json.dumps(lasting, sort_keys=True)
    if key not in _servers:
        for other in [other for other in _servers if other[:2] == here]:
            stop(_servers.pop(other))
        _servers[key] = subprocess.Popen(
            [sys.executable, __file__],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        atexit.register(stop, _servers[key])
    return _servers[key]


def _passing(environment):
    """The variables that are another for each test: pytest's."""
    return {name for name in environment if name.startswith("PYTEST_")}


def stop(server):
    """End a server; nothing where it has ended."""
    server.stdin.close()
    server.wait(timeout=60)
    server.stdout.close()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(serve())
