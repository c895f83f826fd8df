"""The network and the objective of a CLIP of noised images, which guides a diffusion model."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ddpm_jax.build import contrasting, noised_inputs
from ddpm_jax.build.networks import NetworkModule
from ddpm_jax.config.checks import image_shape
from ddpm_jax.config.choose import choose, parameters
from ddpm_jax.config.own_code import NONE, Own
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import UserError
from ddpm_jax.training.objectives.base import Batch, Objective
from ddpm_jax.training.objectives.contrast import noised_contrast


def network(c: ConfigDict, own: Own = NONE) -> NetworkModule:
    """The CLIP of config.model whose images' tower is shown the time.

    Raises:
      UserError: for a tower that takes no time, an objective whose products are no
        log-probabilities, or as `contrasting.network`.
    """
    choose("objective.name", c.objective.name, {"clip": None})
    towers = contrasting.IMAGE_TOWERS
    tower = choose("model.image", c.model.image, towers)
    if "timed" not in parameters(tower):
        timed = [name for name, one in towers.items() if "timed" in parameters(one)]
        raise UserError(
            f"config.model.image={c.model.image}: this tower is shown no time, which a CLIP of "
            f"noised images is; set {' or '.join(timed)}"
        )
    made: Any = contrasting.network(c, own)
    return made.clone(image=made.image.clone(timed=True))


def initial_params(c: ConfigDict, own: Own, made: Any, key: jax.Array) -> Any:
    """The network's parameters before training."""
    images, text = jnp.zeros((1, *image_shape(c))), jnp.zeros((1, c.data.context), jnp.int32)
    return made.init(key, images, text, time=jnp.zeros(1))["params"]


def objective(
    c: ConfigDict, made: NetworkModule, schedule: Schedule | None, own: Own = NONE
) -> Objective:
    """CLIP's loss of noised images. Raises UserError as `noised_inputs.path_of_guide`."""
    path, time_draw = noised_inputs.path_of_guide(c, schedule, own, "noised CLIP")

    def rows(
        params: Any, xt: jax.Array, time: jax.Array, batch: Batch, key: jax.Array, train: bool
    ) -> dict[str, jax.Array]:
        embeds = made.apply({"params": params}, xt, batch["text"], time=time)
        return {"image": embeds.image_embeds, "text": embeds.text_embeds}

    return noised_contrast(
        rows,
        lambda params: jnp.exp(params["log_scale"]),
        path,
        time_draw=time_draw,
        largest_scale=contrasting.options(c)["largest_scale"],
    )
