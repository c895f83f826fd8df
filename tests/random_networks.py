"""Parameters for networks that are to be compared, not trained."""

import jax
import numpy as np


def random_params(module, *args):
    """Random to the last bias: at its own initialisation the output is all but zero."""
    return random_like(jax.eval_shape(module.init, jax.random.key(0), *args)["params"])


def random_like(tree):
    """The same for a tree of shapes."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        scale = 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
        offset = 1.0 if path[-1].key == "scale" else 0.0
        return (offset + scale * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, tree)
