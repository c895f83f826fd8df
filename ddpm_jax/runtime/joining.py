"""How a process joins the others of its run: by flags, or as the cluster says."""

import contextlib
import dataclasses
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import peers

AUTO = "auto"
# jax's own heartbeat: ours comes first, on a loaded machine too.
JAX_HEARTBEAT = 600
JAX_SHUTDOWN = 60


@dataclasses.dataclass(frozen=True)
class Place:
    """A process's place in its run.

    Attributes:
      host, port: of process 0.
      count, process: how many there are, and which one this is, from 0.
      local_devices: the devices of this machine that it takes; None for all, or for jax to choose.
    """

    host: str
    port: int
    count: int
    process: int
    local_devices: list[int] | None = None


@contextlib.contextmanager
def joined(
    coordinator: str | None,
    num_processes: int | None = None,
    process_id: int | None = None,
    seconds: float = 300.0,
) -> Iterator[peers.Peers]:
    """Join the other processes of the run, and leave them in an orderly way; yields them.

    Before any device is used. In a run of one process nothing happens.

    Args:
      coordinator: host:port of process 0; "auto" for what the cluster says; None for one process.
      num_processes, process_id: with host:port.
      seconds: to wait for those that have not come.

    Raises:
      UserError: where the arguments do not fit, or those of the processes not to each other.
      PeerLost: where one did not come.
    """
    place = placed(coordinator, num_processes, process_id, seconds)
    if place is None or place.count == 1:
        yield peers.ALONE
        return
    others = _met(place, seconds)
    with peers.farewell(others):
        yield others
    # As all do now; at its own end, jax would want the relay, which may be gone by then.
    jax.distributed.shutdown()


def placed(
    coordinator: str | None, num_processes: int | None, process_id: int | None, seconds: float
) -> Place | None:
    """This process's place, None where it runs alone; raises UserError as `joined`."""
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise UserError("--num_processes and --process_id need --coordinator=host:port")
        return None
    if not 0 < seconds < math.inf:
        raise UserError(f"--join_timeout={seconds:g}: need a number of seconds above 0")
    if coordinator == AUTO:
        if num_processes is not None or process_id is not None:
            raise UserError(
                "--coordinator=auto: the cluster says how many processes there are and which one "
                "this is; leave out --num_processes and --process_id, or name host:port"
            )
        return detected(seconds)
    host, port = _address(coordinator, f"--coordinator={coordinator}")
    if num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise UserError(
            f"--coordinator={coordinator}: give --num_processes, and --process_id from 0 to one "
            f"less; got {num_processes} and {process_id}"
        )
    return Place(host, port, num_processes, process_id)


def detected(seconds: float) -> Place:
    """What the cluster says: Slurm, Open MPI, Kubernetes or a TPU pod, as jax reads them.

    Raises:
      UserError: where there is none of them, or what it says makes no sense.
    """
    # What jax.distributed.initialize() itself asks; it has no public name of its own.
    from jax._src import clusters

    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            address, count, process, devices = (
                clusters.ClusterEnv.auto_detect_unset_distributed_params(
                    None, None, None, None, None, int(max(seconds, 1))
                )
            )
    except Exception as error:  # of whatever asks a metadata server, or reads a variable
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"--coordinator=auto: the cluster does not say where the others are ({reason}); name "
            "--coordinator=HOST:PORT, --num_processes and --process_id"
        ) from error
    if address is None or count is None or process is None:
        hints = [str(one.message) for one in warned if "ubernetes" in str(one.message)]
        reason = " ".join(hints[0].split("For example")[0].split()) if hints else ""
        raise UserError(
            "--coordinator=auto: this is no task of Slurm (start it with srun), Open MPI, "
            f"Kubernetes or a TPU pod{f' ({reason.rstrip()})' if reason else ''}; name "
            "--coordinator=HOST:PORT, --num_processes and --process_id"
        )
    if not 0 <= process < count:
        raise UserError(
            f"--coordinator=auto: the cluster says that this is process {process} of {count}"
        )
    host, port = _address(address, f"--coordinator=auto: {address}")
    return Place(host, port, count, process, None if devices is None else [*devices])


def _address(text: str, named: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    # The next port is jax's own.
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65535:
        raise UserError(f"{named}: need HOST:PORT, with a port from 1 to 65534")
    return host.strip("[]"), int(port)


def _met(place: Place, seconds: float) -> peers.Peers:
    """All processes know of each other, and jax of them; raises as `joined`."""
    if place.process == 0:
        links, port = peers.gather(place.port, place.host, place.count, seconds)
        others = peers.Peers(0, place.count, links)
        here = f"{place.host}:{port}"
    else:
        link, port = peers.visit(place.host, place.port, place.process, place.count, seconds)
        relay = _relayed(place.host, port)
        others = peers.Peers(place.process, place.count, [link], keep=relay)
        assert relay.stdout is not None
        here = f"127.0.0.1:{int(relay.stdout.readline())}"
    others.start()
    # Signals stop a run between two steps, in all processes alike: see processes.agreed_stop.
    jax.config.update("jax_enable_preemption_service", False)
    alone = peers.here_alone(place.host)
    try:
        jax.distributed.initialize(
            here,
            place.count,
            place.process,
            place.local_devices,
            initialization_timeout=int(max(seconds, 1)),
            heartbeat_timeout_seconds=JAX_HEARTBEAT,
            shutdown_timeout_seconds=JAX_SHUTDOWN,
            coordinator_bind_address=f"127.0.0.1:{port}" if alone else None,
        )
    except (RuntimeError, ValueError) as error:
        others.goodbye(2)
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"cannot join the other processes ({reason})") from error
    return others


def _relayed(host: str, port: int) -> subprocess.Popen[bytes]:
    """A relay to process 0's jax, which says its port and ends with what holds it."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("relay.py")), host, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C is not for it: jax ends through it
    )
