"""Whether what was read is a manifest."""

from collections.abc import Mapping, Sequence
from typing import Any


def check(content: Any, fields: Mapping[str, tuple[type, ...]], later: Sequence[str]) -> None:
    """Refuse what no manifest is.

    Args:
      content: of a JSON file; {} is filled in for fields of `later` that an attempt lacks.
      fields: of an attempt, with the types of each.
      later: those that earlier versions did not write.

    Raises:
      ValueError: saying what is wrong with it.
    """
    attempts = content.get("attempts") if isinstance(content, dict) else None
    if not isinstance(attempts, list):
        raise ValueError("it has no list of attempts")
    for number, entry in enumerate(attempts, start=1):
        for field in later if isinstance(entry, dict) else ():
            entry.setdefault(field, {})
        for field, types in fields.items():
            value = entry.get(field, NotImplemented) if isinstance(entry, dict) else NotImplemented
            if value is NotImplemented:
                raise ValueError(f"its attempt {number} has no {field}")
            if not isinstance(value, types) or isinstance(value, bool):
                raise ValueError(f"{field} of its attempt {number} is {type(value).__name__}")
        if not all(_is_step(s) and isinstance(d, str) for s, d in entry["checkpoints"].items()):
            raise ValueError(f"checkpoints of its attempt {number} are not steps with digests")
        members = entry["group"].get("members")
        named = isinstance(members, list) and all(isinstance(name, str) for name in members)
        if entry["group"] and not named:
            raise ValueError(f"group of its attempt {number} does not name its members")


def _is_step(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19
