"""The small classifiers that the reference attacks were run on, and their images."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from drawn import fill, nhwc, normal, rng, sha256, uniform

from jaxpure.attacks import BALLS
from jaxpure.keys import example_key

from . import toys

ACTIVATIONS = {"tanh": jnp.tanh, "relu": lambda x: jnp.maximum(x, 0)}
COUNT = 64


def classify(act: str, pre: float, scale: float, weights, x: jax.Array) -> jax.Array:
    """Two convolutions and an affine map, flattened channels first."""

    def conv(x, name, stride):
        y = jax.lax.conv_general_dilated(
            x[None],
            weights[f"{name}.weight"],
            (stride, stride),
            ((1, 1), (1, 1)),
            precision="highest",
        )[0]
        return ACTIVATIONS[act](y + weights[f"{name}.bias"][:, None, None])

    h = (jnp.moveaxis(x, -1, 0) - 0.5) * pre
    h = conv(conv(h, "conv1", 1), "conv2", 2).ravel()
    product = jnp.matmul(weights["fc.weight"], h, precision="highest")
    return scale * product + weights["fc.bias"]


class Problem(NamedTuple):
    """A fixture's problem: what was attacked, and with what settings.

    Attributes:
      meta: the reference's settings.
      keys: `(n,)` keys for the examples.
      x, y: `(n, H, W, C)` images and their `(n,)` labels.
      x_init: `(n, H, W, C)` where the reference's APGD began.
      defense: the classifier, undefended.
    """

    meta: dict
    keys: jax.Array
    x: jax.Array
    y: jax.Array
    x_init: jax.Array
    defense: Any

    def ball(self, eps: float | None = None) -> Any:
        """The ball of the fixture's norm, by default of its radius."""
        eps = self.meta["eps"] if eps is None else eps
        return BALLS[self.meta["norm"].lower()](float(eps))


def classifier_of(meta: dict, dtype: str) -> Any:
    """A fixture's classifier."""
    config = meta["classifier"]
    channels, height, width = config["shape"]
    first, second = config["ch"]
    shapes = {
        "conv1.weight": (first, channels, 3, 3),
        "conv1.bias": (first,),
        "conv2.weight": (second, first, 3, 3),
        "conv2.bias": (second,),
        "fc.weight": (10, second * (height // 2) * (width // 2)),
        "fc.bias": (10,),
    }
    tensors = {name: fill(name, shape) for name, shape in shapes.items()}
    assert sha256(tensors) == meta["weights_sha256"]
    # A static function: tanh or relu, and the two scales, are part of the program.
    function = partial(classify, config["act"], config["pre"], config["scale"])
    weights = {name: jnp.asarray(w, dtype) for name, w in tensors.items()}
    return jax.tree_util.Partial(function, weights)


def rounded(classifier: Any, number: int) -> Any:
    """The classifier, its first weights changed by a rounding: 4e-16 times noise."""
    (weights,) = classifier.args
    noise = rng(f"rounding {number}").standard_normal(weights["conv1.weight"].shape)
    changed = weights | {"conv1.weight": weights["conv1.weight"] + 4e-16 * noise}
    return jax.tree_util.Partial(classifier.func, changed)


def load(stored: Mapping[str, np.ndarray], dtype: str) -> Problem:
    """The problem of a fixture; images that it leaves out are drawn again."""
    meta = json.loads(str(stored["meta"]))
    channels, height, width = meta["classifier"]["shape"]
    name = {1: "gray8", 3: "rgb16"}[channels]
    shape = (COUNT, channels, height, width)
    x = uniform(f"attack_x_{name}", 0, 1, shape)
    np.testing.assert_array_equal(x[: len(stored["x"])], stored["x"])
    x_init = start(meta["norm"], name, x, float(np.ravel(stored["eps"])[0]))
    if "x_init" in stored:
        given = stored["x_init"]
        np.testing.assert_array_equal(x_init[: len(given)], given)
    root = jax.random.key(0)
    return Problem(
        meta,
        jax.vmap(example_key, (None, 0))(root, jnp.arange(COUNT)),
        jnp.asarray(nhwc(x), dtype),
        jnp.asarray(stored["y"], jnp.int32),
        jnp.asarray(nhwc(x_init), dtype),
        toys.undefended(classifier_of(meta, dtype)),
    )


def start(norm: str, name: str, x: np.ndarray, eps: float) -> np.ndarray:
    """Where the reference began: on the ball's edge, in float32.

    The L2 norm is summed in float64 and then cast.
    """
    tag = f"attack_init_{norm}_{name}"
    noise = uniform(tag, -1, 1, x.shape) if norm == "Linf" else normal(tag, x.shape)
    flat = noise.reshape(len(x), -1).astype(np.float64)
    length = np.abs(flat).max(1) if norm == "Linf" else np.linalg.norm(flat, axis=1)
    length = length.astype(np.float32)[:, None, None, None]
    return np.clip(x + np.float32(eps) * noise / length, 0, 1).astype(np.float32)
