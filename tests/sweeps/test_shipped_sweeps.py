"""The sweeps of configs/sweeps: what each is of, and that it says what it takes."""

import ast

import pytest
import tiny_runs

from ddpm_jax.sweeps import sweep_file

FOLDER = tiny_runs.ROOT / "configs" / "sweeps"
# Settings, seeds and trainings of each.
SWEEPS = {
    "seeds": (1, 8, 8),
    "schedule_by_prediction": (6, 3, 18),
    "sampler_by_nfe": (16, 3, 3),
    "small": (1, 3, 3),
}


def test_each_is_looked_at_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(SWEEPS)


@pytest.mark.parametrize("name", SWEEPS)
def test_it_has_the_cells_that_it_says(name):
    sweep = sweep_file.read(FOLDER / f"{name}.py")
    settings = {cell.setting for cell in sweep.cells}
    seeds = {cell.seed for cell in sweep.cells}
    assert (len(settings), len(seeds), len(sweep.trainings())) == SWEEPS[name]
    assert len(sweep.cells) == len(settings) * len(seeds)
    assert sweep.baseline is None or sweep.baseline in settings


@pytest.mark.parametrize("name", SWEEPS)
def test_its_docstring_says_what_it_takes(name):
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    assert text.splitlines()[0].endswith("?")
    for word in ("Hardware: ", "Expected: ", "Command: "):
        assert word in text
    assert f"--sweep=configs/sweeps/{name}.py" in text
