"""The figures of a line of metrics: rates, shares and utilisation, by hand and by known devices."""

import types

import pytest

from ddpm_jax.measures import device_peaks, goodput
from ddpm_jax.measures.speed import NAMES, Speed
from ddpm_jax.runtime.ledger import Ledger


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def device(kind, peak=None):
    stats = None if peak is None else {"peak_bytes_in_use": peak}
    return types.SimpleNamespace(device_kind=kind, process_index=0, memory_stats=lambda: stats)


@pytest.fixture
def clock():
    return Clock()


def passes(clock, ledger, **seconds):
    for name, taken in seconds.items():
        with ledger.phase(name):
            clock.now += taken


def test_rates_are_of_the_time_that_was_training(clock):
    ledger = Ledger(clock=clock)
    ledger.become("train")
    devices = [device("NVIDIA H100 80GB HBM3", peak) for peak in (3e9, 5e9)]
    speed = Speed(ledger, batch_size=32, flop_per_step=10**12, devices=devices)
    passes(clock, ledger, compile=7)
    speed.restart(1)
    # Ten steps in four seconds, one of which waited; what else was done is not theirs.
    passes(clock, ledger, train=3, data_wait=1, validate=20, checkpoint=30)
    figures = speed.figures(11)
    assert [*figures] == [*NAMES]
    assert figures["steps_per_second"] == 2.5
    assert figures["images_per_second"] == 80
    assert figures["images_per_second_per_device"] == 40
    assert figures["data_wait"] == 0.25
    assert figures["compile_seconds"] == 7
    assert figures["model_flop_per_step"] == 10**12
    # 2.5 TFLOP/s of two devices that can do 989.5 each: NVIDIA's data sheet, half of 1,979.
    assert figures["mfu"] == pytest.approx(2.5 / (2 * 1979 / 2), rel=1e-3)
    assert figures["peak_device_bytes"] == 5e9
    assert 1e7 < figures["peak_host_bytes"] < 1e12
    passes(clock, ledger, train=2)
    assert speed.figures(13)["steps_per_second"] == 1  # of the steps since


def test_a_group_uses_the_devices_for_all_of_its_members(clock):
    ledger = Ledger(clock=clock)
    of_one, of_eight = (
        Speed(
            ledger,
            batch_size=4,
            flop_per_step=10**10,
            devices=[device("TPU v4")],
            replicas=replicas,
        )
        for replicas in (1, 8)
    )
    passes(clock, ledger, train=2)
    alone, together = of_one.figures(4), of_eight.figures(4)
    assert together["mfu"] == pytest.approx(8 * alone["mfu"])
    assert together["images_per_second"] == alone["images_per_second"] == 8


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", ""])
def test_what_nobody_knows_is_unknown(clock, kind):
    speed = Speed(Ledger(clock=clock), batch_size=1, flop_per_step=1, devices=[device(kind)])
    figures = speed.figures(1)
    assert figures["mfu"] == device_peaks.UNKNOWN == "unknown"
    assert "peak_device_bytes" not in figures


def test_steps_that_come_again_are_lost_at_the_speed_that_they_had(tmp_path):
    lines = [
        '{"step": 10, "loss": 1.0, "steps_per_second": 5.0}',
        '{"step": 20, "loss": 1.0, "steps_per_second": 2.0}',
        '{"step": 20, "validation_loss": 1.0}',
        '{"step": 30, "loss": 1.0, "steps_per_second": 4.0}',
        '{"step": 40, "loss": null, "steps_per_second": 10.0}',
        '{"step": 50, "loss": 1.0, "steps_per_second": 0',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    # From step 15 on: 5 steps at 2/s, 10 at 4/s and 10 at 10/s.
    assert goodput.lost(tmp_path, 15) == (25, 2.5 + 2.5 + 1)
    assert goodput.lost(tmp_path, 40) == (0, 0)
    assert goodput.lost(tmp_path, 90) == (0, 0)
    assert goodput.lost(tmp_path / "none", 0) == (0, 0)
