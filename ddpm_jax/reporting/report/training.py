"""How it was trained: curves by step, the loss by t, and the schedule behind them."""

from collections.abc import Sequence

import numpy as np

from ddpm_jax.reporting.report import curves
from ddpm_jax.reporting.report.charts import Line, chart, positive
from ddpm_jax.reporting.report.html import Html, join, note, short, tag
from ddpm_jax.reporting.report.runs import Run, ScheduleCurve, distances

QUARTERS = ("0 to ¼, nearly clean", "¼ to ½", "½ to ¾", "¾ to 1, nearly noise")
LOUD = 3.0  # sigma beyond this asks for a logarithmic axis


def figures(runs: Sequence[Run]) -> Html:
    """Loss, gradient norm, held-out loss and learning rate by step."""
    titles = {curve: label for run in runs for curve, label in distances(run)}
    return join([
        *_missing(runs),
        _wide(_by_step(runs, "Loss in training", "loss", log_y=True, smooth=True,
                       note="Means of the steps since the line before; the strong line is "
                            "smoothed.")),
        tag("div",
            _by_step(runs, "Held-out loss", "validation_loss", log_y=True,
                     note="Of the moving average; noise and times are the same at each step."),
            *[_by_step(runs, title, name, must=False,
                       note="Of samples drawn on the way, to the training data.")
              for name, title in titles.items()],
            _by_step(runs, "Gradient norm", "grad_norm", log_y=True, smooth=True,
                     note="Before clipping."),
            _by_step(runs, "Learning rate", "learning_rate"),
            _by_step(runs, "Images per second", "images_per_second", smooth=True),
            _by_step(runs, "Share of the step spent waiting for data", "data_wait", must=False),
            _by_step(runs, "Model FLOP utilisation", "mfu", must=False,
                     note="Of the devices' dense bfloat16 peak."),
            _by_step(runs, "Skipped steps, in all", "skipped", must=False),
            class_="charts"),
    ])  # fmt: skip


def by_time(runs: Sequence[Run]) -> Html:
    """The loss by t: of the newest checkpoint finely, and in training by quarter of t."""
    parts: list[Html | None] = []
    lines = []
    for k, run in enumerate(runs):
        losses = run.drawn if isinstance(run.drawn, str) else run.drawn.losses
        if isinstance(losses, str):
            parts.append(note(_of(run, runs), losses))
            continue
        error = 2 * losses.standard_error
        lines.append(
            Line(run.name, losses.t, losses.mean, k, k, losses.mean - error, losses.mean + error,
                 points=True)
        )  # fmt: skip
        draws = f"{losses.num:,} draws of held-out images, their noise and t"
        assert not isinstance(run.drawn, str)
        parts.append(
            note(_of(run, runs), f"Moving average of step {run.drawn.step:,}, {draws}, by the "
                 "run's own draw of times. Bars are two standard errors.")
        )  # fmt: skip
    if lines:
        title = "Loss by t, held-out images"
        parts.append(_wide(chart(title, lines, x_label="t", log_y=positive(lines))))
    quarters = [_quarters(run, runs) for run in runs]
    parts.append(tag("div", quarters, class_="charts") if any(quarters) else None)
    if not any(quarters):
        parts.append(note("metrics.jsonl has no loss by quarter of t."))
    return join(parts)


def schedule(runs: Sequence[Run]) -> Html:
    """alpha, sigma and log-SNR by t."""
    groups: list[tuple[ScheduleCurve, list[int]]] = []  # runs of one schedule are drawn once
    parts = []
    for k, run in enumerate(runs):
        curve = run.curve
        if isinstance(curve, str) and not isinstance(run.drawn, str):
            curve = run.drawn.curve
        if isinstance(curve, str):
            parts.append(note(_of(run, runs), curve))
            continue
        same = [places for at, places in groups if _equal(at, curve)]
        if same:
            same[0].append(k)
        else:
            groups.append((curve, [k]))
    if not groups:
        return join(parts)
    if len(groups) == 1 and len(groups[0][1]) > 1:
        parts.append(note(f"One schedule: {', '.join(short(runs[k].name) for k in groups[0][1])}."))
    many = len(groups) > 1
    paths, ratios = [], []
    for at, places in groups:
        k, name = places[0], ", ".join(runs[place].name for place in places)
        names = [f"{name}, {n}" if many else n for n in ("alpha", "sigma")]
        colours = (k, k) if many else (0, 1)
        paths.append(Line(names[0], at.t, at.alpha, colours[0], 0))
        paths.append(Line(names[1], at.t, at.sigma, colours[1], 1))
        label = name if many or len(runs) == 1 else "log-SNR"
        ratios.append(Line(label, at.t, _log_snr(at), k if many else 0, k if many else 0))
    loud = any(at.sigma.max() > LOUD for at, _ in groups)
    return join([
        *parts,
        tag("div",
            chart("Signal and noise", paths, x_label="t", log_y=loud,
                  note="x at t is alpha times the image plus sigma times noise."),
            chart("Log signal-to-noise ratio", ratios, x_label="t",
                  note="2 log(alpha / sigma); ends at which it is infinite are left out."),
            class_="charts"),
    ])  # fmt: skip


def _equal(a: ScheduleCurve, b: ScheduleCurve) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _log_snr(at: ScheduleCurve) -> np.ndarray:
    with np.errstate(divide="ignore"):
        ratio = 2 * (np.log(at.alpha) - np.log(at.sigma))
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _missing(runs: Sequence[Run]) -> list[Html]:
    notes = []
    for run in runs:
        if isinstance(run.metrics, str):
            notes.append(note(_of(run, runs), run.metrics))
            continue
        if run.metrics.unreadable:
            notes.append(
                note(_of(run, runs), f"Lines of metrics.jsonl that cannot be read and are left "
                     f"out: {run.metrics.unreadable:,}.")
            )  # fmt: skip
        for name, curve in run.metrics.curves.items():
            if curve.missing:
                notes.append(
                    note(_of(run, runs), f"{short(name)} was not a finite number in "
                         f"{curve.missing:,} lines; they are left out.")
                )  # fmt: skip
    return notes


def _by_step(
    runs: Sequence[Run],
    title: str,
    name: str,
    *,
    log_y: bool = False,
    smooth: bool = False,
    note: str = "",
    must: bool = True,
) -> Html | None:
    """A metric by step; a sentence if no run has it, and nothing if none must."""
    behind, lines = [], []
    for k, run in enumerate(runs):
        points = None if isinstance(run.metrics, str) else run.metrics.points(name)
        if points is None:
            continue
        if not smooth:
            lines.append(
                Line(run.name, points.steps, points.mean, k, k, points=len(points.steps) < 60)
            )
            continue
        low, high = (points.low, points.high) if points.num.max() > 1 else (None, None)
        faint = Line("", points.steps, points.mean, k, low=low, high=high, faint=True)
        behind.append(faint)
        lines.append(Line(run.name, points.steps, curves.smooth(points), k, k))
    if not lines:
        logged = any(not isinstance(r.metrics, str) and name in r.metrics.curves for r in runs)
        reason = "no finite number" if logged else "nothing"
        return tag("p", f"{title}: {reason} was logged.", class_="note") if must else None
    logarithmic = log_y and positive([*behind, *lines])
    return chart(title, [*behind, *lines], x_label="step", log_y=logarithmic, note=note)


def _quarters(run: Run, runs: Sequence[Run]) -> Html | None:
    lines = []
    for q, quarter in enumerate(QUARTERS):
        points = None if isinstance(run.metrics, str) else run.metrics.points(f"loss_q{q + 1}")
        if points is not None:
            lines.append(Line(f"t {quarter}", points.steps, curves.smooth(points), q, q))
    if len(lines) < 2:  # of a kind of run without t, all of it falls into one
        return None
    title = "Loss in training by quarter of t"
    title = f"{title}: {short(run.name)}" if len(runs) > 1 else title
    return chart(title, lines, x_label="step", log_y=positive(lines), note="Smoothed.")


def _wide(figure: Html | None) -> Html | None:
    return tag("div", figure, class_="wide") if figure else None


def _of(run: Run, runs: Sequence[Run]) -> Html | None:
    """The run's name before a sentence about it, where there are several."""
    return tag("span", tag("b", short(run.name)), ": ") if len(runs) > 1 else None
