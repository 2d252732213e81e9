"""Networks as callable pytrees: static architecture, parameters as leaves."""

import dataclasses
import functools
import math
from typing import Any, ClassVar, Literal, Protocol, cast, get_args

import jax
from flax import nnx

from jaxpure.errors import UserError, check_in
from jaxpure.models.trained import Trained
from jaxpure.pytrees import Static, pytree

Role = Literal["classifier", "denoiser"]
ComputeDtype = Literal["float32", "bfloat16"]


class Architecture(Protocol):
    """What a network is, without its parameters: a frozen dataclass of plain values.

    It may also have an `any_size` that is True: its module takes images of any height and
    width, not of `input_shape` alone.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    role: ClassVar[Role]
    """A "classifier" is called with images in [0, 1], a "denoiser" with noise and time."""

    @property
    def input_shape(self) -> tuple[int, int, int]: ...

    def build(self, rngs: nnx.Rngs) -> nnx.Module: ...


@pytree(eq=False, repr=False)
class Network:
    """A network ready to be called, passed to `jit`, or stored.

    A denoiser whose `trained.label_scale` is not 1 is called with timesteps like any other,
    and scales them by itself.

    Attributes:
      architecture: what it is; static.
      params: `{"params": ..., "stats": ...}`, nested dicts of arrays; the leaves.
      trained: what a denoiser was trained on; static. None: not known.
    """

    architecture: Static[Architecture]
    params: Any
    trained: Static[Trained | None] = None

    def __call__(self, x: jax.Array, *more: jax.Array) -> jax.Array:
        """The output for an image, or a batch of them.

        Args:
          x: `(..., H, W, C)`.
          *more: a denoiser's timesteps `(...)`, and classes `(...)` where it has such.
        """
        self._check_shape(x.shape)
        if more and self.trained is not None and self.trained.label_scale != 1:
            t, *classes = more
            more = (self.trained.label_scale * t, *classes)
        return bind(self.architecture, self.params)(x, *more)

    def __repr__(self) -> str:
        return f"Network({self.architecture}, {num_params(self):,} parameters)"

    def replace(self, **changes: Any) -> "Network":
        """The same parameters under a changed architecture (compute_dtype, say)."""
        architecture = dataclasses.replace(self.architecture, **changes)
        return Network(architecture, self.params, self.trained)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether it can be called with images `(..., H, W, C)` of this shape."""
        expected, given = self.architecture.input_shape, tuple(shape[-3:])
        if getattr(self.architecture, "any_size", False):
            return len(given) == 3 and given[-1] == expected[-1]
        return given == expected

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if not self.takes(shape):
            raise UserError(
                f"{type(self.architecture).__name__} takes images of "
                f"{self.architecture.input_shape}, got {tuple(shape)}: choose a network "
                "for this data, or resize the images"
            )


def is_classifier(network: Any) -> bool:
    """Whether a `Network`, or an architecture, is one of a classifier."""
    return _role(network) == "classifier"


def is_denoiser(network: Any) -> bool:
    """Whether a `Network`, or an architecture, is one of a denoiser."""
    return _role(network) == "denoiser"


def _role(network: Any) -> Role | None:
    return getattr(getattr(network, "architecture", network), "role", None)


def create(architecture: Architecture, key: jax.Array) -> Network:
    """A freshly initialised network; `key` is consumed."""

    @jax.jit
    def init(key):
        return _split(architecture.build(_rngs(key)))[1]

    return Network(architecture, init(key))


def abstract(architecture: Architecture) -> Network:
    """The network with shapes in place of arrays: what a file of weights must fill."""
    return Network(architecture, _abstract_split(architecture)[1])


def bind(architecture: Architecture, params: Any) -> nnx.Module:
    """The module with these parameters, for training (which reads new statistics)."""
    graphdef, _ = _abstract_split(architecture)
    return nnx.merge(graphdef, params["params"], params["stats"])


def batch_stats(module: nnx.Module) -> Any:
    return nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


def num_params(network: Network) -> int:
    """Trainable parameters; running statistics are not counted."""
    return sum(math.prod(p.shape) for p in jax.tree.leaves(network.params["params"]))


def check_compute_dtype(compute_dtype: str) -> None:
    """Raises UserError for a dtype that networks do not compute in."""
    check_in("compute_dtype", compute_dtype, get_args(ComputeDtype))


def _split(module: nnx.Module) -> tuple[Any, Any]:
    graphdef, params, stats, rest = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    if jax.tree.leaves(rest):
        raise ValueError(f"module has state that a pure function cannot carry: {rest}")
    return graphdef, {
        "params": nnx.to_pure_dict(params),
        "stats": nnx.to_pure_dict(stats),
    }


@functools.lru_cache(maxsize=64)
def _abstract_split(architecture: Architecture) -> tuple[Any, Any]:
    return _split(nnx.eval_shape(lambda: architecture.build(_rngs(jax.random.key(0)))))


class _Rngs:
    """The keys that `nnx.Rngs(key)` gives, counted by Python.

    Those of flax count by a variable, which under tracing describes itself at every key by
    all of the program so far: half a minute for the largest networks. Layers ask for
    nothing else; one that keeps a stream of its own (dropout) no pure function can carry.
    """

    def __init__(self, key: jax.Array):
        self._key, self._count = key, 0

    def params(self) -> jax.Array:
        key = jax.random.fold_in(self._key, self._count)
        self._count += 1
        return key


def _rngs(key: jax.Array) -> nnx.Rngs:
    return cast(nnx.Rngs, _Rngs(key))
