"""Our parameters beside torch's tensors: rows of a table that serves both directions."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.runtime.weight_files import StoredTensor

Path = tuple[str, ...]
Shapes = Mapping[Path, tuple[int, ...]]
Tensor = np.ndarray | StoredTensor
Weights = Mapping[str, Tensor]
# What parameters are held in.
FLOATS = ("float32", "bfloat16", "float16")
_ALIGNMENT = 64  # bytes, of the buffers of XLA's CPUs


class Layout(NamedTuple):
    """How a parameter lies in memory: here and in torch."""

    to_torch: Callable[[np.ndarray], np.ndarray]
    from_torch: Callable[[np.ndarray], np.ndarray]


CONV = Layout(lambda kernel: kernel.transpose(3, 2, 0, 1), lambda w: w.transpose(2, 3, 1, 0))
DENSE = Layout(lambda kernel: kernel.T, lambda w: w.T)
# A 1x1 convolution of torch's, a dense layer of ours.
POINTWISE = Layout(lambda kernel: kernel.T[:, :, None, None], lambda w: w[:, :, 0, 0].T)
PLAIN = Layout(lambda value: value, lambda value: value)
# Ours has a leading axis of 1, or two of them.
FIRST = Layout(lambda value: value[0], lambda value: value[None])
FIRST_TWO = Layout(lambda value: value[0, 0], lambda value: value[None, None])


def patches(size: int) -> Layout:
    """A convolution of patches of `size` pixels without overlap, a dense layer of ours."""
    return Layout(
        lambda kernel: kernel.reshape(size, size, -1, kernel.shape[1]).transpose(3, 2, 0, 1),
        lambda w: w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]),
    )


# The parameters of a layer: our name, torch's name, layout.
LEAVES: dict[str, tuple[tuple[str, str, Layout], ...]] = {
    "conv": (("kernel", "weight", CONV), ("bias", "bias", PLAIN)),
    "conv_alone": (("kernel", "weight", CONV),),
    "dense": (("kernel", "weight", DENSE), ("bias", "bias", PLAIN)),
    "dense_alone": (("kernel", "weight", DENSE),),
    "pointwise": (("kernel", "weight", POINTWISE), ("bias", "bias", PLAIN)),
    "norm": (("scale", "weight", PLAIN), ("bias", "bias", PLAIN)),
    "batch_norm": (
        ("scale", "weight", PLAIN),
        ("bias", "bias", PLAIN),
        ("mean", "running_mean", PLAIN),
        ("variance", "running_var", PLAIN),
    ),
    "embed": (("embedding", "weight", PLAIN),),
}


class Row(NamedTuple):
    """A parameter at its path in ours, and the tensor of that name in theirs."""

    path: Path
    name: str
    layout: Layout

    def torch_shape(self, shapes: Shapes) -> tuple[int, ...]:
        """The shape of their tensor, from those of ours."""
        return self.layout.to_torch(np.broadcast_to(np.float32(0), shapes[self.path])).shape


def layer(path: Path, name: str, kind: str) -> Iterable[Row]:
    """The rows of a layer, of a kind of LEAVES."""
    for leaf, torch_leaf, layout in LEAVES[kind]:
        yield Row((*path, leaf), f"{name}.{torch_leaf}", layout)


def shapes_of(network: Any, *args: Any) -> dict[Path, tuple[int, ...]]:
    """The shape of every parameter of a network, asked of the network itself.

    Args:
      network: the network.
      *args: of its call; arrays, or their shapes alone (`jax.ShapeDtypeStruct`).
    """
    variables = jax.eval_shape(lambda *args: network.init(jax.random.key(0), *args), *args)
    return {path: tuple(leaf.shape) for path, leaf in flatten(variables["params"]).items()}


def flatten(tree: Mapping[str, Any], path: Path = ()) -> dict[Path, Any]:
    """The leaves of nested dicts by their paths."""
    leaves: dict[Path, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, (*path, name))
        else:
            leaves[(*path, name)] = value
    return leaves


def params_of(
    rows: Iterable[Row],
    shapes: Shapes,
    weights: Weights,
    source: Any,
    dtype: Any = jnp.float32,
) -> dict[str, Any]:
    """The parameters that the tensors of a file or a folder hold.

    Tensors that are stored are read one after the other, each when all of them are known to fit.
    So no more than one is held beside the parameters.

    Args:
      rows: of the network, all of them.
      shapes: of its parameters.
      weights: theirs by name.
      source: the file or folder, for messages.
      dtype: of the parameters, one of FLOATS.

    Raises:
      ValueError: for tensors that are missing, left over or of another shape: how many, and the
        first five; for another dtype, and values that it cannot hold.
    """
    if (float_type := jnp.dtype(dtype)).name not in FLOATS:
        raise ValueError(f"need parameters of {', '.join(FLOATS)}, got {float_type.name}")
    rows = list(rows)
    _check_fit(rows, shapes, weights, source)
    params: dict[str, Any] = {}
    for row in rows:
        *modules, leaf = row.path
        tree = params
        for module in modules:
            tree = tree.setdefault(module, {})
        try:
            tree[leaf] = _placed(row.layout.from_torch(np.asarray(weights[row.name])), float_type)
        except FloatingPointError as error:
            raise ValueError(
                f"{source}: tensor {row.name} has values that {float_type.name} cannot hold"
            ) from error
    return params


def _placed(value: np.ndarray, dtype: np.dtype) -> jax.Array:
    """A value on the device in a float type. Raises FloatingPointError for what that cannot hold.

    A CPU takes over memory that is aligned as its own is, so there is no second copy of it.
    """
    memory = np.empty(value.size * dtype.itemsize + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    array = memory[start : start + value.size * dtype.itemsize].view(dtype).reshape(value.shape)
    with np.errstate(over="raise"):
        np.copyto(array, value, casting="unsafe")
    return jax.device_put(array)


def _check_fit(
    rows: Iterable[Row], shapes: Shapes, weights: Mapping[str, Tensor], source: Any
) -> None:
    """Raises ValueError for tensors that are missing, left over or of another shape."""
    left = dict(weights)
    missing, wrong = [], []
    for row in rows:
        need = row.torch_shape(shapes)
        if row.name not in left:
            missing.append(f"{row.name} {need}")
            continue
        weight = left.pop(row.name)
        if weight.shape != need:
            wrong.append(f"{row.name} {weight.shape} for {need}")
    over = [f"{name} {left[name].shape}" for name in sorted(left)]
    said = [
        f"{len(names)} {what} ({first_five(names)})"
        for names, what in (
            (missing, "missing"),
            (wrong, "of another shape"),
            (over, "left over"),
        )
        if names
    ]
    if said:
        raise ValueError(f"{source}: tensors do not fit the network: {'; '.join(said)}")


def first_five(names: list[str]) -> str:
    """The first five."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def tensors_of(
    rows: Iterable[Row], shapes: Shapes, params: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Their tensors by name, in float32, from our parameters.

    Raises:
      ValueError: for parameters that do not fit the network, naming the first.
    """
    leaves = flatten(params)
    for path in sorted({*shapes, *leaves}):
        have = tuple(np.shape(leaves[path])) if path in leaves else "nothing"
        need = shapes.get(path, "nothing")
        if have != need:
            raise ValueError(f"params: {'/'.join(path)} has {have}; the network needs {need}")
    return {
        # The file keeps the bytes in memory order, so a transposed view must be copied first.
        row.name: np.array(row.layout.to_torch(np.asarray(leaves[row.path], np.float32)), order="C")
        for row in rows
    }
