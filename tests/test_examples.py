"""The examples run as they stand, check themselves, and stay short."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_is(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith('"""')


@pytest.mark.slow
@pytest.mark.wide(3)
def test_points_have_the_moments_of_their_data(capsys):
    """The example's own assertion; the figures that it prints are those that it compares."""
    path = next(path for path in EXAMPLES if path.stem == "points")
    names = runpy.run_path(str(path))
    assert "mean square" in capsys.readouterr().out
    assert names["moments"].shape == (3, 2)
    assert int(names["state"].step) == 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_network", "own_loss", "own_dataset"])
@pytest.mark.wide(6)
def test_own_parts_train_load_and_draw(name, capsys):
    path = next(path for path in EXAMPLES if path.stem == name)
    runpy.run_path(str(path))
    assert "drawn: (4, 8, 8, 1)" in capsys.readouterr().out
