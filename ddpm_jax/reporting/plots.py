"""Plots of measurements as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ddpm_jax.runtime import files


def trade_off(
    path: str | Path,
    scale: str,
    rows: Sequence[Mapping[str, float]],
    held_out: Mapping[str, float],
    pair: tuple[str, str] | None = None,
) -> None:
    """What a scale of guidance buys and what it costs: each measure by scale, one by another.

    Args:
      path: of the PNG.
      scale: the key of the scale in each row.
      rows: the scale and measures, a row for each scale.
      held_out: measures of real images, drawn as dotted lines where they are among the rows'.
      pair: the two that one is traded for the other; None for the first two.
    """
    import matplotlib  # a second of imports

    with matplotlib.rc_context():
        # A matplotlibrc where the command was started may ask for LaTeX, which runs what it holds.
        matplotlib.rcdefaults()
        _draw_trade_off(path, scale, rows, held_out, pair)


def similarity(
    path: str | Path,
    cosines: np.ndarray,
    images: Sequence[np.ndarray],
    texts: Sequence[str],
) -> None:
    """How near each image and each text are: a matrix with the images above and the texts beside.

    Args:
      path: of the PNG.
      cosines: [N, N], of images by texts, row by row and column by column those that belong
        together.
      images: N of uint8 [H, W, C], of any number of values.
      texts: N.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # as above
        _draw_similarity(path, cosines, images, texts)


def histogram(
    path: str | Path, classes: Sequence[str], drawn: np.ndarray, real: np.ndarray
) -> None:
    """How many samples are of each class, beside the data's own.

    Args:
      path: of the PNG.
      classes: their names, K.
      drawn, real: shares, [K] each.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # as above
        _draw_histogram(path, classes, drawn, real)


def _draw_histogram(
    path: str | Path, classes: Sequence[str], drawn: np.ndarray, real: np.ndarray
) -> None:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(classes))
    axes.bar(places - 0.2, drawn, 0.4, label="samples")
    axes.bar(places + 0.2, real, 0.4, label="training data", color="0.7")
    axes.set_xticks(places, classes, rotation=0 if len(classes) < 20 else 90)
    axes.set_xlabel("class that is read in them")
    axes.set_ylabel("share")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with files.whole(Path(path)) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _draw_similarity(
    path: str | Path, cosines: np.ndarray, images: Sequence[np.ndarray], texts: Sequence[str]
) -> None:
    import matplotlib.figure

    num = len(images)
    side = 0.3 * num
    width, height = side + 5.5, side + 0.8
    figure = matplotlib.figure.Figure(figsize=(width, height))
    axes = figure.add_axes((0.1 / width, 0.1 / height, side / width, side / height))
    axes.imshow(cosines.T, cmap="viridis", aspect="auto")
    axes.set_xticks([])
    axes.yaxis.tick_right()
    # A text may hold what matplotlib would read as mathematics.
    shown = [text if len(text) <= 70 else f"{text[:67]}..." for text in texts]
    axes.set_yticks(range(num), [text.replace("$", r"\$") for text in shown], fontsize=7)
    for k, image in enumerate(images):
        box = axes.inset_axes((k / num, 1.01, 0.94 / num, 0.94 / num))
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        box.imshow(pixels, cmap="gray", interpolation="nearest")
        box.axis("off")
    with files.whole(Path(path)) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _draw_trade_off(
    path: str | Path,
    scale: str,
    rows: Sequence[Mapping[str, float]],
    held_out: Mapping[str, float],
    pair: tuple[str, str] | None,
) -> None:
    import matplotlib.figure

    rows = sorted(rows, key=lambda row: row[scale])
    names = [name for name in rows[0] if name != scale and all(name in row for row in rows)]
    traded = pair if pair is not None and {*pair} <= {*names} else names[:2]
    panels = 2 if len(traded) == 2 else 1
    figure = matplotlib.figure.Figure(figsize=(5.6 * panels, 4.2), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    scales = [row[scale] for row in rows]
    for number, name in enumerate(names):
        colour = f"C{number}"
        axes[0].plot(scales, [row[name] for row in rows], "o-", color=colour, label=name)
        if name in held_out:
            axes[0].axhline(held_out[name], color=colour, linestyle=":", linewidth=1)
    axes[0].set_xlabel(scale)
    axes[0].set_title("by scale (dotted: held-out data)")
    axes[0].legend(frameon=False)
    if panels == 2:
        across, up = traded
        axes[1].plot([row[across] for row in rows], [row[up] for row in rows], "o-", color="C0")
        for row in rows:
            axes[1].annotate(
                f"{row[scale]:g}", (row[across], row[up]), (5, 5), textcoords="offset points"
            )
        if across in held_out and up in held_out:
            axes[1].plot(held_out[across], held_out[up], "k*", label="held-out data")
            axes[1].legend(frameon=False)
        axes[1].set_xlabel(across)
        axes[1].set_ylabel(up)
        axes[1].set_title(f"what {scale} trades")
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    with files.whole(Path(path)) as partial:
        figure.savefig(partial, format="png", dpi=110)
