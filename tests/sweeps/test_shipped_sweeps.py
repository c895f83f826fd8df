"""The sweeps of configs/sweeps: what each is of, and that it says what it takes."""

import ast

import jax
import pytest
import tiny_runs

from ddpm_jax import experiment
from ddpm_jax.commands.sweep import check
from ddpm_jax.measures import metric_table
from ddpm_jax.sweeps import sweep_file

FOLDER = tiny_runs.ROOT / "configs" / "sweeps"
# Settings, seeds and trainings of each.
SWEEPS = {
    "seeds": (1, 8, 8),
    "schedule_by_prediction": (6, 3, 18),
    "sampler_by_nfe": (16, 3, 3),
    "small": (1, 3, 3),
    "generative_models": (5, 3, 15),
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


def test_generative_models_have_equal_budgets_of_parameters(tmp_path):
    sweep = sweep_file.read(FOLDER / "generative_models.py")
    counts = {}
    for cell in sweep.cells:
        if cell.seed == 0:
            built = experiment.build(check.config_of(sweep, cell, tmp_path))
            params = jax.eval_shape(built.init_params, jax.random.key(0))
            counts[cell.config] = sum(leaf.size for leaf in jax.tree.leaves(params))
    counts["latent"] += counts.pop("codec")
    assert len(counts) == 4
    assert all(abs(n / counts["diffusion"] - 1) < 0.05 for n in counts.values()), counts


def test_every_figure_of_a_statement_is_one_of_a_metric_that_is_measured():
    sweep = sweep_file.read(FOLDER / "generative_models.py")
    measured = {n for cell in sweep.cells for n in cell.evaluate["metrics"]}
    figures = {
        name for one in metric_table.named([*measured]) for name in (one.figures or (one.name,))
    }
    assert len(sweep.statements) == 8
    assert {name for names in sweep.statements.values() for name in names} <= figures
