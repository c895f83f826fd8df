"""A small one of each network, with every kind of layer among them, and what they are shown."""

import numpy as np

from ddpm_jax.models import Classifier, DiT, UNet, WithSchedule
from ddpm_jax.models.text import Captions

LEVELS = {"block_channels": (8, 8), "num_blocks": 1, "attention_levels": (), "num_groups": 4}
ADM = {"scale_shift_norm": True, "resample_blocks": True, "mid_attention": False}
TOKENS = {"block_channels": (8,), "attention_levels": (0,), "tokens_channels": 5}
DROPOUT = {"dropout": 0.2}
CAPTIONS = Captions(vocab_size=9, context_length=4, width=8, depth=1, num_heads=2)
NETWORKS = {
    "unet": UNet(**LEVELS, **DROPOUT, num_classes=3),
    "adm": UNet(**LEVELS, **DROPOUT, **ADM),
    "unet_of_tokens": UNet(**LEVELS | TOKENS, **DROPOUT),
    "unet_of_text": UNet(
        block_channels=(8,), num_blocks=1, attention_levels=(), num_groups=4, captions=CAPTIONS
    ),
    "unet_of_clip": UNet(
        block_channels=(8,),
        num_blocks=1,
        attention_levels=(),
        num_groups=4,
        captions=CAPTIONS._replace(tower="clip"),
    ),
    "dit": DiT(width=16, depth=3, num_heads=2, out_channels=3, **DROPOUT),
    "dit_of_text": DiT(width=16, depth=1, num_heads=2, out_channels=3, captions=CAPTIONS),
    "classifier": Classifier(**LEVELS, **DROPOUT, num_classes=3, head_dim=8),
    "learned_schedule": WithSchedule(UNet(**LEVELS, **DROPOUT, fourier_features=(1,))),
}
XT = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
TIME = np.array([1.0, 500.0], np.float32)


def changed(module, **fields):
    """The network with other fields."""
    if isinstance(module, WithSchedule):
        return module.clone(network=module.network.clone(**fields))
    return module.clone(**fields)
