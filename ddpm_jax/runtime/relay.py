"""Between this process's jax and the coordinator of the run: a process of its own.

  python relay.py HOST PORT  # says the port that it listens on; ends with its stdin

jax aborts a process at once where its connection to the coordinator closes, as it does when process
0 dies. What it is connected to is this, which lives as long as the process does: when the other end
is gone, it keeps the connection and is silent, and our own heartbeat (peers.py) ends the process
with a line that names the one that died. Nothing but the standard library, and no lock that a long
call of the process could hold.
"""

import contextlib
import os
import socket
import sys
import threading


def serve(host: str, port: int) -> None:
    """Pass on what comes to a port of this machine's own, until stdin ends."""
    silent = []
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    while True:
        here, _ = listening.accept()
        try:
            there = socket.create_connection((host, port), timeout=60)
        except OSError:
            silent.append(here)
            continue
        there.settimeout(None)
        for one in (here, there):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for ends in ((here, there, True), (there, here, False)):
            threading.Thread(target=_pass_on, args=ends, daemon=True).start()


def _pass_on(source: socket.socket, to: socket.socket, end_too: bool) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(2**16):
            to.sendall(content)
        if end_too:
            to.shutdown(socket.SHUT_WR)


def _end_with_stdin() -> None:
    while os.read(0, 2**10):
        pass
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
