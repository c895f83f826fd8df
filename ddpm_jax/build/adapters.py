"""config.model.lora_rank: adapters on a network that begins with other weights and keeps them."""

from collections.abc import Collection
from typing import Any

import jax
from ml_collections import ConfigDict

from ddpm_jax.errors import UserError
from ddpm_jax.models.adapters import LORA, Adapted

ALONE = "!lora/*"


def adapted(c: ConfigDict, network: Any) -> Any:
    """The network with the adapters of config.model; itself without them.

    Raises:
      UserError: for adapters of a learned schedule's network, and where what they are beside is
        neither given nor kept.
    """
    m = c.model
    if not m.get("lora_rank", 0):  # which a network of one's own has not
        return network
    named = f"config.model.lora_rank={m.lora_rank}"
    if c.diffusion.schedule == "learned":
        raise UserError(f"{named}: a learned schedule has no kernels of this network; set 0")
    if ALONE not in c.optim.frozen:
        raise UserError(
            f"{named}: the network beside its adapters has to stay as it is; set "
            f"config.optim.frozen={(ALONE,)}"
        )
    if not c.train.init_from:
        raise UserError(
            f"{named}: adapters change a network that is trained already; name it, "
            "config.train.init_from=DIR"
        )
    alpha = float(m.lora_rank if m.lora_alpha is None else m.lora_alpha)
    return Adapted(network, m.lora_rank, alpha, tuple(m.lora_targets))


def unread(like: Any, kinds: Collection[str]) -> Any:
    """{"lora": None for each adapter}, of those that begin as initialised; {} for none.

    Args:
      like: of all parameters.
      kinds: the names of the tensors that there are; adapters among them go on as they are.
    """
    if any(name.startswith(f"{LORA}/") for name in kinds):
        return {}
    return {LORA: jax.tree.map(lambda leaf: None, like[LORA])} if LORA in like else {}
