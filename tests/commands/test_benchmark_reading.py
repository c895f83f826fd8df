"""The benchmark of the data pipeline reads what it wrote, by every number of threads."""

import pytest
import tiny_runs

from ddpm_jax import experiment
from ddpm_jax.commands.benchmark import reading


def test_three_kinds_of_data_are_read_by_each_number_of_threads(monkeypatch):
    for name, value in {"IMAGES": 8, "SIZE": 16, "BATCH": 4, "ROUNDS": 1, "SECONDS": 0.01}.items():
        monkeypatch.setattr(reading, name, value)
    monkeypatch.setattr(reading, "THREADS", (0, 2))
    write = reading.write_jpegs
    monkeypatch.setattr(reading, "write_jpegs", lambda path: write(path, 8, 16))
    seen = reading.reading_speed(experiment.build(tiny_runs.brief_config()))
    assert [*seen] == ["own_data", "jpeg_folder", "array_record"]
    for one in seen.values():
        assert [*one["images_per_second"]] == [0, 2]
        assert min(one["images_per_second"].values()) > 0
    assert seen["jpeg_folder"]["kilobytes_per_image"] == pytest.approx(0.8, rel=0.5)
    assert seen["own_data"]["batch"] == 8
