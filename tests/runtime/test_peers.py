"""Processes find each other, name those that do not come, and end where one of them is gone."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny_runs

from ddpm_jax.errors import PeerLost, UserError
from ddpm_jax.runtime import peers

PEER = Path(__file__).with_name("peer.py")
ROOT = PEER.parents[2]


class Meeting:
    """Processes of one run that join in threads; what came of each, by (process, try)."""

    def __init__(self, port, count, seconds=20.0):
        self.port, self.count, self.seconds = port, count, seconds
        self.outcomes, self._threads = {}, []

    def join(self, process, count=None, name=None):
        count, name = count or self.count, process if name is None else name

        def act():
            try:
                if process == 0:
                    self.outcomes[name] = peers.gather(self.port, "localhost", count, self.seconds)
                else:
                    self.outcomes[name] = peers.visit(
                        "localhost", self.port, process, count, self.seconds
                    )
            except UserError as error:
                self.outcomes[name] = error

        self._threads.append(threading.Thread(target=act, daemon=True))
        self._threads[-1].start()
        return self._threads[-1]

    def all(self):
        for thread in self._threads:
            thread.join(60)
        return self.outcomes


def test_four_processes_find_each_other_in_any_order():
    meeting = Meeting(tiny_runs.free_port(), 4)
    for process in (3, 1, 0, 2):
        meeting.join(process)
    outcomes = meeting.all()
    links, jax_port = outcomes[0]
    assert [link.process for link in links] == [1, 2, 3]
    assert all(link.host == socket.gethostname() for link in links)
    assert {outcomes[k][1] for k in (1, 2, 3)} == {jax_port}
    assert jax_port == meeting.port + 1
    for link in [*links, *(outcomes[k][0] for k in (1, 2, 3))]:
        link.close()


def test_those_that_do_not_come_are_named_by_all_that_did():
    meeting = Meeting(tiny_runs.free_port(), 4, seconds=3.0)
    for process in (0, 2):
        meeting.join(process)
    outcomes = meeting.all()
    for process in (0, 2):
        assert isinstance(outcomes[process], PeerLost)
        assert outcomes[process].exit_code == 76
        assert "processes 1, 3 of 4 did not come within 3 s" in str(outcomes[process])


def test_where_process_0_does_not_come_the_address_is_named():
    meeting = Meeting(tiny_runs.free_port(), 2, seconds=1.0)
    meeting.join(1)
    error = meeting.all()[1]
    assert isinstance(error, PeerLost)
    assert f"process 0 of 2 did not come to localhost:{meeting.port}" in str(error)


def test_what_does_not_fit_is_refused_and_the_right_one_still_taken():
    meeting = Meeting(tiny_runs.free_port(), 3)
    meeting.join(0)
    meeting.join(1)
    meeting.join(2, count=4, name="other count").join(30)
    meeting.join(7, count=3, name="no such process").join(30)
    while 1 not in meeting.outcomes and "twice" not in meeting.outcomes:
        # The second one that comes as process 1 is refused, whichever that is.
        meeting.join(1, name="twice").join(1)
    stranger = socket.create_connection(("localhost", meeting.port))
    stranger.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    meeting.join(2)
    outcomes = meeting.all()
    stranger.close()
    assert "--num_processes=4: process 0 has 3" in str(outcomes["other count"])
    assert "--process_id=7: process 0 knows 1 to 2" in str(outcomes["no such process"])
    twice = [outcomes[name] for name in (1, "twice") if isinstance(outcomes[name], UserError)]
    assert len(twice) == 1
    assert "--process_id=1 is taken" in str(twice[0])
    assert twice[0].exit_code == 2
    assert [link.process for link in outcomes[0][0]] == [1, 2]


def test_a_second_process_0_is_refused():
    port = tiny_runs.free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(UserError, match=f"localhost:{port}: process 0 cannot listen there"),
    ):
        peers.gather(port, "localhost", 2, 1.0)


@contextlib.contextmanager
def running(count, silent=60):
    """So many processes that have joined each other."""
    port = tiny_runs.free_port()
    started = [
        subprocess.Popen(
            [sys.executable, str(PEER), *map(str, (port, process, count, silent))],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for process in range(count)
    ]  # fmt: skip
    try:
        for process in started:
            assert process.stdout.readline() == "joined\n", process.stderr.read()
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def ended(process):
    """(exit code, stdout, stderr); its stdin stays open until then."""
    process.wait(timeout=90)
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.mark.parametrize("lost", [0, 2])
def test_a_killed_process_ends_the_others_which_name_it(lost):
    with running(4) as processes:
        began = time.monotonic()
        processes[lost].kill()
        for k in {0, 1, 2, 3} - {lost}:
            code, out, err = ended(processes[k])
            assert code == 76, err
            assert f"process {lost} of 4" in err
            assert "is gone: its connection was closed" in err
            assert len(err.splitlines()) == 1
            assert out.startswith(f"last: process {lost} of 4")  # it could still write that down
        assert time.monotonic() - began < 60


def test_a_stopped_process_is_missed_and_ends_too_when_it_goes_on():
    with running(2, silent=8) as processes:
        processes[1].send_signal(signal.SIGSTOP)
        code, _, err = ended(processes[0])
        assert code == 76
        assert "process 1 of 2" in err
        assert "not heard of for 8 s" in err
        processes[1].send_signal(signal.SIGCONT)
        code, _, err = ended(processes[1])
        assert code == 76
        assert "the others missed this one: process 1 of 2" in err


def test_who_ends_in_order_is_not_missed():
    with running(3) as processes:
        for k in (1, 0, 2):
            processes[k].stdin.write("done\n")
            processes[k].stdin.flush()
            assert ended(processes[k])[::2] == (0, "")


def test_an_error_of_one_ends_the_others_and_keeps_its_own_exit_code():
    with running(3) as processes:
        processes[1].stdin.write("mistake\n")
        processes[1].stdin.flush()
        code, _, err = ended(processes[1])
        assert (code, err) == (2, "error: a mistake of this process alone\n")
        for k in (0, 2):
            code, _, err = ended(processes[k])
            assert code == 76
            assert "process 1 of 3" in err
            assert "ended with exit code 2" in err


def test_an_error_that_another_process_made_is_not_said_for_ones_own():
    with running(2) as processes:
        processes[1].kill()
        processes[0].stdin.write("collective\n")
        processes[0].stdin.flush()
        code, _, err = ended(processes[0])
        assert code == 76
        assert "Gloo" not in err
