"""What a network is conditioned on (`diffusion.conditions`), completed and checked."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.condition_dropout import NULL_VALUE
from ddpm_jax.models.image_embedding import EMBEDDING
from ddpm_jax.models.text import Captions

Conditions = Mapping[str, jax.Array] | jax.Array | None


def complete(
    conditions: Conditions,
    shape: tuple[int, ...],
    values: Mapping[str, int],
    images: Sequence[tuple[str, int]],
    tokens_channels: int,
    captions: Captions | None = None,
    image_embedding: int = 0,
) -> dict[str, jax.Array]:
    """Every condition that a network has, the absent ones in their null form.

    Args:
      conditions: named arrays; a bare int array is {"label": array}; None for none.
      shape: [B, H, W, C], of x_t.
      values: the numbers of values of the conditions of that kind.
      images: (name, channels) of the images. One that is f times larger than x_t either way and has
        channels / f² is folded: each f x f pixels become channels of one.
      tokens_channels: D of the tokens; 0 for none.
      captions: the texts that it reads; None for none.
      image_embedding: the dimensions of an image's embedding that it is told; 0 for none.

    Raises:
      ValueError: for a condition that the network does not have, or one of another form.
    """
    if conditions is not None and not isinstance(conditions, Mapping):
        conditions = {"label": conditions}
    arrays = dict(conditions or {})
    names = [*values, *(name for name, _ in images)]
    names += ["tokens", "tokens_mask"] if tokens_channels else []
    names += ["text", "text_states"] if captions else []
    names += [EMBEDDING] if image_embedding else []
    if unknown := sorted(set(arrays) - set(names)):
        raise ValueError(
            f"this network is not conditioned on {', '.join(unknown)}; it knows "
            f"{', '.join(names) or 'no conditions'}"
        )
    batch = shape[0]
    whole = {}
    for name in values:
        value = jnp.asarray(arrays.get(name, jnp.full(batch, NULL_VALUE)))
        if value.shape != (batch,) or not jnp.issubdtype(value.dtype, jnp.integer):
            raise ValueError(f"{name}s must be integers [{batch}], got {value.dtype}{value.shape}")
        whole[name] = value
    for name, channels in images:
        need = (*shape[:3], channels)
        whole[name] = _folded(jnp.asarray(arrays.get(name, jnp.zeros(need))), need)
        if whole[name].shape != need:
            raise ValueError(f"{name} must be {need}, got {whole[name].shape}")
    if tokens_channels:
        whole |= _tokens(arrays, batch, tokens_channels)
    if captions:
        need = (batch, captions.context_length)
        text = jnp.asarray(arrays.get("text", jnp.full(need, NULL_VALUE)))
        if text.shape != need or not jnp.issubdtype(text.dtype, jnp.integer):
            raise ValueError(f"text must be integers {list(need)}, got {text.dtype}{text.shape}")
        whole["text"] = text
        if "text_states" in arrays:
            whole["text_states"] = jnp.asarray(arrays["text_states"])
            if whole["text_states"].shape != (*need, captions.width):
                raise ValueError(
                    f"text_states must be {[*need, captions.width]}, got "
                    f"{list(whole['text_states'].shape)}"
                )
    if image_embedding:
        need_vector = (batch, image_embedding)
        whole[EMBEDDING] = jnp.asarray(arrays.get(EMBEDDING, jnp.zeros(need_vector)))
        if whole[EMBEDDING].shape != need_vector:
            raise ValueError(
                f"{EMBEDDING} must be {list(need_vector)}, got {whole[EMBEDDING].shape}"
            )
    return whole


def values(num_classes: int, attributes: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Every condition that is one of a number of values, label first."""
    return ({"label": num_classes} if num_classes else {}) | dict(attributes)


def row(value: jax.Array, count: int) -> jax.Array:
    """The row of an embedding table of count + 1 rows: the last one is of no value at all."""
    return jnp.where(value < 0, count, value)


def beside(
    xt: jax.Array, conditions: Mapping[str, jax.Array], images: Sequence[tuple[str, int]]
) -> jax.Array:
    """x_t with the conditions that are images as further channels."""
    return jnp.concatenate(
        [xt, *(conditions[name].astype(xt.dtype) for name, _ in images)], axis=-1
    )


def _folded(image: jax.Array, need: tuple[int, ...]) -> jax.Array:
    """An image [B, f h, f w, C] as [B, h, w, f² C] where that is what is needed, else itself."""
    batch, height, width, channels = need
    factor = image.shape[1] // height if image.ndim == 4 else 1
    larger = (batch, factor * height, factor * width, channels // max(factor, 1) ** 2)
    if factor < 2 or image.shape != larger or channels % factor**2:
        return image
    parts = image.reshape(batch, height, factor, width, factor, larger[-1])
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(need)


def _tokens(conditions: Mapping[str, jax.Array], batch: int, channels: int) -> dict[str, jax.Array]:
    if "tokens" not in conditions:
        if "tokens_mask" in conditions:
            raise ValueError("tokens_mask without tokens: give both, or neither")
        nothing = jnp.zeros((batch, 1, channels))
        return {"tokens": nothing, "tokens_mask": jnp.zeros((batch, 1), bool)}
    tokens = jnp.asarray(conditions["tokens"])
    if tokens.ndim != 3 or tokens.shape[::2] != (batch, channels):
        raise ValueError(f"tokens must be [{batch}, L, {channels}], got {tokens.shape}")
    mask = jnp.asarray(conditions.get("tokens_mask", jnp.ones(tokens.shape[:2], bool)))
    if mask.shape != tokens.shape[:2] or mask.dtype != bool:
        raise ValueError(
            f"tokens_mask must be bool {tokens.shape[:2]}, got {mask.dtype}{mask.shape}"
        )
    return {"tokens": tokens, "tokens_mask": mask}
