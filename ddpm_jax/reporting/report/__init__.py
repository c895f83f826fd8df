"""A run, or several side by side, as one HTML page that needs nothing else."""

from ddpm_jax.reporting.report.page import page
from ddpm_jax.reporting.report.runs import Drawn, LossByTime, Run, ScheduleCurve

__all__ = ["Drawn", "LossByTime", "Run", "ScheduleCurve", "page"]
