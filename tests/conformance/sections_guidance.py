"""The report's section of what guidance does not do: tilted densities, inpainting; its figures."""

import functools
import re
from typing import Any

from conformance import guided, inpainting, texts
from conformance.report import COLOURS, Say, Section, Table, verdict

SCALES = (1, 2, 4, 8)
SHOWN = (1, 4)
# Total variation of 100,000 draws and their own density over 100 bins: measured at w = 1, twice it.
SAMPLING_ERROR = 0.015
COUNT = 4000
_CALLS = {name: calls for name, (_, calls) in inpainting.WAYS.items()}


def guidance_section(say: Say) -> Section:
    """Guided samples beside the tilted density; ways to inpaint beside the conditional law."""
    found = {}
    for scale in SCALES:
        say(f"guidance: samples at w = {scale}")
        found[scale] = guided.measure(float(scale))
    weights = {}
    for name, (way, _) in inpainting.WAYS.items():
        say(f"guidance: inpainting by {name}")
        weights[name] = inpainting.weight(way, COUNT)
    say("guidance: inpainting by the conditional denoiser")
    exact = float((inpainting.conditional_draw(COUNT) > 0).mean())
    return Section(
        [_density_table(found), _inpainting_table(weights, exact)],
        drawings={
            "guided_density.png": functools.partial(draw_densities, found=found),
            "inpainting_gap.png": functools.partial(draw_gaps, weights=weights),
        },
    )


def _density_table(found: dict[int, guided.Guided]) -> Table:
    rows = []
    for scale, one in found.items():
        near = one.from_tilted < SAMPLING_ERROR
        rows.append(
            (
                scale,
                one.from_tilted,
                one.from_conditional,
                one.mean,
                one.tilted_mean,
                one.deviation,
                one.tilted_deviation,
                verdict(near if scale == 1 else one.from_tilted > 10 * SAMPLING_ERROR),
            )
        )
    header = (
        "w",
        "total variation from the tilted density",
        "from the conditional one",
        "mean of the samples",
        "of the tilted density",
        "deviation of the samples",
        "of the tilted density",
        "verdict",
    )
    return Table("Guided samples and the tilted density", texts.GUIDED, header, rows)


def _error(share: float) -> float:
    return (share * (1 - share) / COUNT) ** 0.5


def _inpainting_table(weights: dict[str, float], exact: float) -> Table:
    farthest = inpainting.EXACT - next(iter(weights.values()))  # that of replacement
    rows: list[tuple[Any, ...]] = [
        ("Bayes' rule", "", inpainting.EXACT, "", "", "the truth"),
        (
            "conditional denoiser",
            200,
            exact,
            inpainting.EXACT - exact,
            _error(exact),
            verdict(abs(inpainting.EXACT - exact) < 4 * _error(exact)),
        ),
    ]
    for name, weight in weights.items():
        gap = inpainting.EXACT - weight
        # Replacement is said to miss, and the others not to miss by more.
        missed, nearer = gap > 20 * _error(weight), abs(gap) < farthest + 4 * _error(weight)
        ok = missed if "replacement" in name else nearer
        rows.append((name, _CALLS[name], weight, gap, _error(weight), verdict(ok)))
    header = ("way", "network calls", "upper mode", "gap", "standard error", "verdict")
    return Table("Inpainting and the conditional law", texts.INPAINTING, header, rows)


def draw_densities(figure: Any, found: dict[int, guided.Guided]) -> None:
    """Histograms of guided samples, the tilted and the conditional density, at two scales."""
    figure.set_size_inches(10, 4)
    middles = (guided.EDGES[1:] + guided.EDGES[:-1]) / 2
    for axes, scale in zip(figure.subplots(1, len(SHOWN), sharey=True), SHOWN, strict=True):
        one = found[scale]
        axes.stairs(
            one.samples, guided.EDGES, fill=True, color="#56B4E9", alpha=0.6, label="guided samples"
        )
        axes.plot(middles, one.data, color="0.6", label="$p(x)$")
        axes.plot(middles, one.conditional, "--", color=COLOURS[1], label=r"$p(x\,|\,y)$")
        if scale != 1:
            axes.plot(
                middles, one.tilted, color=COLOURS[3], label=rf"$p(x)\,p(y\,|\,x)^{scale}$, scaled"
            )
        title = f"w = {scale}: total variation {one.from_tilted:.2f}"
        axes.set(title=title, xlabel="x", xlim=(-3, 4))
        axes.legend(frameon=False, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("density")


def draw_gaps(figure: Any, weights: dict[str, float]) -> None:
    """The share of the upper mode against network calls, of every way to inpaint."""
    figure.set_size_inches(7.5, 4.6)
    axes = figure.subplots()
    axes.axhline(inpainting.EXACT, color=COLOURS[1], linestyle="--", label="exact conditional law")
    kinds = {
        "RePaint": ("o-", COLOURS[2], "RePaint; the number: resamples, 1 is replacement"),
        "2M": ("s", COLOURS[4], "replacement in an ODE solver"),
        "posterior": ("D", COLOURS[3], "posterior sampling, a gradient with each call"),
    }
    for kind, (form, colour, label) in kinds.items():
        names = [name for name in weights if kind in name]
        sizes, shares = ([of[name] for name in names] for of in (_CALLS, weights))
        errors = [_error(share) for share in shares]
        axes.errorbar(
            sizes, shares, errors, fmt=form, color=colour, label=label, markersize=5, capsize=2
        )
        for name, size, share in zip(names, sizes, shares, strict=True):
            number = re.findall(r"[\d.]+", name)[-1]
            text = {"RePaint": number, "2M": "", "posterior": f"data_std {number}"}[kind]
            offset = (10, -4) if kind == "posterior" else (7, -11)
            axes.annotate(text, (size, share), offset, textcoords="offset points", color=colour)
    axes.set_xscale("log")
    ticks = [100, 200, 500, 1000, 2000, 5000]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="network calls", ylabel="share of the upper mode", xlim=(80, 7000))
    axes.set_ylim(0.5, 0.9)
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.78), fontsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
