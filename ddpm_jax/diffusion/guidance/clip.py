"""CLIP guidance (Nichol et al. 2021): towards what a CLIP finds near a text.

A CLIP's logits, its scale times the dot product f(x) . g(c) of embeddings of unit length, are at
their best log p(x, c) / (p(x) p(c)) up to what depends on neither (`losses.clip_loss`). So their
gradient by x is that of log p(c | x), and guides as a classifier's does, in the same units.
"""

from collections.abc import Callable

import jax

from ddpm_jax.diffusion import process
from ddpm_jax.diffusion.guidance.classifier import LogProb, shifted
from ddpm_jax.diffusion.prediction import Denoised, Denoiser
from ddpm_jax.diffusion.schedules import Schedule

# (x_t [B, ...], t [B]) -> embeddings [B, D]
Embed = Callable[[jax.Array, jax.Array], jax.Array]


def clip_log_prob(
    embed: Embed, text_embeds: jax.Array, logit_scale: float | jax.Array = 1.0
) -> LogProb:
    """logit_scale f(x_t, t) . g(c): log p(c | x_t), up to what does not depend on x_t.

    With `gradient` it is what `classifier` and `ancestral(..., mean_gradient=)` take. The scale w
    of either then counts as a classifier's: w = 1 is Bayes' rule if the CLIP is exact. So GLIDE's
    code has it; the paper's formula leaves out the CLIP's own scale, and its s is w logit_scale.

    Args:
      embed: f, of a CLIP that was trained on noised images; t may be ignored by one of clean ones,
        whose x_t is then x_0 (see `of_estimate`).
      text_embeds: g(c) of each image's own text, [B, D]; a row of zeros guides its image nowhere.
      logit_scale: of the CLIP, what its dot products are multiplied by.

    Source: Nichol et al. 2021 (GLIDE), section 2.4.
    """

    def log_prob(xt: jax.Array, t: jax.Array) -> jax.Array:
        return logit_scale * (embed(xt, t) * text_embeds).sum(axis=-1)

    return log_prob


def of_estimate(denoise: Denoiser, log_prob: LogProb) -> LogProb:
    """log p(c | x_0-hat(x_t)), by what judges clean images: an ordinary CLIP.

    Args:
      denoise: gives x_0-hat.
      log_prob: of clean images; it is called as (x_0 [B, ...], t [B]).
    """
    return lambda xt, t: log_prob(denoise(xt, t).x0, t)


def by_estimate(
    denoise: Denoiser, schedule: Schedule, log_prob: LogProb, scale: float | jax.Array = 1.0
) -> Denoiser:
    """eps = eps-hat - w sigma grad log p(c | x_0-hat): `classifier` by `of_estimate`.

    x_0-hat stands for all x_0 that x_t may have come from, which holds only where little noise is
    left: even an exact judge does not make this the conditional denoiser.

    Each evaluation is one call of the denoiser and one vector-Jacobian product through it.

    Args:
      denoise, schedule: as of `classifier`.
      log_prob: as of `of_estimate`.
      scale: w; the number 0 calls no judge.
    """
    if isinstance(scale, int | float) and scale == 0:
        return denoise

    def guided(xt: jax.Array, t: jax.Array) -> Denoised:
        def judged(xt: jax.Array) -> tuple[jax.Array, Denoised]:
            out = denoise(xt, t)
            return log_prob(out.x0, process.time_like(t, xt)).sum(), out

        slope, out = jax.grad(judged, has_aux=True)(xt)
        return shifted(out, schedule, xt, t, slope, scale)

    return guided
