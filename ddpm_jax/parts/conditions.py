"""config.model.conditions: what the network is told beside x_t, and in which form."""

from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import data
from ddpm_jax.config_checks import image_shape
from ddpm_jax.data.base import nearest
from ddpm_jax.data.pipeline import stacked
from ddpm_jax.errors import UserError

# A value by its name or number, one for each image, cycled; or an image for all of them.
Given = str | int | Sequence[str | int] | np.ndarray


def dropout(c: ConfigDict) -> dict[str, float]:
    """Every condition of the network with its probability of being absent in training."""
    label = {"label": c.diffusion.label_dropout} if c.model.num_classes else {}
    rates = c.diffusion.condition_dropout or (0.0,) * len(c.model.conditions)
    return label | dict(zip(c.model.conditions, rates, strict=True))


def values(c: ConfigDict) -> dict[str, tuple[str, ...]]:
    """The names of the values of config.model.conditions, but for images."""
    return {name: known for name, known in _known(c).items() if not isinstance(known, int)}


def images(c: ConfigDict) -> dict[str, int]:
    """The channels of those of config.model.conditions that are images."""
    return {name: known for name, known in _known(c).items() if isinstance(known, int)}


def shapes(c: ConfigDict) -> dict[str, tuple[tuple[int, ...], type]]:
    """The shape (of one example) and dtype of each of config.model.conditions."""
    height, width, _ = image_shape(c)
    found: dict[str, tuple[tuple[int, ...], type]] = dict.fromkeys(values(c), ((), np.int32))
    for name, channels in images(c).items():
        found[name] = ((height, width, channels), np.float32)
    return found


def _known(c: ConfigDict) -> dict[str, tuple[str, ...] | int]:
    """What is known of each of config.model.conditions. Raises UserError for an unknown name."""
    of_data = data.CONDITIONS.get(c.data.name, {})
    for name in c.model.conditions:
        if name not in of_data:
            raise UserError(
                f"config.model.conditions={c.model.conditions}: the data {c.data.name} know no "
                f"{name!r}; they know {', '.join(of_data) or 'nothing but labels'}"
            )
    return {name: of_data[name] for name in c.model.conditions}


def arrays(
    c: ConfigDict, num: int, labels: np.ndarray, given: Mapping[str, Given]
) -> dict[str, np.ndarray]:
    """Every condition of the network for `num` images; what is not given is absent.

    Args:
      c: the config.
      num: how many images.
      labels: int [num], for a network with classes.
      given: conditions by name.

    Raises:
      UserError: for a name or value that is unknown, or an image of another size.
    """
    if unknown := sorted(set(given) - {*values(c), *images(c)}):
        known = ", ".join(c.model.conditions) or "none but labels"
        hint = nearest(unknown[0], c.model.conditions)
        raise UserError(
            f"condition {unknown[0]}: this model has no such condition; it has {known}{hint}"
        )
    whole = {"label": np.asarray(labels, np.int32)} if c.model.num_classes else {}
    for name, names in values(c).items():
        chosen = given.get(name, ())
        chosen = [chosen] if isinstance(chosen, str | int) else list(chosen)
        numbers = [_number(name, value, names) for value in chosen]
        whole[name] = np.resize(np.asarray(numbers or [-1], np.int32), num)
    for name in images(c):
        shape, _ = shapes(c)[name]
        image = stacked([given[name]])[0] if name in given else np.zeros(shape, np.float32)
        if image.shape != shape:
            raise UserError(f"condition {name}: need an image of {shape}, got {image.shape}")
        whole[name] = np.broadcast_to(image, (num, *shape))
    return whole


def _number(name: str, value: str | int, names: tuple[str, ...]) -> int:
    """The number of a value that is given by its name, or by its number."""
    text = str(value)
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise UserError(
        f"condition {name}={value}: need one of {', '.join(names)}{nearest(text, names)}"
    )
