"""The tutorial runs from top to bottom, and its closed forms agree with the library."""

import json
from pathlib import Path

import jax.numpy as jnp
import notebooks
import numpy as np
import pytest

PATH = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def test_it_is_stored_executed_and_small():
    cells = [c for c in json.loads(PATH.read_text())["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert all(cell["outputs"] for cell in cells[1:])
    assert PATH.stat().st_size < 200_000


@pytest.mark.slow
@pytest.mark.wide(3)
def test_it_runs_and_what_it_says_holds():
    notebook, names = notebooks.run(PATH)
    stored = json.loads(PATH.read_text())
    kinds = [
        [[o["output_type"] for o in cell.get("outputs", [])] for cell in one["cells"]]
        for one in (stored, notebook)
    ]
    assert kinds[0] == kinds[1]

    np.testing.assert_allclose(
        names["weighted"] / names["precision"], names["posterior"].mean, atol=1e-5
    )
    np.testing.assert_allclose(
        names["alphas_cumprod"][299], names["schedule"].alpha(0.3) ** 2, rtol=1e-5
    )
    # No network is better than the conditional mean, but for the noise of the estimate.
    assert (names["learned"] > names["least"] - 0.01).all()
    assert (names["learned"] < names["least"] + 0.1).all()
    for x in names["drawn"].values():
        np.testing.assert_allclose((x**2).mean(), 1 + names["STD"] ** 2, atol=0.15)
    assert names["right"].mean() > 0.95

    exact = names["flow"](names["exact"], names["schedule"], names["points"][:20])
    np.testing.assert_allclose(exact, names["exact_bits"](names["points"][:20]), atol=0.01)
    assert float(jnp.mean(names["bound"].total)) > float(
        names["exact_bits"](names["points"]).mean()
    )
