"""The lanes: attacks and judgements of many examples side by side, on all devices.

Examples sit in slots. Every few steps the finished ones leave and the next ones of the
data set take their places, so nothing is spent on an image that has fallen. The slots
are spread over the devices of a one-axis mesh, `batch_size` on each, and each device runs
the same program on its own: no result depends on how many there are, on the neighbours,
or on the order.
"""

import contextlib
import functools
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxpure import weights
from jaxpure.attacks.cascade import Stage
from jaxpure.errors import check_range
from jaxpure.evaluation.records import Row
from jaxpure.keys import Key, example_key, map_draws
from jaxpure.policy import Policy, judging_keys
from jaxpure.pytrees import choose, is_key

CALL_SECONDS = 2.0  # a call of the device takes about this long
SNAPSHOT_SECONDS = 60.0
MOST_STEPS = 4096  # of one call, however short they are


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


@dataclass(frozen=True)
class Examples:
    """The images that an evaluation is about, and their root key.

    Attributes:
      root: the run's root key.
      indices: `(n,)` each example's index in the published set.
      images: `(n, H, W, C)` float32 in [0, 1].
      labels: `(n,)` int32.
    """

    root: Key
    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    @functools.cached_property
    def position(self) -> dict[int, int]:
        """Where the example with a published index is."""
        return {int(index): i for i, index in enumerate(self.indices)}


@dataclass(frozen=True)
class Lanes:
    """Devices, and how much runs side by side on each.

    Attributes:
      mesh: one axis, "data".
      batch_size: images on each device.
      draws_at_once: draws of each image, where an attack or a judgement makes many.
    """

    mesh: Mesh
    batch_size: int
    draws_at_once: int = 1

    def __post_init__(self):
        check_range(1, batch_size=self.batch_size, draws_at_once=self.draws_at_once)

    @property
    def slots(self) -> int:
        return self.mesh.size * self.batch_size

    def shard(self, arrays: Any) -> Any:
        """Spreads the leading axis of arrays over the devices."""
        return jax.device_put(arrays, NamedSharding(self.mesh, P("data")))


def local_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over this host's devices (or the given ones), axis "data"."""
    devices = jax.local_devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


@functools.lru_cache
def advance_on(mesh: Mesh):
    """The jitted program that moves all slots on.

    `(attack, objective, ball, budget, slots, steps) -> slots`: so many steps of each attack
    that is under way and has not spent its budget, or fewer where all have ended.
    """

    def goes_on(slots: Slots, budget: jax.Array) -> jax.Array:
        return slots.active & ~slots.state.progress.done & (slots.calls < budget)

    def one(attack, objective, ball, budget, slot: Slots) -> Slots:
        going = goes_on(slot, budget)
        stepped = attack.step(objective, ball, slot.state)
        state = choose(going, stepped, slot.state)
        return slot._replace(state=state, calls=slot.calls + going)

    def local(attack, objective, ball, budget, slots: Slots, steps: jax.Array) -> Slots:
        batch = jax.vmap(one, (None, None, None, None, 0))
        advance = partial(batch, attack, objective, ball, budget)

        def wanted(carry):
            count, slots = carry
            return (count < steps) & jnp.any(goes_on(slots, budget))

        first = jnp.zeros((), jnp.int32), slots
        return jax.lax.while_loop(wanted, lambda c: (c[0] + 1, advance(c[1])), first)[1]

    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), P(), P(), P(), P("data"), P()),
            out_specs=P("data"),
            check_vma=False,
        )
    )


def new_slots(attack, objective, ball, root, index, x, label) -> Slots:
    """Slots of attacks that begin: of examples `index` `(n,)`, their images and labels."""

    def one(index, x, label) -> Slots:
        state = attack.init(objective, ball, example_key(root, index), x, label)
        return Slots(index, jnp.ones((), bool), jnp.zeros((), jnp.int32), state)

    return jax.vmap(one)(index, x, label)


@functools.lru_cache
def _enter(mesh: Mesh):
    def local(attack, objective, ball, root, slots, entering, index, x, label) -> Slots:
        new = new_slots(attack, objective, ball, root, index, x, label)
        return jax.vmap(choose)(entering, new, slots)

    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(P(), P(), P(), P(), *[P("data")] * 5),
            out_specs=P("data"),
            check_vma=False,
        )
    )


@functools.lru_cache
def _judge(mesh: Mesh, policy: Policy, keys: int, draws_at_once: int):
    def one(defense, root, index, x):
        judging = judging_keys(policy, example_key(root, index), keys)
        return map_draws(lambda k: defense(k, x), judging, draws_at_once)

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
    lanes: Lanes,
    defense: Any,
    policy: Policy,
    root: Key,
    indices: Sequence[int],
    images: np.ndarray,
    keys: int,
) -> np.ndarray:
    """Logits `(n, keys, classes)` of images `(n, H, W, C)` under their judging keys.

    Args:
      lanes: where.
      defense: `(key, x) -> logits`, a callable pytree.
      policy: decides judging key 0; see `policy.judging_keys`.
      root: the run's root key.
      indices: `(n,)` the examples' indices in the published set.
      images: float32 in [0, 1].
      keys: number of judging keys.
    """
    index, results = np.asarray(indices, np.int32), []
    call = _judge(lanes.mesh, policy, keys, lanes.draws_at_once)
    for start in range(0, len(index), lanes.slots):
        chosen, count = _padded(index[start : start + lanes.slots], lanes.slots)
        x, _ = _padded(images[start : start + lanes.slots], lanes.slots)
        chosen, x = lanes.shard((chosen, x))
        logits = call(defense, root, chosen, x)
        results.append(np.asarray(logits)[:count])
    return np.concatenate(results)


def attack(
    lanes: Lanes,
    stage: Stage,
    ball: Any,
    examples: Examples,
    todo: Sequence[int],
    snapshot: epath.Path | None = None,
) -> Iterator[list[Row]]:
    """Attacks examples and yields rows as they finish (an empty list: still going).

    Args:
      lanes: where.
      stage: the attack and what it climbs.
      ball: what it may do.
      examples: all of the evaluation's.
      todo: published indices of those to attack.
      snapshot: a file for the states under way, written every minute; a later call with
        the same file goes on from them.
    """
    crew = _Crew(lanes, stage, ball, examples)
    queue = deque(todo)
    slots, occupied = crew.begin(snapshot, queue)
    pace, last_snapshot = _Pace(), time.monotonic()
    rows: list[Row] = []
    while queue or occupied.any():
        slots, occupied = crew.refill(slots, occupied, queue)
        pace.begin()
        slots = crew.advance(slots, min(pace.steps, crew.calls))
        yield rows  # what the last call finished is written down while this one works
        done = crew.finished(slots) & occupied
        pace.end()
        if snapshot is not None and time.monotonic() - last_snapshot > SNAPSHOT_SECONDS:
            # With the finished ones, whose rows are not written yet.
            weights.save_tree(snapshot, _without_keys(slots), {})
            last_snapshot = time.monotonic()
        rows = _rows(slots, done)
        if done.any():
            occupied = occupied & ~done
            slots = slots._replace(active=lanes.shard(occupied))
    yield rows
    if snapshot is not None and snapshot.exists():
        snapshot.unlink()


def planned_memory(lanes: Lanes, stage: Stage, ball: Any, examples: Examples) -> int:
    """Bytes that a step of a full batch of attacks takes on each device, by XLA's plan."""
    return _Crew(lanes, stage, ball, examples).planned_memory()


def planned_judging(
    lanes: Lanes, defense: Any, policy: Policy, examples: Examples, keys: int
) -> int:
    """Bytes that judging a full batch takes on each device, by XLA's plan."""
    shape = (lanes.slots, *examples.images.shape[1:])
    index = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    call = _judge(lanes.mesh, policy, keys, lanes.draws_at_once)
    return _planned(call.lower(defense, examples.root, index, x))


def _planned(lowered: Any) -> int:
    """Bytes of a program on each device: arguments, results, and all between."""
    plan = lowered.compile().memory_analysis()
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes
    )


def seconds_per_step(
    lanes: Lanes, stage: Stage, ball: Any, examples: Examples
) -> tuple[float, float]:
    """`(seconds to compile, seconds of one step)` of a full batch of attacks."""
    crew = _Crew(lanes, stage, ball, examples)
    slots, occupied = crew.begin(None, deque())
    slots, _ = crew.refill(slots, occupied, deque(int(i) for i in examples.indices))
    times = []
    for _ in range(2):
        started = time.monotonic()
        jax.block_until_ready(crew.advance(slots, 1))
        times.append(time.monotonic() - started)
    return max(times[0] - times[1], 0.0), times[1]


class _Crew:
    """One attack on one evaluation's examples: what fills, moves and saves the slots."""

    def __init__(self, lanes: Lanes, stage: Stage, ball: Any, examples: Examples):
        self.lanes, self.examples = lanes, examples
        objective = replace(stage.objective, draws_at_once=lanes.draws_at_once)
        self.search = (stage.attack, objective, ball)
        self.calls = int(stage.budget.calls)

    @property
    def empty(self) -> np.ndarray:
        return np.zeros(self.lanes.slots, bool)

    def advance(self, slots: Slots, steps: int) -> Slots:
        budget = jnp.int32(self.calls)
        return advance_on(self.lanes.mesh)(*self.search, budget, slots, jnp.int32(steps))

    def planned_memory(self) -> int:
        """Bytes of the compiled `advance` on each device: arguments, results, the rest."""
        step = jnp.int32(1)
        advance = advance_on(self.lanes.mesh)
        return _planned(advance.lower(*self.search, step, self._shapes(), step))

    def finished(self, slots: Slots) -> np.ndarray:
        """Slots whose attack is done, or has spent its budget."""
        return np.asarray(slots.state.progress.done) | (
            np.asarray(slots.calls) >= self.calls
        )

    def refill(
        self, slots: Slots, occupied: np.ndarray, queue: deque[int]
    ) -> tuple[Slots, np.ndarray]:
        """Puts the next examples of the queue into the slots that are free."""
        free = np.flatnonzero(~occupied)[: len(queue)]
        if not len(free):
            return slots, occupied
        entering = self.empty
        entering[free] = True
        arguments = self.lanes.shard((entering, *self._entering(free, queue)))
        root = self.examples.root
        entered = _enter(self.lanes.mesh)(*self.search, root, slots, *arguments)
        return entered, occupied | entering

    def _shapes(self) -> Slots:
        """Slots without values."""
        examples = self._entering(np.array([], int), deque())
        return jax.eval_shape(new_slots, *self.search, self.examples.root, *examples)

    def _entering(self, free: np.ndarray, queue: deque[int]) -> tuple[np.ndarray, ...]:
        """Indices, images and labels of all slots, those of `free` from the queue.

        An occupied or empty slot is given the first example, which goes nowhere.
        """
        examples = self.examples
        position = np.zeros(self.lanes.slots, int)
        position[free] = [examples.position[queue.popleft()] for _ in free]
        index = examples.indices[position].astype(np.int32)
        return index, examples.images[position], examples.labels[position]

    def begin(
        self, snapshot: epath.Path | None, queue: deque[int]
    ) -> tuple[Slots, np.ndarray]:
        """Empty slots, or those of a killed run whose examples are still to do."""
        like = self._shapes()
        raw = jax.eval_shape(_without_keys, like)
        values = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), raw)
        if snapshot is not None and snapshot.exists():
            with contextlib.suppress(weights.WeightsError):  # cut short: begun again
                values = weights.load_tree(snapshot, raw)
        impl = jax.random.key_impl(self.examples.root)
        slots = jax.tree.map(partial(_as_key, impl), like, values)
        index = np.asarray(slots.index)
        occupied = np.asarray(slots.active) & np.isin(index, list(queue))
        for i in index[occupied]:
            queue.remove(int(i))
        slots = slots._replace(active=jnp.asarray(occupied))
        return self.lanes.shard(slots), occupied


def _rows(slots: Slots, done: np.ndarray) -> list[Row]:
    """A row for each finished slot.

    Where there is one, all slots' images are copied from the devices: a program for each
    number of rows would cost more than that.
    """
    chosen = np.flatnonzero(done)
    if not len(chosen):
        return []
    progress = slots.state.progress
    fields = {
        "index": slots.index,
        "image": progress.adversarial,
        "attack_calls": slots.calls,
        "evaluations": progress.evaluations,
        "broken_at": progress.broken_at,
        "bad_gradients": progress.bad_gradients,
        "zero_gradients": progress.zero_gradients,
        "nonfinite": progress.nonfinite,
        "lost": progress.lost,
        "vote_lost": progress.vote_lost,
    }
    arrays = {name: np.asarray(value)[chosen] for name, value in fields.items()}
    rows = [{name: value[i] for name, value in arrays.items()} for i in range(len(chosen))]
    return [{**row, "index": int(row["index"])} for row in rows]


def _without_keys(slots: Slots) -> Slots:
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, slots)


def _as_key(impl: Any, like: Any, x: jax.Array) -> jax.Array:
    """`x` as a key where the structure it is read into, which has no values, has one."""
    return jax.random.wrap_key_data(x, impl=impl) if is_key(like) else x


class _Pace:
    """How many steps a call of the device makes, so that it takes `CALL_SECONDS`.

    A call's time counts what was written and judged meanwhile, so that each is an upper
    bound of what its steps take, and the smallest so far is the estimate.
    """

    def __init__(self):
        self.steps, self._each, self._begun = 1, math.inf, 0.0

    def begin(self) -> None:
        self._begun = time.monotonic()

    def end(self) -> None:
        self._each = min(self._each, (time.monotonic() - self._begun) / self.steps)
        wanted = int(CALL_SECONDS / max(self._each, CALL_SECONDS / MOST_STEPS))
        self.steps = max(1, min(wanted, 2 * self.steps))


def _padded(values: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """`values` filled up to `size` with copies of the first, and how many are real."""
    count = len(values)
    filler = np.repeat(values[:1], size - count, axis=0)
    return np.concatenate([values, filler]), count
