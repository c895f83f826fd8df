"""The report's account of a run's time, over attempts that were stopped, killed or old."""

import pytest
from html_reader import Reader
from test_report_page import empty

from ddpm_jax.reporting.report import goodput


def attempt(lost=0.0, ended="finished", **seconds):
    return {
        "started_at": "2026-05-04T12:30:00+00:00",
        "ended": ended,
        "goodput": {"seconds": seconds, "lost": {"steps": 1, "seconds": lost}},
    }


def test_steps_that_were_lost_are_time_and_not_good():
    # 100 s of which 80 trained; an error at once after 10 s that were not saved.
    stopped = [attempt(ended="UserError: no", start=20, train=80), attempt(lost=10, train=50)]
    assert goodput.share(goodput.accounts(stopped)) == pytest.approx((80 - 10 + 50) / 150)
    # Killed: its last 10 s are in none of its own phases.
    killed = [attempt(ended=None, start=20, train=70), attempt(lost=10, train=50)]
    assert goodput.share(goodput.accounts(killed)) == pytest.approx((70 + 50) / 150)


def test_the_table_has_a_row_for_each_attempt_and_one_for_all():
    attempts = [
        attempt(ended=None, start=5, compile=15, train=60),
        attempt(lost=12, start=5, train=90, data_wait=10, reconstruct=15),
    ]
    found = Reader(goodput.section([empty(attempts=attempts)]))
    # 150 s that trained, of 80 + 120 in ledgers and 12 after the last save.
    assert f"Goodput {150 / 212:.0%}" in found.text
    for told in ("waiting for data", "reconstruct", "10.0 s (8%)", "2 min 30 s (75%)", "12.0 s"):
        assert told in found.text, told
    assert "evaluate" not in found.text  # which nothing took


@pytest.mark.parametrize(
    "told",
    [{}, {"seconds": 3}, {"seconds": {"train": "<b>"}}, {"seconds": {"train": -1}, "lost": 7}, 3],
)
def test_a_manifest_that_does_not_say_is_no_error(told):
    entry = attempt() | {"goodput": told}
    text = Reader(goodput.section([empty(attempts=[entry]), empty("b", attempts=[])])).text
    assert text.count("The manifest does not say where the time went.") == 2
