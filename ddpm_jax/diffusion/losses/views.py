"""Losses between several views of an image: a network that learns from its own moving average."""

import jax
import jax.numpy as jnp


def self_distillation(
    student: jax.Array,
    teacher: jax.Array,
    centre: jax.Array,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> jax.Array:
    """Whether a student says of one view what a teacher says of another.

    The mean over pairs of different views (v, w) of the cross-entropy of softmax(student_v / ts)
    against softmax((teacher_w - centre) / tt). A low tt sharpens, which keeps the teacher from
    saying the same of all; the centre keeps it from choosing one score for all.

    Args:
      student: [V, B, K], V >= 2.
      teacher: [W, B, K], W >= 2; no gradient reaches it.
      centre: [K], the mean of what the teacher says.
      student_temperature, teacher_temperature: above 0.

    Returns:
      [B], in float32 (float64 of float64).

    Raises:
      ValueError: for fewer than two views, shapes that differ, or a temperature of 0 or below.

    Source: Caron et al. 2021 (DINO), equation 1 and algorithm 1.
    """
    if min(len(student), len(teacher)) < 2 or student.shape[1:] != teacher.shape[1:]:
        raise ValueError(f"need [V, B, K] of two views, got {student.shape}, {teacher.shape}")
    if centre.shape != student.shape[-1:]:
        raise ValueError(f"need a centre [{student.shape[-1]}], got {centre.shape}")
    if not (student_temperature > 0 and teacher_temperature > 0):
        raise ValueError(
            f"need temperatures above 0, got {student_temperature=}, {teacher_temperature=}"
        )
    wide = jnp.promote_types(student.dtype, jnp.float32)
    said = jax.nn.log_softmax(student.astype(wide) / student_temperature)
    centred = teacher.astype(wide) - centre.astype(wide)[None, None]
    wanted = jax.lax.stop_gradient(jax.nn.softmax(centred / teacher_temperature))
    every = -jnp.einsum("wbk,vbk->wvb", wanted, said)
    pairs = [(w, v) for w in range(len(teacher)) for v in range(len(student)) if v != w]
    return jnp.stack([every[pair] for pair in pairs]).mean(axis=0)


def moved_centre(centre: jax.Array, teacher: jax.Array, momentum: float = 0.9) -> jax.Array:
    """The centre after a batch: m centre + (1 - m) times the mean of what the teacher said.

    Args:
      centre: [K].
      teacher: [W, B, K].
      momentum: m, in [0, 1).

    Source: Caron et al. 2021 (DINO), equation 4.
    """
    return momentum * centre + (1 - momentum) * teacher.mean(axis=(0, 1))
