import threading
import time
from concurrent import futures

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import files
from ddpm_jax.runtime.shards import Shards


class Maker:
    """Rows that tell their number; it remembers which were made."""

    def __init__(self):
        self.made = []

    def __call__(self, rows):
        self.made.append((rows.start, rows.stop))
        numbers = np.array(rows)
        return {"square": numbers**2, "image": np.full((len(rows), 2, 2), 7, np.uint8)}


def squares(shards, make):
    return np.concatenate([arrays["square"] for _, arrays in shards.each(make)])


def test_parts_are_made_once_and_read_after(tmp_path):
    make = Maker()
    np.testing.assert_array_equal(
        squares(Shards(tmp_path, {"a": 1}, 10, 4), make), np.arange(10) ** 2
    )
    assert make.made == [(0, 4), (4, 8), (8, 10)]
    again = Shards(tmp_path, {"a": 1}, 10, 4)
    assert again.ready() == 10
    np.testing.assert_array_equal(squares(again, make), np.arange(10) ** 2)
    for rows, arrays in again.each(make):
        assert arrays["image"].shape == (len(rows), 2, 2)
        assert arrays["image"].dtype == np.uint8
    assert len(make.made) == 3


def test_what_was_interrupted_goes_on_where_it_was(tmp_path):
    make, shards = Maker(), Shards(tmp_path, {}, 10, 4)
    parts = shards.each(make)
    next(parts), next(parts)
    assert shards.ready() == 8
    squares(shards, make)
    assert make.made == [(0, 4), (4, 8), (8, 10)]


def test_another_description_is_of_other_arrays(tmp_path):
    squares(Shards(tmp_path, {"a": 1}, 10, 4), Maker())
    assert Shards(tmp_path, {"a": 2}, 10, 4).ready() == 0


def test_more_or_fewer_rows_take_the_parts_that_they_share(tmp_path):
    make = Maker()
    squares(Shards(tmp_path, {}, 10, 4), make)
    for num, size in ((15, 4), (5, 4), (10, 5)):
        np.testing.assert_array_equal(
            squares(Shards(tmp_path, {}, num, size), make), np.arange(num) ** 2
        )
    assert make.made[3:] == [(8, 12), (12, 15), (4, 5), (0, 5), (5, 10)]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_a_damaged_part_is_told_and_made_again(tmp_path, capsys, damage):
    make, shards = Maker(), Shards(tmp_path, {}, 10, 4)
    squares(shards, make)
    path = shards.folder / "4_8.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(
        {"flip": content, "cut": content[:-1], "empty": b"", "text": b"{}" * 40}[damage]
    )
    make.made.clear()
    np.testing.assert_array_equal(squares(shards, make), np.arange(10) ** 2)
    assert make.made == [(4, 8)]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path} is damaged (")
    squares(shards, make)
    assert make.made == [(4, 8)]


def test_a_part_under_another_number_is_damaged(tmp_path):
    make, shards = Maker(), Shards(tmp_path, {}, 10, 4)
    squares(shards, make)
    (shards.folder / "0_4.safetensors").replace(shards.folder / "4_8.safetensors")
    np.testing.assert_array_equal(squares(shards, make), np.arange(10) ** 2)


def test_several_at_the_same_time_make_each_part_once(tmp_path):
    make, wait = Maker(), threading.Barrier(3)

    def slowly(rows):
        time.sleep(0.01)
        return make(rows)

    def all_rows():
        shards = Shards(tmp_path, {}, 40, 4)
        wait.wait()
        return squares(shards, slowly)

    with futures.ThreadPoolExecutor(3) as pool:
        for found in [pool.submit(all_rows) for _ in range(3)]:
            np.testing.assert_array_equal(found.result(), np.arange(40) ** 2)
    assert make.made == [(k, k + 4) for k in range(0, 40, 4)]


def test_a_folder_that_cannot_be_written_to_is_read(tmp_path, monkeypatch):
    make = Maker()
    squares(Shards(tmp_path, {}, 10, 4), make)
    monkeypatch.setattr(files, "in_turn", None)  # it would open a lock there
    squares(Shards(tmp_path, {}, 10, 4), make)
    assert len(make.made) == 3


def test_where_nothing_can_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file.*mend that"):
        squares(Shards(tmp_path / "file", {}, 10, 4), Maker())


@pytest.mark.parametrize("num", [3, 10])
def test_all_rows_together_lie_in_files(tmp_path, num):
    make, shards = Maker(), Shards(tmp_path, {}, num, 4)
    found = shards.together(make)
    np.testing.assert_array_equal(found["square"], np.arange(num) ** 2)
    assert found["image"].shape == (num, 2, 2)
    assert found["image"].dtype == np.uint8
    assert all(isinstance(array, np.memmap) for array in found.values())
    with pytest.raises(ValueError, match="read-only"):
        found["square"][0] = 1
    # They go with the arrays: beside the parts nothing is left.
    names = {path.name for path in shards.folder.iterdir()}
    assert len(names - {".lock", "description.json"}) == len(make.made)
    again = shards.together(make)
    np.testing.assert_array_equal(again["square"], found["square"])
    assert len(make.made) == -(-num // 4)


def test_no_room_for_all_rows_is_one_line(tmp_path, monkeypatch):
    shards = Shards(tmp_path, {}, 10, 4)
    squares(shards, Maker())

    def full(*_, **__):
        return open("/dev/full", "r+b", buffering=0)

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(UserError, match=r"no room for 10 rows.*No space left.*make some"):
        shards.together(Maker())
