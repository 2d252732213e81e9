"""How jaxpure does a work here: the batch over the devices, as its commands spread it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments import devices
from jaxpure.evaluation import lanes


def use(count: int | None, images: int) -> None:
    """So many CPU devices; None means one a physical core, as far as images go evenly."""
    devices.use(count, multiple_of=images)


def spread(
    one: Callable[..., Any], shared: tuple[Any, ...], each: tuple[Any, ...]
) -> Callable[[], Any]:
    """A call of `one(*shared, *each[i])` for all i, one program, over all devices.

    Args:
      one: of a single image.
      shared: arguments that all images have in common.
      each: arguments with a leading axis, an entry an image.
    """
    mesh = lanes.local_mesh()
    local = jax.vmap(one, (*[None] * len(shared), *[0] * len(each)))
    specs = (*[P()] * len(shared), *[P("data")] * len(each))
    run = jax.jit(
        jax.shard_map(
            local, mesh=mesh, in_specs=specs, out_specs=P("data"), check_vma=False
        )
    )
    shared = jax.device_put(shared, NamedSharding(mesh, P()))
    each = jax.device_put(each, NamedSharding(mesh, P("data")))
    return lambda: jax.block_until_ready(run(*shared, *each))


def operations(function: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations of a function without loops, as XLA counts them."""
    return jax.jit(function).lower(*args).cost_analysis()["flops"]
