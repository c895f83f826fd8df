"""A pipeline of Stable Diffusion: prompts to images, with any of its schedulers' samplers."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.interop import (
    pipeline_checks,
    pipeline_devices,
    pipeline_images,
    pipeline_program,
    text_encoders,
)
from ddpm_jax.interop.autoencoder import ImportedAutoencoder
from ddpm_jax.interop.pipeline_images import Given, Size
from ddpm_jax.interop.pipeline_program import Networks, Shape
from ddpm_jax.interop.pipeline_tokenizers import PipelineTokenizer
from ddpm_jax.interop.scheduler import Scheduler
from ddpm_jax.models.controlnet import ControlNet
from ddpm_jax.models.text import TextTransformer
from ddpm_jax.models.unet_condition import UNet2DCondition
from ddpm_jax.runtime import digests


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
      scored: the network reads how well an image is to look, and one size (SDXL's refiner).
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
    scored: bool = False
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
            self.scored,
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
        guess_mode: bool = False,
        aesthetic_score: float | None = None,
        negative_aesthetic_score: float | None = None,
        clip_skip: int | None = None,
        size: Size | None = None,
        decode: bool = True,
    ) -> np.ndarray:
        """An image for each prompt, uint8 [B, H, W, 3].

        Prompts, negative prompts, scales, seeds and images are arguments of one program; another
        size, sampler, number of steps or of prompts is another program. Images are split over the
        devices, and each is the same on any number of them, but for rounding.

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
          guess_mode: it reads the prompts alone, and what it adds is scaled from a tenth at the
            first skip to the whole at the bottom: the image can stand without a prompt.
          aesthetic_score: of SDXL's refiner, how well an image is to look, about 1 to 10; 6.
          negative_aesthetic_score: what it is steered away from; 2.5.
          clip_skip: read a text's state so many blocks before the last; negative prompts are not
            concerned.
          size: (height, width), multiples of `factor`; None for that of init_image or control, or
            the default.
          decode: False for the latents, float32 [B, h, w, C], in the units of the diffusion.

        Raises:
          ValueError: for what does not fit, naming the argument, the value and the remedy.
        """
        texts = pipeline_checks.texts(prompts)
        against = pipeline_checks.against(negative_prompts, len(texts))
        given = Given(init_image, mask, control, latents)
        size = pipeline_checks.size(self.networks, size, given, self.size)
        guidance = self._guidance(guidance_scale, guidance_rescale, against)
        pipeline_checks.control(self.networks, given, control_scale, guess_mode)
        shape = Shape(
            num=len(texts),
            latents=(size[0] // self.factor, size[1] // self.factor),
            guided=guidance.guided,
            rescaled=guidance.rescale > 0,
            scheduler=self.scheduler_of(sampler),
            num_steps=self.num_steps if num_steps is None else num_steps,
            strength=pipeline_checks.beginning(self.networks, given, strength),
            begins_with_image=init_image is not None,
            encodes=init_image is not None and init_image.dtype == np.uint8,
            masked=mask is not None,
            guess_mode=bool(guess_mode),
            clip_skip=self._skip(clip_skip),
            drawn=latents is None,
            decodes=decode,
        )
        numbers = {
            "scale": guidance.scale,
            "rescale": guidance.rescale,
            "control_scale": control_scale,
            **pipeline_checks.scores(self.networks, aesthetic_score, negative_aesthetic_score),
        }
        arrays = {
            "rows": self._rows(texts, against),
            "keys": _keys(seed, first, len(texts)),
            **pipeline_images.arrays(self.networks, len(texts), size, given),
        }
        made = self._program(shape)(self.placed, numbers, arrays)
        return made if not decode else np.round(made).astype(np.uint8)

    def check(
        self,
        negative_prompts: str | Sequence[str] | None = None,
        *,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        num_steps: int | None = None,
        sampler: str | None = None,
        clip_skip: int | None = None,
        size: Size | None = None,
    ) -> None:
        """Refuses at once what `sample` would refuse of these when it is asked for images of texts.

        Raises:
          ValueError: as `sample`.
        """
        given = Given()
        pipeline_checks.size(self.networks, size, given, self.size)
        pipeline_checks.beginning(self.networks, given, None)
        pipeline_checks.control(self.networks, given)
        self._guidance(
            guidance_scale, guidance_rescale, pipeline_checks.against(negative_prompts, 1)
        )
        self._skip(clip_skip)
        self.scheduler_of(sampler).steps(self.num_steps if num_steps is None else num_steps)

    def scheduler_of(self, sampler: str | None) -> Scheduler:
        """The scheduler of a sampler, as `sample` takes it. Raises ValueError as there."""
        return self.scheduler if sampler is None else self.scheduler.of_class(sampler)

    def _guidance(
        self, scale: float | None, rescale: float, against: Sequence[str] | None
    ) -> pipeline_checks.Guidance:
        asked = self.guidance_scale if scale is None else float(scale)
        return pipeline_checks.guidance(asked, rescale, against)

    def _skip(self, clip_skip: int | None) -> int:
        text_encoders.check_skip(dict(self.networks.towers), clip_skip)
        return clip_skip or 0

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of all parts, the program's first argument."""
        trees = {
            "unet": self.unet_params,
            "vae": self.autoencoder.params,
            "towers": {tower.name: tower.params for tower in self.towers},
        }
        return trees if self.controlnet is None else trees | {"controlnet": self.controlnet[1]}

    @functools.cached_property
    def placed(self) -> pipeline_devices.Placed:
        """Its parameters on the devices that draw."""
        return pipeline_devices.Placed(self.params)

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """What its images depend on beside how they are drawn, as JSON."""
        return {
            "class": self.name,
            "parameters": digests.digest(self.params),
            "networks": repr((self.unet, self.controlnet and self.controlnet[0])),
            "scheduler": [self.scheduler.name, self.scheduler.config],
            "tokenizers": [tower.tokenizer.tokenizer.digest for tower in self.towers],
        }

    def _program(self, shape: Shape) -> pipeline_devices.Program:
        """The compiled program of a shape, kept or made."""
        key = (self.networks, shape.key)
        if key not in self.programs:
            draw = pipeline_program.make(self.networks, shape)
            self.programs[key] = pipeline_devices.Program(draw, shape.num)
        return self.programs[key]

    def _rows(self, texts: Sequence[str], against: Sequence[str] | None) -> dict[str, Any]:
        """Tokens of prompts and of negative prompts, of each tower, and which of those are none."""
        others = [""] * len(texts) if against is None else against
        return {
            "prompts": {tower.name: tower.tokenizer(texts) for tower in self.towers},
            "negative": {tower.name: tower.tokenizer(others) for tower in self.towers},
            # Of SDXL none at all is another thing than the empty text.
            "none": np.full(len(texts), self.empty_is_zero and against is None),
        }


def _keys(seed: int, first: int, num: int) -> jax.Array:
    """A key for each image, of its number alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), first + jnp.arange(num))
