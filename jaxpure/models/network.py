"""Networks as callable pytrees: static architecture, parameters as leaves."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax
from flax import nnx

from jaxpure.types import register_pytree


class Architecture(Protocol):
    """What a network is, without its parameters: a frozen dataclass of plain values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def input_shape(self) -> tuple[int, int, int]: ...

    def build(self, rngs: nnx.Rngs) -> nnx.Module: ...


@functools.partial(register_pytree, data_fields=["params"], meta_fields=["config"])
@dataclass(frozen=True, repr=False, eq=False)
class Network:
    """A network ready to be called, passed to `jit`, or stored.

    Attributes:
      config: the architecture; static.
      params: `{"params": ..., "stats": ...}`, nested dicts of arrays; the leaves.
    """

    config: Architecture
    params: Any

    def __call__(self, *args: jax.Array) -> jax.Array:
        return bind(self.config, self.params)(*args)

    def __repr__(self) -> str:
        return f"Network({self.config}, {num_params(self):,} parameters)"

    def replace(self, **changes: Any) -> "Network":
        """The same parameters under a changed configuration (compute_dtype, say)."""
        config = dataclasses.replace(self.config, **changes)
        return Network(config, self.params)


def create(config: Architecture, key: jax.Array) -> Network:
    """A freshly initialised network; `key` is consumed."""

    @jax.jit
    def init(key):
        module = config.build(nnx.Rngs(key))
        return _split(module)[1]

    return Network(config, init(key))


def abstract(config: Architecture) -> Network:
    """The network with shapes in place of arrays: what a checkpoint must fill."""
    return Network(config, _abstract_split(config)[1])


def bind(config: Architecture, params: Any) -> nnx.Module:
    """The module with these parameters, for training (which reads new statistics)."""
    graphdef, _ = _abstract_split(config)
    return nnx.merge(graphdef, params["params"], params["stats"])


def batch_stats(module: nnx.Module) -> Any:
    return nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


def num_params(network: Network) -> int:
    """Trainable parameters; running statistics are not counted."""
    return sum(math.prod(p.shape) for p in jax.tree.leaves(network.params["params"]))


def _split(module: nnx.Module) -> tuple[Any, Any]:
    graphdef, params, stats, rest = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    if jax.tree.leaves(rest):
        raise ValueError(f"module has state that a pure function cannot carry: {rest}")
    return graphdef, {
        "params": nnx.to_pure_dict(params),
        "stats": nnx.to_pure_dict(stats),
    }


@functools.lru_cache(maxsize=64)
def _abstract_split(config: Architecture) -> tuple[Any, Any]:
    return _split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
