"""What reads tokens: CLIP's transformer, causal or seeing both ways, and a bag of words."""

from ddpm_jax.models.text.bag_of_words import BagOfWords
from ddpm_jax.models.text.transformer import POOLINGS, TextFeatures, TextTransformer

__all__ = ["POOLINGS", "BagOfWords", "TextFeatures", "TextTransformer"]
