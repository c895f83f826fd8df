"""A captioner: a tower's features of an image, and a decoder of texts that reads them."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from ddpm_jax.models import language
from ddpm_jax.models.clip import normalised
from ddpm_jax.models.encoder import layer_norm

IMAGE = "image"


class Captioner(nn.Module):
    """Images and tokens to the logits of each token, given the image and the tokens before it.

    The parameters of the images' tower are called as a `Clip`'s are, so that it can begin with one.

    Attributes:
      image: the tower of images, such as `vision.VisionTransformer`: gives features with `last`,
        those of every place, [B, M, any width]; the decoder reads them behind a norm.
      decoder: with `reads=True`.
      mean, std: of pixels in [0, 1], as of `Clip`.

    Example:
      logits = captioner.apply({"params": params}, tokens, {"image": images})

    Source: Vaswani et al. 2017, section 3.2.3, with patches in place of words; Vinyals et al. 2015,
      "Show and tell", section 3.1, for p(text | image) by the chain rule.
    """

    image: nn.Module
    decoder: language.LanguageModel
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def setup(self) -> None:
        """The norm of what is read: a tower's states have no fixed scale."""
        self.norm_image = layer_norm(None, self.decoder.norm_epsilon, self.decoder.dtype)

    def __call__(
        self, tokens: jax.Array, conditions: Mapping[str, jax.Array]
    ) -> jax.Array:  # int [B, L], {"image": [B, H, W, C]} -> float32 [B, L, vocab_size]
        """The logits of every token of texts [B, L], those of place i of x_<i and the image."""
        return self.decoder(tokens, None, self.features(conditions[IMAGE]))

    def features(self, images: jax.Array) -> jax.Array:
        """What the decoder reads of images [B, H, W, C] in [-1, 1]: [B, M, width of the tower]."""
        last = self.image(normalised(images, self.mean, self.std)).last
        return self.norm_image(last.reshape(len(last), -1, last.shape[-1]))

    def begin(self, num: int, conditions: Mapping[str, jax.Array]) -> Any:
        """What `step` carries before the first token of the `num` images' texts."""
        return self.decoder.begin(num, None, self.features(conditions[IMAGE]))

    def step(self, carry: Any, place: jax.Array, before: jax.Array) -> tuple[jax.Array, Any]:
        """As `LanguageModel.step`."""
        return self.decoder.step(carry, place, before)
