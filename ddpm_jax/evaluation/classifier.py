"""A small classifier, trained in a minute on the data themselves, as a space of features.

held_out = build_source("digits", "validation")
trained = load_or_train("cache", build_source("digits", "train"), held_out)
features = extractor(trained, held_out.info).apply(images).pooled    # float32 [N, 64]
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
from blake3 import blake3

from ddpm_jax.data import DataInfo, Source, fingerprint
from ddpm_jax.evaluation import features
from ddpm_jax.evaluation.features import Extractor, Features
from ddpm_jax.models import FeatureClassifier
from ddpm_jax.runtime import compiling, files

# What is trained, and how. Another version is another space of features: count it up whenever
# anything here or in `FeatureClassifier` changes.
RECIPE: dict[str, Any] = {
    "version": 2,
    "width": 32,
    "features": 64,
    "dropout": 0.1,
    "num_steps": 700,
    "batch_size": 128,
    "learning_rate": 3e-3,
    "max_examples": 20_000,
}
HELD_OUT = 2000  # examples at most that the accuracy is measured on
MAX_SIZE = 64  # height and width: beyond, a minute would not do
CACHE_BYTES = 2**26


class TrainedClassifier(NamedTuple):
    """A classifier.

    Attributes:
      params: of `FeatureClassifier`.
      heads: the number of values of each head, by name.
      digest: BLAKE3 of the parameters.
      accuracy: the share of held-out images that each head reads right.
    """

    params: Any
    heads: dict[str, int]
    digest: str
    accuracy: dict[str, float]


def heads_of(info: DataInfo) -> dict[str, int]:
    """What a classifier of these data tells: the label, and each attribute.

    Raises:
      ValueError: for data without labels or attributes, or images above 64x64.
    """
    heads = {"label": info.num_classes} if info.num_classes > 1 else {}
    heads |= {name: len(values) for name, values in info.attributes.items()}
    if not heads:
        raise ValueError(
            "these data have no labels to train a classifier on: choose the features pca, pixels "
            "or inception"
        )
    height, width, _ = info.image_shape
    if max(height, width) > MAX_SIZE:
        raise ValueError(
            f"images are {height}x{width}; the small classifier is for at most {MAX_SIZE}x"
            f"{MAX_SIZE}: choose the features inception"
        )
    return heads


def train(source: Source, held_out: Source, *, seed: int = 0) -> TrainedClassifier:
    """Train by RECIPE: Adam, a cosine to zero, cross-entropy summed over the heads.

    On one device, whatever there is, so that the result is that of the machine and the seed alone.

    Args:
      source: what it is trained on; of more than 20,000 examples as many, evenly spaced.
      held_out: what its accuracy is measured on, at most 2,000 of it.
      seed: of the initial parameters and the order of the examples.

    Raises:
      ValueError: as `heads_of`, or for a source without examples.
    """
    heads = heads_of(source.info)
    images, labels = _arrays(source, heads, RECIPE["max_examples"])
    model = _model(heads)
    rate = optax.cosine_decay_schedule(RECIPE["learning_rate"], RECIPE["num_steps"])
    optimizer = optax.adam(rate)
    levels = source.info.levels
    with jax.default_device(jax.local_devices()[0]):
        data = (jnp.asarray(images), {name: jnp.asarray(v) for name, v in labels.items()})
        key_init, *keys = jax.random.split(jax.random.key(seed), RECIPE["num_steps"] + 1)
        params = jax.jit(model.init)(key_init, features.scaled(data[0][:1], levels))["params"]
        state = optimizer.init(params)

        @compiling.jit
        def step(params: Any, state: Any, data: Any, rows: jax.Array, key: jax.Array) -> Any:
            def loss(params: Any) -> jax.Array:
                x = features.scaled(data[0][rows], levels)
                rngs = {"dropout": key}
                _, logits = model.apply({"params": params}, x, train=True, rngs=rngs)
                entropy = optax.softmax_cross_entropy_with_integer_labels
                return sum(entropy(logits[n], v[rows]).mean() for n, v in data[1].items())

            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return optax.apply_updates(params, updates), state

        for rows, key in zip(_order(len(images), seed), keys, strict=True):
            params, state = step(params, state, data, rows, key)
    params = _scaled(jax.tree.map(np.asarray, params), heads, images[:HELD_OUT], levels)
    accuracy = _accuracy(params, heads, held_out, levels)
    return TrainedClassifier(params, heads, _digest(params), accuracy)


def load_or_train(
    folder: str | os.PathLike[str], source: Source, held_out: Source, *, seed: int = 0
) -> TrainedClassifier:
    """As `train`; kept in a folder, under the hash of the data, the recipe and the seed.

    What is kept and cannot be read, or is damaged, is reported on stderr and rebuilt.

    Args:
      folder: made if it is not there.
      source, held_out, seed: as for `train`.

    Raises:
      ValueError: as `train`.
      OSError: if the folder cannot be written.
    """
    heads = heads_of(source.info)
    key = [fingerprint(source), fingerprint(held_out), RECIPE, seed]
    name = blake3(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(folder) / f"classifier-{name}.safetensors"
    if kept := _kept(path, heads, source.info):  # also from a folder that cannot be written to
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.in_turn(path.with_name(f".{path.name}.lock")):
        if kept := _kept(path, heads, source.info, tell=True):  # by another process meanwhile
            return kept
        trained = train(source, held_out, seed=seed)
        # One entry: the library writes several in an order that changes from time to time.
        metadata = json.dumps({"accuracy": trained.accuracy, "digest": trained.digest})
        with files.whole(path) as partial:
            partial.write_bytes(
                safetensors.numpy.save(_flat(trained.params), {"trained": metadata})
            )
    return trained


def extractor(trained: TrainedClassifier, info: DataInfo) -> Extractor:
    """The classifier's hidden layer, and the logits of its first head (the label's, if any).

    Args:
      trained: the classifier.
      info: of the data that it was trained on.

    Returns:
      An extractor, uint8 [B, H, W, C] -> float32 [B, 64] and [B, K].
    """
    first, model = next(iter(trained.heads)), _model(trained.heads)

    def network(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden, logits = model.apply({"params": params}, features.scaled(images, info.levels))
        return hidden, logits[first]

    run = features.compiled(network, trained.params)

    def apply(images: np.ndarray) -> Features:
        features.check_images(images, info.image_shape, info.levels)
        return Features(*run(images))

    protocol = {
        "weights": trained.digest,
        "recipe": RECIPE["version"],
        "logits": first,
        "resize": "none",
        "image_shape": list(info.image_shape),
        "levels": info.levels,
    }
    return Extractor("classifier", protocol, apply)


def _model(heads: dict[str, int]) -> FeatureClassifier:
    sizes = tuple(heads.items())
    return FeatureClassifier(sizes, RECIPE["width"], RECIPE["features"], RECIPE["dropout"])


def _scaled(params: Any, heads: dict[str, int], images: np.ndarray, levels: int) -> Any:
    """The parameters with features whose mean square over these images is 1."""
    model = _model(heads)

    def network(params: Any, images: jax.Array) -> tuple[jax.Array]:
        return (model.apply({"params": params}, features.scaled(images, levels))[0],)

    (outputs,) = features.compiled(network, params)(images)
    root = np.sqrt(np.square(outputs, dtype=np.float64).mean())
    return {**params, "feature_scale": np.array(1 / root, np.float32)}


def _order(number: int, seed: int) -> np.ndarray:
    """The examples of each step, [steps, batch]: one permutation after another."""
    wanted = RECIPE["num_steps"] * RECIPE["batch_size"]
    epochs = range(-(-wanted // number))
    # Sorted raw bits: unlike Generator.permutation, numpy promises never to change them.
    order = [
        np.argsort(np.random.Philox([seed, e]).random_raw(number), kind="stable") for e in epochs
    ]
    return np.concatenate(order)[:wanted].reshape(RECIPE["num_steps"], RECIPE["batch_size"])


def _arrays(
    source: Source, heads: dict[str, int], limit: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """At most `limit` images of a source, evenly spaced, and the attributes of each by name."""
    if not len(source):
        raise ValueError("the classifier's data are empty: choose another split or data_dir")
    number = min(limit, len(source))
    examples = [source[k * len(source) // number] for k in range(number)]
    labels = {name: np.array([e[name] for e in examples], np.int32) for name in heads}
    return np.stack([e["image"] for e in examples]), labels


def _accuracy(
    params: Any, heads: dict[str, int], held_out: Source, levels: int
) -> dict[str, float]:
    images, labels = _arrays(held_out, heads, HELD_OUT)
    model = _model(heads)

    def network(params: Any, images: jax.Array) -> Any:
        return tuple(model.apply({"params": params}, features.scaled(images, levels))[1].values())

    outputs = features.compiled(network, params)(images)
    return {
        name: float((logits.argmax(axis=1) == labels[name]).mean())
        for name, logits in zip(heads, outputs, strict=True)
    }


def _flat(params: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {".".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


def _digest(params: Any) -> str:
    """BLAKE3 of the leaves in the order of their names: name, shape, bytes (float32)."""
    total = blake3()
    for name, leaf in sorted(_flat(params).items()):
        total.update(f"{name} {leaf.shape}\n".encode() + np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def _kept(
    path: Path, heads: dict[str, int], info: DataInfo, *, tell: bool = False
) -> TrainedClassifier | None:
    """What was kept; None where nothing was, or something else, which is reported on stderr."""
    try:
        return _read(path, heads, info) if path.exists() else None
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, safetensors.SafetensorError,
    ) as error:  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if tell:
            print(f"{path} is damaged ({reason}): trained again", file=sys.stderr)
        return None


def _read(path: Path, heads: dict[str, int], info: DataInfo) -> TrainedClassifier:
    """What `load_or_train` wrote; raises ValueError unless it is whole and of this network."""
    content = files.read_bytes(path, CACHE_BYTES)
    flat = safetensors.numpy.load(content)
    size = int.from_bytes(content[:8], "little")
    metadata = files.parse_json(content[8 : 8 + size]).get("__metadata__", {})
    summary = files.parse_json(metadata.get("trained", "{}").encode())
    image = jax.ShapeDtypeStruct((1, *info.image_shape), np.float32)
    shapes = jax.eval_shape(_model(heads).init, jax.random.key(0), image)["params"]
    wanted = jax.tree_util.tree_flatten_with_path(shapes)
    names = [".".join(key.key for key in path) for path, _ in wanted[0]]
    params = jax.tree.unflatten(wanted[1], [flat.get(name, np.zeros(0)) for name in names])
    if set(names) != set(flat) or _digest(params) != summary.get("digest"):
        raise ValueError("its parameters are not those that were written")
    return TrainedClassifier(params, heads, summary["digest"], summary["accuracy"])
