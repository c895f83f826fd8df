"""What can be measured, as a table."""

from ddpm_jax.measures.metric_table import METRICS


def table() -> str:
    """The metrics as a Markdown table: the name, its figures, what they say, what it takes."""
    lines = ["| --metrics= | figures | what | better | measured on |", "|" + " --- |" * 5]
    for metric in METRICS.values():
        figures = ", ".join(metric.figures or [metric.name])
        cells = (metric.name, figures, metric.label, metric.better, metric.needs.value)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
