"""What it draws: samples in training, from noise to image, nearest images, what results show."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddpm_jax.data import images
from ddpm_jax.reporting import figures
from ddpm_jax.reporting.report import overview, pictures, results
from ddpm_jax.reporting.report.curves import spread
from ddpm_jax.reporting.report.evaluations import Evaluation
from ddpm_jax.reporting.report.html import Html, join, note, short, tag
from ddpm_jax.reporting.report.runs import Run

PICTURES = 40  # of samples, over all runs
NEAREST = 4  # of a run
NEAREST_NAME = "nearest"  # DIR/eval/NAME_nearest.png
TRADE_OFFS = 4  # of a run
BESIDE = 12  # pictures beside results, of a run
# Of the page's 10 MB, in bytes before they are written as text, which takes a third more.
SAMPLE_BYTES = 3_700_000
FILM_BYTES = 1_200_000
NEAREST_BYTES = 1_200_000
TRADE_OFF_BYTES = 800_000
BESIDE_BYTES = 800_000


def samples(runs: Sequence[Run]) -> Html:
    """The pictures of samples, a slider a run."""
    return tag("div", *(_slides(run, k, runs) for k, run in enumerate(runs)), class_="pictures")


def film(runs: Sequence[Run]) -> Html:
    """The way from noise to image of a few samples, an image a row."""
    parts = []
    for k, run in enumerate(runs):
        drawn = run.drawn
        picture = drawn if isinstance(drawn, str) else drawn.film
        if len(runs) > 1:
            parts.append(overview.heading(run, k))
        if isinstance(picture, str) or isinstance(drawn, str):
            parts.append(note(picture))
            continue
        num, frames = picture.shape[:2]
        alt = (
            f"{num} rows of {frames} pictures each: from pure noise on the left to the finished "
            f"sample on the right, drawn by {short(run.name)}"
        )
        strip = pictures.picture(_strip(picture), alt, FILM_BYTES // len(runs))
        box = tag("div", strip, class_="scroll film", role="region", tabindex="0",
                  aria_label=f"Film strip of {short(run.name)}")  # fmt: skip
        parts.append(tag("figure", box, tag("figcaption", tag("span", drawn.film_caption))))
    return join(parts)


def nearest(runs: Sequence[Run]) -> Html:
    """Samples beside the training images next to them."""
    every = tag("div", *(_nearest(run, k, runs) for k, run in enumerate(runs)), class_="pictures")
    if not any(run.nearest for run in runs):
        return every
    return join([
        note("Samples in the first row, and in every second one; below each the training image "
             "next to it. The samples that come closest are first. A sample that equals the "
             "image below it is a copy."),
        every,
    ])  # fmt: skip


def trade_offs(runs: Sequence[Run]) -> Html:
    """What a scale of guidance trades, as evaluations at several scales have drawn it."""
    figures = [
        _trade_off(run, name, path, runs)
        for run in runs
        for name, path in [*run.trade_offs.items()][:TRADE_OFFS]
    ]
    if not figures:
        return note("It takes an evaluation at more than two scales of guidance.")
    left = sum(max(len(run.trade_offs) - TRADE_OFFS, 0) for run in runs)
    more = note(f"{left} more lie in DIR/eval.") if left else None
    return join([tag("div", *figures, class_="pictures"), more])


def beside(runs: Sequence[Run]) -> Html | None:
    """What lies beside results: reconstructions, ways between images; None where nothing does."""
    figures = [_beside(run, *one, runs) for run in runs for one in run.beside[:BESIDE]]
    if not figures:
        return None
    left = sum(max(len(run.beside) - BESIDE, 0) for run in runs)
    more = note(f"{left} more lie in DIR/eval.") if left else None
    return join([tag("div", *figures, class_="pictures"), more])


def _beside(run: Run, name: str, text: str, path: Path, runs: Sequence[Run]) -> Html:
    whose = f" of {short(run.name)}" if len(runs) > 1 else ""
    most = BESIDE_BYTES // (BESIDE * len(runs))
    shown = _shown(path, f"{text} Evaluation {short(name)} of {short(run.name)}", most)
    box = tag("div", shown, class_="scroll", role="region", tabindex="0", aria_label=text)
    caption = tag("span", f"{text} Evaluation {short(name)}{whose}.")
    return tag("figure", box, tag("figcaption", caption))


def _trade_off(run: Run, name: str, path: Path, runs: Sequence[Run]) -> Html:
    title = f"{short(run.name)}, {short(name)}" if len(runs) > 1 else short(name)
    shown = _shown(
        path,
        f"What guidance trades: evaluation {short(name)} of {short(run.name)}",
        TRADE_OFF_BYTES // (TRADE_OFFS * len(runs)),
    )
    return tag("figure", shown, tag("figcaption", tag("span", f"Evaluation {title}")))


def _nearest(run: Run, colour: int, runs: Sequence[Run]) -> Html:
    parts: list[Html] = [overview.heading(run, colour)] if len(runs) > 1 else []
    by_name = {e.name: e for e in run.evaluations.evaluations}
    if not run.nearest:
        parts.append(note("No evaluation has drawn them yet (DIR/eval/NAME_nearest.png)."))
    for path in run.nearest[:NEAREST]:
        alt = f"Samples of {short(run.name)} beside their nearest training images"
        shown = _shown(path, alt, NEAREST_BYTES // (NEAREST * len(runs)))
        box = tag("div", shown, class_="scroll", role="region", tabindex="0", aria_label=alt)
        name = path.stem.removesuffix(f"_{NEAREST_NAME}")
        caption = tag(
            "span", f"Evaluation {short(name)}{_drawn_how(by_name.get(name), NEAREST_NAME)}"
        )
        parts.append(tag("figure", box, tag("figcaption", caption)))
    if len(run.nearest) > NEAREST:
        parts.append(note(f"{len(run.nearest) - NEAREST} more lie in DIR/eval."))
    return tag("div", parts)


def _drawn_how(evaluation: Evaluation | None, picture: str) -> str:
    """How the samples of an evaluation's first row were drawn, and what the picture is of."""
    if evaluation is None or not evaluation.rows:
        return ""
    row = evaluation.rows[0]
    text = f": {results.described(evaluation, row)}"
    for name, measured in row.metrics.items():
        if name in evaluation.labels and evaluation.labels[name].picture == picture:
            value, interval = results.figures(measured)
            text += f"; {short(name)} {value}" + (f" ({interval})" if interval else "")
    return text


def _slides(run: Run, colour: int, runs: Sequence[Run]) -> Html:
    title = overview.heading(run, colour) if len(runs) > 1 else None
    if not run.samples:
        text = "No samples were drawn in training (DIR/samples/*.png)."
        return tag("div", title, note(run.no_images or text))
    slides = spread(run.samples, max(PICTURES // len(runs), 2))
    most = SAMPLE_BYTES // (len(slides) * len(runs))
    frames = [
        tag("figure", _shown(path, f"Samples of {short(run.name)}, {short(caption)}", most),
            tag("figcaption", short(caption)))
        for caption, path in slides
    ]  # fmt: skip
    label = f"Samples of {short(run.name)} through training"
    slider = tag(
        "div",
        tag("button", "▶", type="button", aria_label="Play"),
        tag("input", type="range", min=0, max=len(frames) - 1, value=len(frames) - 1, step=1,
            aria_label=label),
        tag("output", short(slides[-1][0])),
        class_="slider",
        hidden=True,
    )  # fmt: skip
    box = tag("div", *frames, class_="frames", tabindex="0", role="region", aria_label=label)
    if len(frames) == 1:  # nothing to slide
        return tag("div", title, box, note("There is one picture so far."), class_="slides")
    text = f"All {len(frames)} pictures."
    if len(frames) < len(run.samples):
        text = (
            f"{len(frames)} of {len(run.samples):,} pictures, evenly spaced, the first and the "
            "last among them."
        )
    return tag("div", title, box, slider, note(text), data_slides=True)


def _shown(path: Path, alt: str, most: int) -> Html:
    """The picture of a file, or the sentence that it cannot be read."""
    try:
        return pictures.picture(pictures.read(path), alt, most)
    except images.BrokenImage as error:
        return note(f"{short(path.name)} cannot be shown: {short(str(error))}.")


def _strip(array: np.ndarray) -> np.ndarray:
    """Images [N, frames, H, W, C] as one picture, transparent between them."""
    num, frames, *shape = array.shape
    tiles = array.reshape(num * frames, *shape)
    colour = figures.grid(tiles, frames).repeat(3 if shape[-1] == 1 else 1, axis=-1)
    # On black tiles the grid's own white is what lies between.
    gaps = figures.grid(np.zeros((num * frames, *shape[:2], 1), np.uint8), frames)
    return np.concatenate([colour, 255 - gaps], axis=-1)
