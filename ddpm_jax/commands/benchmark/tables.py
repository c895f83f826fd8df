"""A benchmark's figures as text: one Markdown table a section."""

from collections.abc import Iterator, Mapping
from typing import Any

from ddpm_jax.commands.benchmark.turns import OURS

# The largest ratio of our time to another's that we want to see, by platform, section, row, side.
GOALS: Mapping[str, Mapping[tuple[str, str, str], float]] = {
    "cpu": {
        ("train_step", "cifar10_unet float32", "diffusers eager"): 1.25,
        ("train_step", "digits_unet float32", "diffusers eager"): 1.0,
        ("sampling", "8x8 batch 1 float32", "diffusers eager"): 0.25,
        ("sampling", "8x8 batch 16 float32", "diffusers eager"): 0.6,
        ("sampling", "8x8 batch 128 float32", "diffusers eager"): 1.0,
        ("sampling", "32x32 batch 1 float32", "diffusers eager"): 0.7,
        ("sampling", "32x32 batch 16 float32", "diffusers eager"): 1.2,
        ("latent_unet", "32x32 batch 2 float32", "diffusers eager"): 1.25,
    },
    "gpu": {
        ("train_step", "cifar10_unet bfloat16", "diffusers compile"): 1.0,
        ("train_step", "dit_b2 bfloat16", "diffusers compile"): 1.0,
        ("latent_unet", "64x64 batch 2 bfloat16", "diffusers compile"): 1.0,
        ("latent_unet", "64x64 batch 16 bfloat16", "diffusers compile"): 1.0,
        # 1.5 times as many images a second.
        ("sampling", "32x32 batch 16 bfloat16", "diffusers compile"): 1 / 1.5,
    },
}


def text(figures: Mapping[str, Any], platform: str = "cpu") -> str:
    """All sections, each a heading with its tables below."""
    lines = []
    for name, section in figures["sections"].items():
        lines += [f"### {name}", "", *_section(name, section, GOALS.get(platform, {})), ""]
    return "\n".join(lines)


def _section(name: str, section: Mapping[str, Any], goals: Mapping[Any, float]) -> Iterator[str]:
    compared = {row: value for row, value in section.items() if _is_comparison(value)}
    rest = {row: value for row, value in section.items() if row not in compared}
    if compared:
        yield from _comparisons(name, compared, goals)
    if compared and rest:
        yield ""
    if rest:
        yield "| what | measured |"
        yield "| --- | --- |"
    for place, value in _leaves(rest):
        yield f"| {place} | {_short(value)} |"


def _comparisons(
    name: str, rows: Mapping[str, Mapping[str, Any]], goals: Mapping[Any, float]
) -> Iterator[str]:
    """A line for ours, and for each other side with its ratio and the goal, where there is one."""
    yield "| what | who | seconds | ours over theirs | goal, at most | images/s | MFU |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row, value in rows.items():
        sides = {side: of for side, of in value.items() if isinstance(of, Mapping)}
        for side, of in sides.items():
            ours = side == OURS
            cells = [
                row if ours else "",
                side,
                _short(of.get("seconds", of.get("failed"))),
                _short(of.get("ratio")),
                _short(goals.get((name, row, side))),
                _short(value.get("images_per_second") if ours else None),
                _short(value.get("mfu") if ours else None),
            ]
            yield f"| {' | '.join(cells)} |"


def _is_comparison(value: Any) -> bool:
    return isinstance(value, Mapping) and OURS in value


def _leaves(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        path = f"{place}, {name}" if place else str(name)
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            yield path, value


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/")
