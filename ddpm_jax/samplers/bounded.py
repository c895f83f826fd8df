"""The options clip_x0 and threshold of every public sampler, kept for one more version.

Both act on the denoiser, not on the steps: new code writes `ddim(guidance.clip_x0(denoise,
schedule), schedule, ...)` instead of `ddim(denoise, schedule, ..., clip_x0=True)`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ddpm_jax.diffusion import guidance
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import Schedule


def bounded(sampler: Callable[..., Any]) -> Callable[..., Any]:
    """The sampler with two options more, which bound its denoiser by `guidance.bounded_x0`.

    Args:
      sampler: (denoise, schedule, times, key, x, *, ...) -> x_0, without options of these names.

    Returns:
      The same with clip_x0=False and threshold=None after the sampler's own options, its name and
      its docstring.
    """

    @functools.wraps(sampler)
    def sample(
        denoise: Denoiser,
        schedule: Schedule,
        *args: Any,
        clip_x0: bool = False,
        threshold: float | None = None,
        **options: Any,
    ) -> Any:
        denoise = guidance.bounded_x0(denoise, schedule, clip=clip_x0, threshold=threshold)
        return sampler(denoise, schedule, *args, **options)

    own, more = (inspect.signature(one, follow_wrapped=False) for one in (sampler, sample))
    bounds = [more.parameters[name] for name in ("clip_x0", "threshold")]
    signature = own.replace(parameters=[*own.parameters.values(), *bounds])
    sample.__signature__ = signature  # type: ignore[attr-defined]
    sample.__doc__ = (
        f"{inspect.getdoc(sampler)}\n\nBesides, clip_x0=True or threshold=quantile bounds the "
        "denoiser first (`guidance.bounded_x0`)."
    )
    return sample
