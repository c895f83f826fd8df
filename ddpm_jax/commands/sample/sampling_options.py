"""Fields of config.sample as the command line gives them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ddpm_jax.errors import UserError


def from_flags(fields: Mapping[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """The fields of config.sample, and options of its sampler or grid, that are given, by name.

    Args:
      fields: values by name; None for what is not given.
      options: others as text, name=value; numbers and true or false as in JSON, else text.

    Raises:
      UserError: for an option that is not name=value.
    """
    settings = {name: value for name, value in fields.items() if value is not None}
    for option in options:
        name, sign, text = option.partition("=")
        if not sign or not name.isidentifier():
            raise UserError(f"--options={option}: need name=value, such as eta=0.5")
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = text
    return settings
