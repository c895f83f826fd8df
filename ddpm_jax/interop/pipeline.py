"""A pipeline of Stable Diffusion: prompts to images, with any of its schedulers' samplers."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.interop import pipeline_program, text_encoders
from ddpm_jax.interop.autoencoder import ImportedAutoencoder
from ddpm_jax.interop.pipeline_images import images
from ddpm_jax.interop.pipeline_program import Networks, Shape
from ddpm_jax.interop.pipeline_tokenizers import PipelineTokenizer
from ddpm_jax.interop.scheduler import Scheduler
from ddpm_jax.models.controlnet import ControlNet
from ddpm_jax.models.text import TextTransformer
from ddpm_jax.models.unet_condition import UNet2DCondition

Size = tuple[int, int]


class TextTower(NamedTuple):
    """What reads prompts.

    Attributes:
      name: of its folder, as of `text_encoders.TextEncoders`.
      tokenizer: from texts to rows of tokens; it reports what does not fit.
      network, params: the encoder. It is not told which tokens are padding, as in diffusers.
    """

    name: str
    tokenizer: PipelineTokenizer
    network: TextTransformer
    params: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """What draws images from texts: its parts, and one compiled program for all prompts.

    Attributes:
      name: the class in diffusers.
      towers: what reads the prompts, in order.
      unet, unet_params: the network; of 9 channels it also reads a mask and what it leaves.
      autoencoder: between images and latents, with its parameters and its scale.
      scheduler: the noise, and the sampler that its class names.
      pools: the network reads a vector of the text, and sizes (SDXL).
      empty_is_zero: no negative prompt is zeros, and not what the text "" is (SDXL).
      controlnet: the network and its parameters; None for none.
      size: (height, width) of an image by default.
      guidance_scale, num_steps: by default, as diffusers' pipelines have them.
      programs: compiled ones, by what shapes them.
    """

    name: str
    towers: tuple[TextTower, ...]
    unet: UNet2DCondition
    unet_params: Any
    autoencoder: ImportedAutoencoder
    scheduler: Scheduler
    pools: bool
    empty_is_zero: bool
    size: Size
    controlnet: tuple[ControlNet, Any] | None = None
    guidance_scale: float = 7.5
    num_steps: int = 50
    programs: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def networks(self) -> Networks:
        """All of them, without their parameters."""
        network, _, scaling_factor, shift_factor = self.autoencoder
        return Networks(
            tuple((tower.name, tower.network) for tower in self.towers),
            self.unet,
            network,
            scaling_factor,
            shift_factor,
            None if self.controlnet is None else self.controlnet[0],
            self.pools,
        )

    @property
    def factor(self) -> int:
        """How many pixels along either axis one of the latents stands for."""
        return self.networks.factor

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.networks.channels

    def sample(
        self,
        prompts: str | Sequence[str],
        negative_prompts: str | Sequence[str] | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        latents: np.ndarray | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        num_steps: int | None = None,
        sampler: str | None = None,
        init_image: np.ndarray | None = None,
        strength: float | None = None,
        mask: np.ndarray | None = None,
        control: np.ndarray | None = None,
        control_scale: float = 1.0,
        clip_skip: int | None = None,
        size: Size | None = None,
        decode: bool = True,
    ) -> np.ndarray:
        """An image for each prompt, uint8 [B, H, W, 3].

        Prompts, negative prompts, scales, seeds and images are arguments of one program; another
        size, sampler, number of steps or of prompts is another program.

        Args:
          prompts: what to draw; a longer one than the context is cut, which is reported.
          negative_prompts: what to steer away from: one for all, or one each; None for none.
          seed: image k draws from (seed, first + k) alone.
          first: the number of the first image.
          latents: standard normal noise [B, h, w, C] in place of what would be drawn.
          guidance_scale: (1 - w) times what the network says of the negative prompt plus w times
            what it says of the prompt; 1 is unguided, at half the cost. None for the default.
          guidance_rescale: in [0, 1], how far the network's output is scaled back to the standard
            deviation of what it says of the prompt (Lin et al. 2024, equations 15 and 16).
          num_steps: of the scheduler; None for the default.
          sampler: the name of a scheduler's class, or of the sampler that it is here, to take its
            place: "EulerDiscreteScheduler", "euler"; None for the pipeline's own.
          init_image: uint8 [H, W, 3] or [B, H, W, 3] to begin with, or its latents, float
            [h, w, C], in the units of the diffusion.
          strength: in (0, 1], how far init_image is noised; 0.8, and 1 with a mask.
          mask: bool [H, W, 1], where init_image is drawn anew.
          control: uint8 [H, W, 3], what a ControlNet reads.
          control_scale: of what it adds.
          clip_skip: read a text's state so many blocks before the last; negative prompts are not
            concerned.
          size: (height, width), multiples of `factor`; None for that of init_image or control, or
            the default.
          decode: False for the latents, float32 [B, h, w, C], in the units of the diffusion.

        Raises:
          ValueError: for what does not fit, naming the argument, the value and the remedy.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError("prompts: need one text at least")
        scale = self.guidance_scale if guidance_scale is None else float(guidance_scale)
        steps = self.num_steps if num_steps is None else num_steps
        if not np.isfinite(scale):
            raise ValueError(f"guidance_scale={scale}: need a finite number")
        if not 0 <= guidance_rescale <= 1:
            raise ValueError(f"guidance_rescale={guidance_rescale}: need 0 to 1")
        completes = self.networks.completes
        if completes and (mask is None or init_image is None or init_image.dtype != np.uint8):
            raise ValueError(
                "this network completes images: give init_image, uint8, and a mask that is true "
                "where it is to be drawn"
            )
        if mask is not None and init_image is None:
            raise ValueError("mask: no image to complete; give init_image too")
        if strength is not None and init_image is None:
            raise ValueError(f"strength={strength}: no image to begin with; give init_image too")
        if control is not None and self.controlnet is None:
            raise ValueError("control: this pipeline has no ControlNet; leave it out")
        if self.controlnet is not None and control is None:
            raise ValueError(
                "control: this pipeline has a ControlNet; give the image that it reads"
            )
        if strength is None:
            strength = 1.0 if mask is not None else 0.8
        scheduler = self.scheduler if sampler is None else self.scheduler.of_class(sampler)
        size = self._size(size, init_image, control)
        guided = scale != 1 or guidance_rescale > 0
        if not guided and any(negative_prompts or ()):
            raise ValueError(
                "negative_prompts: without guidance (guidance_scale=1) nothing steers away from "
                "them; set another guidance_scale, or leave them out"
            )
        text_encoders.check_skip(dict(self.networks.towers), clip_skip)
        shape = Shape(
            num=len(texts),
            latents=(size[0] // self.factor, size[1] // self.factor),
            guided=guided,
            rescaled=guidance_rescale > 0,
            scheduler=scheduler,
            num_steps=steps,
            strength=float(strength) if init_image is not None else 1.0,
            begins_with_image=init_image is not None,
            encodes=init_image is not None and init_image.dtype == np.uint8,
            masked=mask is not None,
            clip_skip=clip_skip or 0,
            drawn=latents is None,
            decodes=decode,
        )
        arguments = {
            "rows": self._rows(texts, negative_prompts),
            "scale": np.float32(scale),
            "rescale": np.float32(guidance_rescale),
            "keys": jax.vmap(lambda k: jax.random.fold_in(jax.random.key(seed), k))(
                jnp.arange(first, first + len(texts))
            ),
            **images(self.networks, len(texts), size, init_image, mask, control, latents),
        }
        if self.controlnet is not None:
            arguments["control_scale"] = np.float32(control_scale)
        key = (self.networks, shape.key)
        program = self.programs.get(key)
        if program is None:
            program = self.programs[key] = pipeline_program.make(self.networks, shape)
        made = np.asarray(program(self.params, arguments))
        return made if not decode else np.round(made).astype(np.uint8)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of all parts, the program's first argument."""
        trees = {
            "unet": self.unet_params,
            "vae": self.autoencoder.params,
            "towers": {tower.name: tower.params for tower in self.towers},
        }
        return trees if self.controlnet is None else trees | {"controlnet": self.controlnet[1]}

    def _rows(self, texts: Sequence[str], negative: str | Sequence[str] | None) -> dict[str, Any]:
        """Tokens of prompts and of negative prompts, of each tower, and which of those are none."""
        num = len(texts)
        if isinstance(negative, str):
            negative = [negative]
        given = negative is not None and len(negative) > 0
        others = list(negative) if given and negative is not None else [""]
        if len(others) not in (1, num):
            raise ValueError(
                f"negative_prompts: need one for all, or one for each of {num} prompts, got "
                f"{len(others)}"
            )
        others = others * num if len(others) == 1 else others
        return {
            "prompts": {tower.name: tower.tokenizer(texts) for tower in self.towers},
            "negative": {tower.name: tower.tokenizer(others) for tower in self.towers},
            # Of SDXL none at all is another thing than the empty text.
            "none": np.full((num,), self.empty_is_zero and not given),
        }

    def _size(
        self, size: Size | None, init_image: np.ndarray | None, control: np.ndarray | None
    ) -> Size:
        factor = self.factor
        if size is None:
            for image in (init_image, control):
                if image is not None:
                    unit = 1 if image.dtype == np.uint8 else factor
                    size = image.shape[-3] * unit, image.shape[-2] * unit
                    break
        size = size or self.size
        if any(n < factor or n % factor for n in size):
            lower = tuple(max(n // factor, 1) * factor for n in size)
            raise ValueError(
                f"size={size[0]}x{size[1]}: need multiples of {factor}, such as "
                f"{lower[0]}x{lower[1]}"
            )
        return size
