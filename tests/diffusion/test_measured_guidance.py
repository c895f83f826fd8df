"""Guided samples are the tilted density's at w = 1 alone; the figures show what was measured."""

import matplotlib.figure
import numpy as np
import pytest
from conformance import guided, inpainting, sections_guidance
from scipy import integrate, stats


def tilted(x, scale):
    """p(x) r(x)^w, by scipy."""
    data = zip(guided.DATA.weights, guided.DATA.means, guided.DATA.variances, strict=True)
    parts = [w * stats.norm.pdf(x, m[0], v**0.5) for w, m, v in data]
    return sum(parts) * (parts[guided.CONDITION] / sum(parts)) ** scale


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_guided_samples_are_those_of_the_tilted_density_at_1_and_not_above(scale):
    found = guided.measure(scale, count=20_000, num_steps=30)
    total, first = (
        integrate.quad(lambda x, k=k: x**k * tilted(x, scale), -5, 7)[0] for k in (0, 1)
    )
    assert found.tilted_mean == pytest.approx(first / total, abs=1e-4)
    middles = (guided.EDGES[1:] + guided.EDGES[:-1]) / 2
    np.testing.assert_allclose(found.tilted, tilted(middles, scale) / total, atol=2e-3)
    if scale == 1:
        assert found.from_tilted < 0.03
        assert found.mean == pytest.approx(1.0, abs=0.02)
    else:
        # Further out than the tilted density's, and closer together.
        assert found.from_tilted > 0.5
        assert found.mean > found.tilted_mean + 0.5
        assert found.deviation < 0.8 * found.tilted_deviation


def test_the_figures_show_every_way_to_inpaint_and_two_scales():
    bins = np.ones(len(guided.EDGES) - 1)
    one = guided.Guided(bins, bins, bins, bins, 0.2, 0.3, 1.0, 1.0, 0.5, 0.5)
    figure = matplotlib.figure.Figure()
    sections_guidance.draw_densities(figure, dict.fromkeys(sections_guidance.SCALES, one))
    assert [axes.get_title()[:5] for axes in figure.axes] == ["w = 1", "w = 4"]
    figure = matplotlib.figure.Figure()
    sections_guidance.draw_gaps(figure, dict.fromkeys(inpainting.WAYS, 0.6))
    (axes,) = figure.axes
    shown = [size for bars in axes.containers for size in bars[0].get_xdata()]
    assert sorted(shown) == sorted(calls for _, calls in inpainting.WAYS.values())
