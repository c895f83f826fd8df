"""Items made ahead come in order, no more of them than asked for, and errors where they belong."""

import threading
import time

import pytest

from ddpm_jax.runtime.ahead import ahead


def waits_for(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def counting(made, stop=10**9, error=None):
    """0, 1, ..., each noted when it is made; "closed" when that is over."""
    try:
        for k in range(stop):
            made.append(k)
            yield k
        if error:
            raise error
    finally:
        made.append("closed")


def test_all_items_come_in_their_order():
    made = []
    assert [*ahead(counting(made, 50), 3)] == [*range(50)]
    assert made == [*range(50), "closed"]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_so_many_are_made_before_they_are_asked_for(size):
    made = []
    items = ahead(counting(made), size)
    assert made == []  # it begins with the first
    for k in range(4):
        assert next(items) == k
        waits_for(lambda k=k: len(made) == k + 1 + size)
        time.sleep(0.01)
        assert made == [*range(k + 1 + size)]
    items.close()
    waits_for(lambda: made[-1] == "closed")
    assert made == [*range(4 + size), "closed"]


def test_an_error_comes_after_the_items_before_it():
    items = ahead(counting([], 3, ValueError("broken")), 2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(items)
    assert not [t for t in threading.enumerate() if t.name == "ahead"]


def test_whoever_waits_can_be_interrupted_while_an_item_is_being_made():
    """Closing does not wait for ever for an item that never comes."""
    begun, release = threading.Event(), threading.Event()

    def stuck():
        yield 0
        begun.set()
        release.wait()
        yield 1

    items = ahead(stuck(), 1)
    assert next(items) == 0
    assert begun.wait(10)
    closer = threading.Thread(target=items.close)
    closer.start()
    release.set()
    closer.join(10)
    assert not closer.is_alive()


def test_a_size_below_1_is_refused():
    with pytest.raises(ValueError, match="size=0"):
        next(ahead(iter(()), 0))
