"""What reads images whole: a transformer of patches, and a residual network with attention."""

from ddpm_jax.models.vision.resnet import ModifiedResNet, batch_statistics
from ddpm_jax.models.vision.transformer import ImageFeatures, VisionTransformer

__all__ = ["ImageFeatures", "ModifiedResNet", "VisionTransformer", "batch_statistics"]
