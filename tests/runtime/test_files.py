import pytest

from ddpm_jax.runtime import files


@pytest.mark.parametrize("path", [".", "..", "/", "folder", "folder/"])
def test_a_folder_is_no_file_to_write(tmp_path, monkeypatch, path):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IsADirectoryError), files.whole(path):
        pytest.fail("something was written")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    with files.whole(path) as partial:
        partial.write_text("first")

    def cut():
        with files.whole(path) as partial:
            partial.write_text("second")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cut()
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
