"""What reads tokens: CLIP's transformer, causal or both ways, a bag of words, GLIDE's captions."""

from ddpm_jax.models.text.bag_of_words import BagOfWords
from ddpm_jax.models.text.captions import CaptionEncoder, CaptionFeatures, Captions
from ddpm_jax.models.text.transformer import POOLINGS, TextFeatures, TextTransformer, last_norm

__all__ = [
    "POOLINGS",
    "BagOfWords",
    "CaptionEncoder",
    "CaptionFeatures",
    "Captions",
    "TextFeatures",
    "TextTransformer",
    "last_norm",
]
