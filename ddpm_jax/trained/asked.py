"""What a task asks for."""

from collections.abc import Sequence
from typing import Any

from ddpm_jax.trained.tasks import Task


def asked(task: Task) -> list[str]:
    """The names of what a task asks for, in the order of its fields."""
    return [name for name, usual in vars(Task()).items() if _is_set(getattr(task, name), usual)]


def _is_set(value: Any, usual: Any) -> bool:
    if isinstance(value, Sequence):
        return len(value) > 0
    return value is not None and (usual is None or value != usual)
