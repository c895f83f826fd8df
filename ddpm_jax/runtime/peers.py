"""The processes of one run: how they find each other, and how those that are left end.

A star of TCP connections around process 0, at the address of --coordinator. Every process says
there who it is, before jax is told of anything: so one that is missing is named, and what does not
fit is refused in one line. The connections stay, and carry a beat every few seconds. A process
that is killed closes its connection at once; one whose machine is lost or stopped is silent. Either
way the others end within a minute, with exit code 76 and a line that names it, where jax would wait
for minutes in a collective or abort. The next port is jax's own.
"""

# Over 300 lines: one protocol, both of its ends and what comes of it.

import atexit
import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ddpm_jax.errors import PeerLost, UserError
from ddpm_jax.runtime.last_acts import done_in_time

BEAT = 5.0  # seconds between two signs of life
SILENT = 30.0  # without one: the process is lost
GRACE = 15.0  # for the others to end by themselves, where one said that it failed
STALLED = 10.0  # this process itself did not run: what it heard of others says nothing
SAID_AFTER = 10.0  # who is waited for, while processes join
MAX_LINE = 2**16
ORDERLY = (0, 75)  # exit codes after which nobody is missed: see experiment.running
PROTOCOL = "ddpm_jax-1"

Message = dict[str, Any]


class Link:
    """A connection to another process, of messages as lines of JSON."""

    def __init__(self, connection: socket.socket, process: int = -1, host: str = "?"):
        self.connection, self.process, self.host = connection, process, host
        self.heard = time.monotonic()
        self.failed: tuple[float, int] | None = None  # when it said so, and its exit code
        self.open = True
        self._in, self._out = b"", b""
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)

    def fileno(self) -> int:
        """For selectors."""
        return self.connection.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send it, or as much as goes now; one that is not there is noticed by reading."""
        self._out += json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):
            while self._out:
                self._out = self._out[self.connection.send(self._out) :]

    def read(self) -> list[Message]:
        """What has come; `open` is false after the last."""
        try:
            while content := self.connection.recv(MAX_LINE):
                self._in += content
                self.heard = time.monotonic()
                if len(self._in) > MAX_LINE:
                    break
            self.open = False  # its end, or no line of ours
        except BlockingIOError:
            pass
        except OSError:
            self.open = False
        *lines, self._in = self._in.split(b"\n")
        messages = []
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict):
                self.open = False
                break
            messages.append(message)
        return messages

    def close(self) -> None:
        """Close it."""
        self.open = False
        with contextlib.suppress(OSError):
            self.connection.close()


class Peers:
    """The other processes of this run, watched by a thread; none of them in a run of one process.

    Args:
      process: this one's number.
      count: how many there are.
      links: to all others from process 0; to process 0 from all others.
      keep: what must not end before this process does.
    """

    def __init__(
        self,
        process: int = 0,
        count: int = 1,
        links: list[Link] | None = None,
        keep: Any = None,
    ):
        self.process, self.count, self._keep = process, count, keep
        self._links = links or []
        self._last_act: Callable[[str], Any] = lambda line: None
        self._over = threading.Event()
        self._ending = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)

    def start(self) -> None:
        """Begin to watch the others."""
        if self._links:
            self._thread.start()

    def before_end(self, act: Callable[[str], Any]) -> None:
        """What is done, with the line that is said, before this process ends for want of another.

        Args:
          act: takes the line; what it raises is passed over, and what does not return is left.
        """
        self._last_act = act

    def goodbye(self, code: int) -> None:
        """Tell the others that this process ends by itself, so that nobody misses it.

        Args:
          code: its exit code; the others end too, a little later, where it is a failure's.
        """
        with self._ending:
            if self._over.is_set():
                return
            self._over.set()
            for link in [*self._links]:
                link.send({"goodbye": code})

    def judged(self) -> None:
        """Wait as long as it takes to notice that another process is gone, which ends this one.

        For an error that may be of another's making, such as that of a collective.
        """
        late = time.monotonic() - 2 * BEAT
        doubtful = any(link.failed or link.heard < late for link in [*self._links])
        if self.count > 1:
            self._over.wait(SILENT + 2 * BEAT if doubtful else BEAT)

    def _watch(self) -> None:
        selector = selectors.DefaultSelector()
        for link in self._links:
            selector.register(link, selectors.EVENT_READ)  # each leaves it where it closes
        woke = sent = time.monotonic()
        while not self._over.is_set():
            ready = selector.select(timeout=1.0)
            now = time.monotonic()
            stalled, woke = now - woke > STALLED, now
            for key, _ in ready:
                one = key.fileobj
                assert isinstance(one, Link)
                self._read(one)
                if not one.open:
                    selector.unregister(one)
                    one.close()
                    if not one.failed:
                        self._links.remove(one)
            for link in self._links:
                if stalled:
                    link.heard = now
                self._look(link, now)
                if now - sent > BEAT:
                    link.send({"beat": 1})
            sent = now if now - sent > BEAT else sent

    def _read(self, link: Link) -> None:
        for message in link.read():
            if "lost" in message:
                mine = message.get("process") == self.process
                self._end(f"{'the others missed this one: ' if mine else ''}{message['lost']}")
            elif "goodbye" in message:
                code = message["goodbye"]
                if code in ORDERLY:
                    link.open = False
                    return
                link.failed = time.monotonic(), code
        if not link.open and not link.failed:
            self._end(f"{self._named(link)} is gone: its connection was closed", link)

    def _look(self, link: Link, now: float) -> None:
        if link.failed:
            when, code = link.failed
            if now - when > GRACE:
                self._end(f"{self._named(link)} ended with exit code {code}; it says why", link)
        elif now - link.heard > SILENT:
            self._end(f"{self._named(link)} is gone: not heard of for {SILENT:g} s", link)

    def _named(self, link: Link) -> str:
        return f"process {link.process} of {self.count} (on {link.host})"

    def _end(self, line: str, lost: Link | None = None) -> None:
        """Say it, tell the others, and end this process; nothing where it ends by itself."""
        with self._ending:
            if self._over.is_set():
                return
            for link in [*self._links]:
                link.send({"lost": line, "process": lost.process if lost else None})
            text = (
                f"error: {line}; this process ends too, with exit code {PeerLost.exit_code}. Run "
                "the same command again, in all, to go on from the last checkpoint"
            )
            try:
                done_in_time(lambda: print(text, file=sys.stderr, flush=True))
                done_in_time(lambda: self._last_act(line))
            finally:
                os._exit(PeerLost.exit_code)


ALONE = Peers()


def gather(port: int, host: str, count: int, seconds: float) -> tuple[list[Link], int]:
    """Process 0: wait for the others; returns a link to each, and the port that is jax's.

    Args:
      port: to listen at.
      host: its name in --coordinator: where it is this machine alone, nobody else is let in.
      count: how many processes there are.
      seconds: to wait.

    Raises:
      UserError: where the port is taken.
      PeerLost: naming those that did not come.
    """
    listening = _listening(port, host)
    links: dict[int, Link] = {}
    selector = selectors.DefaultSelector()
    selector.register(listening, selectors.EVENT_READ)
    began, said = time.monotonic(), False
    with contextlib.closing(listening):
        while len(links) < count - 1:
            waited = time.monotonic() - began
            missing = sorted({*range(1, count)} - links.keys())
            names = f"process{'es' if len(missing) > 1 else ''} {_listed(missing)} of {count}"
            if waited > seconds:
                line = f"{names} did not come within {seconds:g} s (--join_timeout)"
                for link in links.values():
                    link.send({"missing": line})
                raise PeerLost(f"{line}; start all of them again")
            if waited > SAID_AFTER and not said:
                said = True
                print(f"waiting for {names}, up to {seconds:g} s", file=sys.stderr, flush=True)
            for key, _ in selector.select(timeout=min(0.5, seconds)):
                if key.fileobj is listening:
                    with contextlib.suppress(OSError):
                        selector.register(Link(listening.accept()[0]), selectors.EVENT_READ)
                    continue
                newcomer = key.fileobj
                assert isinstance(newcomer, Link)
                _enter(newcomer, links, count, selector)
    jax_port = _free_port(port + 1)
    for link in links.values():
        link.send({"welcome": jax_port})
        link.heard = time.monotonic()
    return [links[k] for k in sorted(links)], jax_port


def _enter(
    link: Link, links: dict[int, Link], count: int, selector: selectors.BaseSelector
) -> None:
    """Take what a newcomer says of itself; refuse what does not fit; forget who has gone again."""
    for message in link.read():
        if message.get("hello") != PROTOCOL:
            link.open = False
            break
        process, of = message.get("process"), message.get("of")
        if of != count:
            wrong = f"--num_processes={of}: process 0 has {count}; give the same in all"
        elif not isinstance(process, int) or not 0 < process < count:
            wrong = f"--process_id={process}: process 0 knows 1 to {count - 1}"
        elif process in links and links[process].open:
            wrong = f"--process_id={process} is taken, on {links[process].host}"
        else:
            link.process, link.host = process, str(message.get("host"))[:100]
            links[process] = link
            continue
        link.send({"refused": wrong})
    if not link.open:
        selector.unregister(link)
        if links.get(link.process) is link:
            del links[link.process]
        link.close()


def visit(host: str, port: int, process: int, count: int, seconds: float) -> tuple[Link, int]:
    """Another process than 0: come to process 0; returns the link to it, and the port of its jax.

    Args:
      host, port: of process 0.
      process, count: this process's number, and how many there are.
      seconds: to wait for process 0, and for those that it waits for.

    Raises:
      UserError: for what process 0 refuses.
      PeerLost: where it cannot be reached, or others did not come.
    """
    began, reason = time.monotonic(), "no answer"

    def left() -> float:
        return began + seconds - time.monotonic()

    while True:
        try:
            connection = socket.create_connection((host, port), timeout=max(min(5.0, left()), 0.1))
        except OSError as error:
            reason = error.strerror or str(error)
            if left() < 0.5:
                raise PeerLost(
                    f"process 0 of {count} did not come to {host}:{port} within {seconds:g} s "
                    f"(--join_timeout; {reason}); start all of them again"
                ) from error
            time.sleep(0.3)
            continue
        link = Link(connection, 0, host)
        link.send(
            {"hello": PROTOCOL, "process": process, "of": count, "host": socket.gethostname()}
        )
        # Process 0 may have begun to wait later than this one did: it says who is missing.
        answer = _answer(link, time.monotonic() + seconds + SILENT)
        if "welcome" in answer:
            return link, int(answer["welcome"])
        link.close()
        if "refused" in answer:
            raise UserError(str(answer["refused"]))
        if "missing" in answer:
            raise PeerLost(f"{answer['missing']}; start all of them again")
        reason = f"what answers at {host}:{port} is no run of this package, or has just ended"
        if left() < 0.5:
            raise PeerLost(f"process 0 of {count} cannot be joined ({reason})")
        time.sleep(0.3)


def _answer(link: Link, until: float) -> Message:
    """The first thing that process 0 says; {} where it says nothing, or goes."""
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ)
        while link.open and time.monotonic() < until:
            if selector.select(timeout=0.5) and (messages := link.read()):
                return messages[0]
    return {}


def _listening(port: int, host: str) -> socket.socket:
    try:
        if here_alone(host):
            return socket.create_server(("127.0.0.1", port))
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096
            )
        return socket.create_server(("", port), backlog=4096)
    except OSError as error:
        raise UserError(
            f"--coordinator={host}:{port}: process 0 cannot listen there "
            f"({error.strerror or error}); name another port, the same in all"
        ) from error


def here_alone(host: str) -> bool:
    """Whether the name is that of this machine for itself."""
    return host in ("localhost", "127.0.0.1")


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with contextlib.suppress(OSError, OverflowError), socket.create_server(("", port)) as one:
            return int(one.getsockname()[1])
    raise UserError("this machine has no free port left")


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


@contextlib.contextmanager
def farewell(peers: Peers) -> Iterator[None]:
    """What the others are told when this process leaves the context, however it does."""
    try:
        yield
    except UserError as error:
        _leave(peers, error.exit_code)
        raise
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        _leave(peers, code) if code not in ORDERLY else peers.goodbye(code)
        raise
    except RuntimeError:
        peers.judged()  # a collective fails where another process dies, before anybody notices
        _leave(peers, 1)
        raise
    except BaseException as error:
        _leave(peers, 130 if isinstance(error, KeyboardInterrupt) else 1)
        raise
    peers.goodbye(0)


def _leave(peers: Peers, code: int) -> None:
    """Say goodbye, and leave out jax's own end, which would wait minutes for the others."""
    if peers.count == 1:
        return
    peers.goodbye(code)

    def end() -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    atexit.register(end)
