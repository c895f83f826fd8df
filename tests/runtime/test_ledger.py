"""The seconds of an attempt sum to its time, and each is in the innermost phase."""

import pytest

from ddpm_jax.runtime.ledger import PHASES, Ledger


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def spent(ledger):
    """The phases that took any time."""
    return {name: seconds for name, seconds in ledger.seconds().items() if seconds}


def test_a_second_belongs_to_the_innermost_phase(clock):
    ledger = Ledger(clock=clock)
    clock.passes(3)
    with ledger.phase("evaluate"):
        clock.passes(2)
        with ledger.phase("compile"):
            clock.passes(7)
        clock.passes(1)
    ledger.become("train")
    clock.passes(10)
    with ledger.phase("checkpoint"):
        clock.passes(4)
        assert spent(ledger)["checkpoint"] == 4  # also of a phase that is still open
    clock.passes(1)
    assert spent(ledger) == {"start": 3, "evaluate": 3, "compile": 7, "train": 11, "checkpoint": 4}
    assert sum(ledger.seconds().values()) == clock.now - 100
    assert [*ledger.seconds()] == [*PHASES]


def test_asking_changes_nothing(clock):
    ledger = Ledger(clock=clock)
    clock.passes(2)
    assert ledger.seconds() == ledger.seconds()
    clock.passes(3)
    assert ledger.seconds()["start"] == 5


def test_an_attempt_may_have_begun_before_its_ledger(clock):
    assert Ledger(began=90.0, clock=clock).seconds()["start"] == 10


def test_a_phase_ends_where_something_is_raised(clock):
    ledger = Ledger(clock=clock)

    def fail(seconds):
        clock.passes(seconds)
        raise KeyError

    with pytest.raises(KeyError):
        ledger.around("validate", fail)(2)
    clock.passes(1)
    assert spent(ledger) == {"validate": 2, "start": 1}


def test_waiting_is_told_from_what_is_done_with_the_items(clock):
    ended = []

    def items():
        try:
            for k in range(3):
                clock.passes(2)
                yield k
            clock.passes(5)  # to find that there are no more
        finally:
            ended.append(clock.now)

    ledger = Ledger(clock=clock)
    ledger.become("train")
    seen = []
    for k in ledger.waiting("data_wait", items()):
        clock.passes(10)
        seen.append(k)
    assert seen == [0, 1, 2]
    assert spent(ledger) == {"data_wait": 3 * 2 + 5, "train": 30}

    left = ledger.waiting("data_wait", items())
    next(left)
    left.close()
    assert len(ended) == 2


def test_a_kind_of_run_may_have_phases_of_its_own(clock):
    ledger = Ledger(clock=clock)
    with ledger.phase("reconstruct"):
        clock.passes(2)
    assert spent(ledger) == {"reconstruct": 2}
