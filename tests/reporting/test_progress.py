import io

import pytest

from ddpm_jax.reporting import progress
from ddpm_jax.reporting.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_comes_every_so_often(clock):
    stream = io.StringIO()
    with Progress(0, 1000, 64, stream) as shown:
        for step in range(1, 1001):
            clock[0] += 0.125  # eight steps a second: 125 seconds in all
            shown.advance()
            if step % 10 == 0:
                shown.show(step, 0.25, 8.0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 13  # one each 10 seconds, and the last
    assert "\r" not in stream.getvalue()
    assert lines[0] == "step 80/1,000  8.0 steps/s  512 images/s  loss 0.2500  01:55 left"
    assert lines[-1].startswith("step 1,000/1,000")
    assert lines[-1].endswith("00:00 left")


def test_on_a_terminal_a_bar_shows_the_figures():
    stream = Terminal()
    with Progress(40, 100, 64, stream) as shown:
        for _ in range(60):
            shown.advance()
        shown.show(100, 0.125, 10.0)
        shown.say("step 100: something")
    text = stream.getvalue()
    assert "40/100" in text
    assert "100/100" in text
    assert "loss=0.1250" in text
    assert "images/s=640" in text
    assert "step 100: something\n" in text


def test_what_is_said_is_a_line_of_its_own():
    stream = io.StringIO()
    with Progress(0, 10, 1, stream) as shown:
        shown.say("validation loss 0.5")
    assert stream.getvalue() == "validation loss 0.5\n"
