"""Scripts run in processes of their own that need not import jax anew.

A server, started once by each thread of tests, imports what most scripts import and forks for each
script: a process with its own flags, files and exit code, as `python scripts/NAME.py` but for two
seconds of imports. It has started no backend and no thread of jax's when it forks.

  python tests/script_server.py  # one request a line on stdin, one answer a line on stdout
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
    """Answer requests until stdin ends; a fork returns its script's exit code.

    {"argv", ...} of `become` is answered by the pid of the fork, {"pid", "block"} by its exit code
    or null if it runs, which is told once.
    """
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "pid" in request:
            pid, status = os.waitpid(request["pid"], 0 if request["block"] else os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # jax warns of any fork
                answer = os.fork()
            if answer == 0:
                answers.close()
                return become(**request)
        print(json.dumps(answer), file=answers, flush=True)
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


class Started:
    """A script that runs, or has run: as much of subprocess.Popen as the tests need.

    Args:
      argv: the script, its path from the root first.
      environment: all of its variables.
    """

    def __init__(self, argv, environment):
        self._server, self.args, self.returncode = _server(environment), argv, None
        self._folder = tempfile.TemporaryDirectory()
        self._paths = [os.path.join(self._folder.name, name) for name in ("stdout", "stderr")]
        for path in self._paths:
            open(path, "w").close()
        variables = {name: environment[name] for name in _passing(environment)}
        stdout, stderr = self._paths
        self.pid = self._ask(argv=argv, stdout=stdout, stderr=stderr, variables=variables)

    def _ask(self, seconds=None, **request):
        """The server's answer; past so many seconds the script is killed."""
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        late = not select.select([self._server.stdout], [], [], seconds)[0]
        if late:
            os.kill(self.pid, signal.SIGKILL)
        said = self._server.stdout.readline()
        assert said, "the server of scripts has ended; its stderr says why"
        if late:
            self.returncode = json.loads(said)
            raise subprocess.TimeoutExpired(self.args, seconds)
        return json.loads(said)

    def poll(self):
        """The exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._ask(pid=self.pid, block=False)
        return self.returncode

    def wait(self, timeout):
        """The exit code when it has ended.

        Raises:
          subprocess.TimeoutExpired: it is killed then.
        """
        if self.returncode is None:
            self.returncode = self._ask(timeout, pid=self.pid, block=True)
        return self.returncode

    def send_signal(self, number):
        """As by kill, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def said(self):
        """What it has written to stdout and stderr."""
        return [Path(path).read_text() for path in self._paths]


def run(argv, environment, timeout):
    """Run a script, its path from the root first, to its end: a subprocess.CompletedProcess.

    Raises:
      subprocess.TimeoutExpired: it is killed then.
    """
    started = Started(argv, environment)
    return subprocess.CompletedProcess(argv, started.wait(timeout), *started.said())


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
    """The variables that are another for each test, which nothing reads when it is imported."""
    return {name for name in environment if name.startswith("PYTEST_")} | (
        {"XDG_CACHE_HOME"} & set(environment)
    )


def stop(server):
    """End a server; nothing where it has ended."""
    server.stdin.close()
    server.wait(timeout=60)
    server.stdout.close()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(serve())
