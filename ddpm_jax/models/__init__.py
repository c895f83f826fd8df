"""Networks, the only importers of flax.linen: apply(variables, xt, time, conditions)."""

from ddpm_jax.models.captioner import Captioner
from ddpm_jax.models.classifier import Classifier
from ddpm_jax.models.clip import Clip
from ddpm_jax.models.controlnet import ControlNet
from ddpm_jax.models.dit import DiT
from ddpm_jax.models.feature_classifier import FeatureClassifier
from ddpm_jax.models.language import LanguageModel
from ddpm_jax.models.learned_schedule import Gamma, WithSchedule
from ddpm_jax.models.prior import ComponentModel, PriorTransformer
from ddpm_jax.models.stable_diffusion import StableDiffusion
from ddpm_jax.models.unet import UNet
from ddpm_jax.models.unet_condition import UNet2DCondition

__all__ = [
    "Captioner",
    "Classifier",
    "Clip",
    "ComponentModel",
    "ControlNet",
    "DiT",
    "FeatureClassifier",
    "Gamma",
    "LanguageModel",
    "PriorTransformer",
    "StableDiffusion",
    "UNet",
    "UNet2DCondition",
    "WithSchedule",
]
