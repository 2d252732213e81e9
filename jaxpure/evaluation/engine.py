"""The engine: attacks and judgements of many examples side by side, on all devices.

Examples sit in slots. Every few steps the finished ones leave and the next ones of the
data set take their places, so nothing is spent on an image that has fallen. The slots
are spread over the devices of a one-axis mesh, `batch_size` on each, and each device runs
the same program on its own: no result depends on how many there are, on the neighbours,
or on the order.
"""

import functools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxpure import checkpoints, randomness
from jaxpure.data import Dataset
from jaxpure.evaluation.records import Row
from jaxpure.randomness import Policy
from jaxpure.types import Key

CALL_SECONDS = 2.0  # a call of the device takes about this long
SNAPSHOT_SECONDS = 60.0


class Slots(NamedTuple):
    """Attacks under way, `n` of them; every leaf has a leading axis `n`.

    Attributes:
      index: `(n,)` int32, the example in each slot.
      active: `(n,)` bool, whether there is one.
      calls: `(n,)` int32, steps spent on it.
      state: the attacks' states.
    """

    index: jax.Array
    active: jax.Array
    calls: jax.Array
    state: Any


def local_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over this host's devices (or the given ones), axis "data"."""
    devices = jax.local_devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def num_slots(mesh: Mesh, batch_size: int) -> int:
    return mesh.size * batch_size


@functools.lru_cache
def _advance(mesh: Mesh):
    def one(attack, slot: Slots) -> Slots:
        going = slot.active & ~slot.state.done
        stepped = attack.step(slot.state)
        state = randomness.choose(going, stepped, slot.state)
        return slot._replace(state=state, calls=slot.calls + going)

    def local(attack, slots: Slots, steps: jax.Array) -> Slots:
        batch = jax.vmap(one, (None, 0))
        return jax.lax.fori_loop(0, steps, lambda _, s: batch(attack, s), slots)

    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), P("data"), P()),
            out_specs=P("data"),
            check_vma=False,
        )
    )


@functools.lru_cache
def _enter(mesh: Mesh):
    def one(attack, root, index, x, label) -> Slots:
        key = randomness.example_key(root, index)
        state = attack.init(key, x, label)
        return Slots(index, jnp.ones((), bool), jnp.zeros((), jnp.int32), state)

    def local(attack, root, slots, entering, index, x, label) -> Slots:
        new = jax.vmap(one, (None, None, 0, 0, 0))(attack, root, index, x, label)
        if slots is None:
            return new._replace(active=entering)
        return jax.vmap(randomness.choose)(entering, new, slots)

    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), P(), *[P("data")] * 5),
            out_specs=P("data"),
            check_vma=False,
        )
    )


@functools.lru_cache
def _judge(mesh: Mesh, policy: Policy, keys: int):
    def one(defense, root, index, x):
        key = randomness.example_key(root, index)
        judging = randomness.judging_keys(policy, key, keys)
        return jax.lax.map(lambda k: defense(k, x), judging)

    def local(defense, root, index, x):
        return jax.vmap(one, (None, None, 0, 0))(defense, root, index, x)

    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), P(), P("data"), P("data")),
            out_specs=P("data"),
            check_vma=False,
        )
    )


def judge(
    defense: Any,
    policy: Policy,
    root: Key,
    indices: np.ndarray,
    images: np.ndarray,
    *,
    keys: int,
    batch_size: int,
    mesh: Mesh,
) -> np.ndarray:
    """Logits `(n, keys, classes)` of images `(n, H, W, C)` under their judging keys.

    Args:
      defense: `(key, x) -> logits`, a callable pytree.
      policy: decides judging key 0; see `randomness.judging_keys`.
      root: the run's root key.
      indices: `(n,)` the examples' indices in the published set.
      images: float32 in [0, 1].
      keys: number of judging keys.
      batch_size: images side by side on each device.
      mesh: the devices.
    """
    size = num_slots(mesh, batch_size)
    results = []
    for start in range(0, len(indices), size):
        index, count = _padded(indices[start : start + size].astype(np.int32), size)
        x, _ = _padded(images[start : start + size], size)
        index, x = _shard(mesh, (index, x))
        logits = _judge(mesh, policy, keys)(defense, root, index, x)
        results.append(np.asarray(logits)[:count])
    return np.concatenate(results)


def attack(
    attack: Any,
    root: Key,
    dataset: Dataset,
    todo: Sequence[int],
    *,
    batch_size: int,
    mesh: Mesh,
    snapshot: epath.Path | None = None,
) -> Iterator[list[Row]]:
    """Attacks examples and yields rows as they finish (an empty list: still going).

    Args:
      attack: `init` and `step`, a pytree.
      root: the run's root key.
      dataset: where the examples are.
      todo: positions in `dataset`.
      batch_size: images side by side on each device.
      mesh: the devices.
      snapshot: a file for the states under way, written every minute; a later call with
        the same file goes on from them.
    """
    images = dataset.floats()
    queue = deque(todo)
    slots, occupied = _restore(snapshot, attack, root, dataset, queue, batch_size, mesh)
    steps, last_snapshot = 1, time.monotonic()
    while queue or occupied.any():
        slots, occupied = _refill(
            attack, root, slots, occupied, queue, dataset, images, batch_size, mesh
        )
        started = time.monotonic()
        slots = _advance(mesh)(attack, slots, jnp.int32(steps))
        done = np.asarray(slots.state.done) & occupied
        steps = _adapt(steps, time.monotonic() - started)
        rows = _rows(slots, done)
        if done.any():
            occupied = occupied & ~done
            (active,) = _shard(mesh, (occupied,))
            slots = slots._replace(active=active)
        yield rows
        if snapshot is not None and time.monotonic() - last_snapshot > SNAPSHOT_SECONDS:
            checkpoints.save_tree(snapshot, _without_keys(slots), {})
            last_snapshot = time.monotonic()
    if snapshot is not None and snapshot.exists():
        snapshot.unlink()


def seconds_per_step(
    attack: Any, root: Key, dataset: Dataset, *, batch_size: int, mesh: Mesh
) -> tuple[float, float]:
    """`(seconds to compile, seconds of one step)` of a full batch of attacks."""
    images = dataset.floats()
    queue = deque(range(len(dataset)))
    size = num_slots(mesh, batch_size)
    occupied = np.zeros(size, bool)
    slots, _ = _refill(
        attack, root, None, occupied, queue, dataset, images, batch_size, mesh
    )
    times = []
    for _ in range(2):
        started = time.monotonic()
        jax.block_until_ready(_advance(mesh)(attack, slots, jnp.int32(1)))
        times.append(time.monotonic() - started)
    return max(times[0] - times[1], 0.0), times[1]


def _refill(
    attack, root, slots, occupied, queue, dataset, images, batch_size, mesh
) -> tuple[Slots, np.ndarray]:
    """Puts the next examples of the queue into the slots that are free."""
    free = np.flatnonzero(~occupied)[: len(queue)]
    if slots is not None and not len(free):
        return slots, occupied
    size = num_slots(mesh, batch_size)
    entering = np.zeros(size, bool)
    entering[free] = True
    position = np.zeros(size, int)  # an empty slot holds a copy of the first example
    position[free] = [queue.popleft() for _ in free]
    index, x, label, mask = _shard(
        mesh,
        (
            dataset.indices[position].astype(np.int32),
            images[position],
            dataset.labels[position],
            entering,
        ),
    )
    slots = _enter(mesh)(attack, root, slots, mask, index, x, label)
    return slots, occupied | entering


def _rows(slots: Slots, done: np.ndarray) -> list[Row]:
    chosen = np.flatnonzero(done)
    if not len(chosen):
        return []
    state = slots.state
    fields = {
        "index": slots.index,
        "image": state.adversarial,
        "attack_calls": slots.calls,
        "evaluations": state.step,
        "broken_at": state.broken_at,
        "bad_gradients": state.bad_gradients,
        "zero_gradients": state.zero_gradients,
    }
    if hasattr(state, "resubmission"):
        fields |= state.resubmission._asdict()
    arrays = {name: np.asarray(value)[chosen] for name, value in fields.items()}
    rows = [{name: value[i] for name, value in arrays.items()} for i in range(len(chosen))]
    return [{**row, "index": int(row["index"])} for row in rows]


def _restore(
    snapshot, attack, root, dataset, queue, batch_size, mesh
) -> tuple[Slots | None, np.ndarray]:
    """The slots of a killed run, less those whose examples are no longer to do."""
    empty = np.zeros(num_slots(mesh, batch_size), bool)
    if snapshot is None or not snapshot.exists():
        return None, empty
    images = dataset.floats()
    first, _ = _refill(
        attack, root, None, empty, deque([0]), dataset, images, batch_size, mesh
    )
    try:
        saved = checkpoints.load_tree(snapshot, _without_keys(first))
    except checkpoints.CheckpointError:
        return None, empty  # cut short, or of another device count: begin them again
    slots = jax.tree.map(
        lambda like, x: (
            jax.random.wrap_key_data(x, impl=jax.random.key_impl(like))
            if _is_key(like)
            else x
        ),
        first,
        saved,
    )
    todo = {int(dataset.indices[p]): p for p in queue}
    index = np.asarray(slots.index)
    occupied = np.asarray(slots.active) & np.isin(index, list(todo))
    for i in index[occupied]:
        queue.remove(todo[int(i)])
    slots = slots._replace(active=jnp.asarray(occupied))
    return jax.device_put(slots, NamedSharding(mesh, P("data"))), occupied


def _without_keys(slots: Slots) -> Slots:
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, slots)


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _adapt(steps: int, seconds: float) -> int:
    """More steps a call while calls are short, fewer when they are long."""
    if seconds < CALL_SECONDS / 2:
        return min(steps * 2, 16)
    return max(steps // 2, 1) if seconds > 2 * CALL_SECONDS else steps


def _padded(values: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """`values` filled up to `size` with copies of the first, and how many are real."""
    count = len(values)
    filler = np.repeat(values[:1], size - count, axis=0)
    return np.concatenate([values, filler]), count


def _shard(mesh: Mesh, arrays: Any) -> Any:
    return jax.device_put(arrays, NamedSharding(mesh, P("data")))
