"""What makes a tower the function that it is, beside its parameters: to be compared by name."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

Options = dict[str, Any]
IMAGES, TEXTS = "image", "text"  # what towers' parameters are called
# What changes no feature of a place, or shows in the parameters' shapes.
OF_NO_EFFECT = ("parent", "name", "dtype", "remat", "attention", "embed_dim", "eos")


def described(tower: Any, **others: Any) -> Options:
    """The options of a tower, by name.

    Args:
      tower: a flax module.
      **others: what else its features depend on; () for what is not known.
    """
    options = {
        field.name: getattr(tower, field.name)
        for field in dataclasses.fields(tower)
        if field.name not in OF_NO_EFFECT
    }
    if isinstance(options.get("image_size"), int):
        options["image_size"] = (options["image_size"],) * 2
    if "mlp_width" in options:
        options["mlp_width"] = options["mlp_width"] or 4 * options["width"]
    # CLIP's own vocabulary ends with the end of text, which is then the largest number.
    if options.get("pooling") == "eos" and tower.eos == tower.vocab_size - 1:
        options["pooling"] = "largest"
    known = {name: value for name, value in others.items() if value != ()}
    return {"tower": type(tower).__name__, **options, **known}


def of_pixels(tower: Any, mean: Sequence[float], std: Sequence[float], channels: int) -> Options:
    """As `described`, of images that are normalised by one number, or one a channel."""
    both = {"mean": tuple(mean), "std": tuple(std)}
    whole = {name: v * channels if len(v) == 1 else v for name, v in both.items()}
    return described(tower, **whole)


def check(ours: Mapping[str, Options], theirs: Mapping[str, Options]) -> None:
    """Raises ValueError where towers that both have are other functions, naming what differs."""
    for name in ours.keys() & theirs.keys():
        here, there = ours[name], theirs[name]
        differing = [
            f"{option} {there[option]!r} there, {here[option]!r} here"
            for option in here
            if option in there and here[option] != there[option]
        ]
        if differing:
            raise ValueError(
                f"its tower of {name}s is another function than this run's, whatever the weights "
                f"({'; '.join(differing)}): build this run's alike, or begin with another"
            )
