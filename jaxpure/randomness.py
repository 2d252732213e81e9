"""Who may know which noise: keys of examples, parts of a purifier's noise, policies.

The key of a data set's example i is `example_key(root, i)`, wherever and in whatever
batch it runs. From it come named streams, and from a stream, by index, keys:

    example -> judge             -> n            the defense's own draws
            -> attack/start                      an attack's random start
            -> attack/gradient   -> step, sample drawn anew for every gradient
            -> attack/selection  -> step, sample drawn anew for choosing an iterate
            -> attack/fixed      -> sample       one fixed set for all steps

In JAX `fold_in(k, i)` and `split(k, n)[i]` are the same key, so a key is either a parent
of named streams or a source of indices, never both.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxpure.types import Key, register_pytree

Source = Literal["fresh", "fixed", "replay"]
SOURCES: tuple[Source, ...] = ("fresh", "fixed", "replay")
ROLES = ("gradient", "selection", "judging")
REST = "*"  # every noise part that a rule does not name


def stream(key: Key, name: str) -> Key:
    """The key of a named purpose. Never fold integers into a key that has streams."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def example_key(root: Key, index: jax.Array | int) -> Key:
    """The key of the example with this index in the published set."""
    return jax.random.fold_in(stream(root, "example"), index)


@partial(register_pytree, data_fields=["rest", "named"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class PartKeys:
    """A key for each part of a purifier's noise, in place of one key for all.

    Attributes:
      rest: key of every part that `named` does not name.
      named: keys by noise part.
    """

    rest: Key
    named: dict[str, Key] = field(default_factory=dict)


def part(key: Key | PartKeys, name: str) -> Key:
    """The stream of one noise part of a purification.

    Every purifier draws through this function, which is what lets a policy replay
    some parts and not others.
    """
    if isinstance(key, PartKeys):
        key = key.named.get(name, key.rest)
    return stream(key, name)


def noise_at(key: Key, index: jax.Array | int, like: jax.Array) -> jax.Array:
    """Standard normal noise of `like`'s shape and dtype, addressed by an index."""
    return jax.random.normal(jax.random.fold_in(key, index), like.shape, like.dtype)


def choose(condition: jax.Array, a: Any, b: Any) -> Any:
    """`a` where `condition` `()` holds, else `b`: pytrees, which may hold keys.

    `jnp.where` selects keys too, but to JAX's key-reuse checker that uses them up.
    """

    def one(x, y):
        if x is y:
            return x
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jnp.where(condition, x, y)
        data = jnp.where(condition, jax.random.key_data(x), jax.random.key_data(y))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))

    return jax.tree.map(one, a, b)


# A rule says where each noise part's key comes from; hashable, so that it is static.
Rule = tuple[tuple[str, Source], ...]


@dataclass(frozen=True)
class Policy:
    """Which noise an attack may know: for gradients, for selection, and for judging.

    Each role maps noise parts to a source:
      fresh: a new key at every step and sample, that nothing else meets.
      fixed: sample i of every step has the same key, chosen in advance by the attack.
      replay: the key that the defense itself will use (its judging key 0).

    Judging concerns judging key 0, which gives the headline; judging keys 1 and up are
    always the defense's own, which no attack sees.

    Attributes:
      gradient: keys that the attack differentiates under.
      selection: keys under which it compares its iterates.
      judging: key under which the result is judged.
    """

    gradient: Rule
    selection: Rule
    judging: Rule

    @property
    def replays_all(self) -> bool:
        """What the attack sees is exactly what judges it: broken once is broken."""
        return all(
            source == "replay"
            for rule in (self.gradient, self.selection, self.judging)
            for _, source in rule
        )

    @property
    def selection_is_free(self) -> bool:
        """Selection meets the gradient's own draws, so it costs no evaluation."""
        return self.selection == self.gradient and all(
            source != "fresh" for _, source in self.gradient
        )

    def __str__(self) -> str:
        return format_policy(self)


PRESETS: dict[str, Policy] = {
    "fresh": Policy(((REST, "fresh"),), ((REST, "fresh"),), judging=((REST, "fresh"),)),
    "fixed": Policy(((REST, "fixed"),), ((REST, "fixed"),), judging=((REST, "fresh"),)),
    "replay": Policy(((REST, "replay"),), ((REST, "replay"),), judging=((REST, "replay"),)),
}


def parse_policy(text: str, noise_parts: Iterable[str] = ()) -> Policy:
    """Reads a policy: a preset, refined by `[role/]part=source` or `role=source`.

    "replay" | "fresh" | "fixed" are the presets. "fresh,forward=replay" replays the
    forward noise in every role and draws the rest anew (DW-box, forward);
    "replay,judging=fresh" gives the attack one key and judges under another;
    "fresh,gradient/reverse=fixed" fixes the reverse noise for gradients alone.

    Args:
      text: the policy.
      noise_parts: the parts that the purifier has; naming another is an error.

    Raises:
      ValueError: unknown preset, role, part or source.
    """
    first, *refinements = [piece.strip() for piece in text.split(",")]
    if first not in PRESETS:
        raise ValueError(
            f"policy {text!r} must begin with one of {', '.join(PRESETS)} "
            "(for example 'replay' or 'fresh,forward=replay')"
        )
    preset = PRESETS[first]
    rules = {role: dict(getattr(preset, role)) for role in ROLES}
    parts = tuple(noise_parts)
    for piece in refinements:
        target, _, source = piece.partition("=")
        if source not in SOURCES:
            raise ValueError(
                f"policy {text!r}: {piece!r} must end in =SOURCE with SOURCE one of "
                f"{', '.join(SOURCES)}"
            )
        head, _, tail = target.partition("/")
        roles, name = (ROLES, head) if not tail else ((head,), tail)
        if head in ROLES and not tail:
            roles, name = (head,), REST
        if roles[0] not in ROLES:
            raise ValueError(
                f"policy {text!r}: unknown role {roles[0]!r}; roles: {', '.join(ROLES)}"
            )
        if name != REST and name not in parts:
            raise ValueError(
                f"policy {text!r}: this purifier has no noise part {name!r}; it has "
                f"{', '.join(parts) or 'none with a name'}"
            )
        for role in roles:
            if name == REST:  # a whole role: forget what was said of its parts
                rules[role] = {}
            rules[role][name] = source
    return Policy(**{role: _canonical(rule, parts) for role, rule in rules.items()})


def format_policy(policy: Policy) -> str:
    """A short text that `parse_policy` reads as this policy, a preset where it is one."""
    return min((_refinement(policy, preset) for preset in PRESETS), key=len)


def _refinement(policy: Policy, preset: str) -> str:
    """The policy as what it changes of a preset."""
    rules = {role: getattr(policy, role) for role in ROLES}
    pieces = [preset]
    for role, rule in rules.items():
        if _source(rule, REST) != _source(getattr(PRESETS[preset], role), REST):
            pieces.append(f"{role}={_source(rule, REST)}")
    for name in sorted({n for rule in rules.values() for n, _ in rule} - {REST}):
        sources = {role: _source(rule, name) for role, rule in rules.items()}
        if len(set(sources.values())) == 1:
            pieces.append(f"{name}={sources['judging']}")
            continue
        pieces += [
            f"{role}/{name}={source}"
            for role, source in sources.items()
            if source != _source(rules[role], REST)
        ]
    return ",".join(pieces)


def _canonical(rule: Mapping[str, Source], parts: tuple[str, ...]) -> Rule:
    """One form for each rule, so that equal policies compare equal.

    The rest is what most parts have (of equals the first in SOURCES), however it was
    said; the others are named.
    """
    names = parts or (REST,)
    sources: dict[str, Source] = {name: rule.get(name, rule[REST]) for name in names}
    rest = max(SOURCES, key=list(sources.values()).count)
    named: list[tuple[str, Source]] = [
        (name, sources[name]) for name in sorted(sources) if sources[name] != rest
    ]
    return ((REST, rest), *named)


def attack_keys(
    policy: Policy,
    role: Literal["gradient", "selection"],
    key: Key,
    step: jax.Array,
    samples: int,
    first: jax.Array | int = 0,
) -> Any:
    """The keys that an attack uses at one step, stacked: leading axis `samples`.

    Args:
      policy: who may know what.
      role: what the keys are for.
      key: the example's key.
      step: `()` int, the step of the attack.
      samples: number of draws (EOT). Under replay they are all the same key.
      first: index of the first draw.
    """
    fresh = jax.random.fold_in(stream(key, f"attack/{role}"), step)
    fixed = stream(key, "attack/fixed")

    def at(sample: jax.Array) -> Key | PartKeys:
        keys = {
            "fresh": jax.random.fold_in(fresh, sample),
            "fixed": jax.random.fold_in(fixed, sample),
            "replay": defense_key(key, 0),
        }
        return _assemble(getattr(policy, role), keys)

    return jax.vmap(at)(first + jnp.arange(samples))


def defense_key(key: Key, n: jax.Array | int) -> Key:
    """The n-th key of the defense itself for the example with this key."""
    return jax.random.fold_in(stream(key, "judge"), n)


def judging_keys(policy: Policy, key: Key, n: int) -> Any:
    """The keys under which one image is judged, stacked: leading axis `n`.

    Key 0 gives the headline, each noise part from where the policy says. A part that is
    judged `fresh` meets the defense's own key 0 where no attack saw that part of it, so
    that runs under different policies are judged under the same noise, and a reserved
    key where one did. Keys 1 and up are the defense's own, which no attack sees.

    Args:
      policy: who may know what.
      key: the example's key.
      n: number of judging keys.
    """
    rules = (policy.gradient, policy.selection, policy.judging)
    names = sorted({REST} | {name for rule in rules for name, _ in rule})

    def source(name: str) -> str:
        judged = _source(policy.judging, name)
        attacks = (_source(policy.gradient, name), _source(policy.selection, name))
        return "unseen" if judged == "fresh" and "replay" in attacks else judged

    rule = _merged(tuple((name, source(name)) for name in names))
    first = {
        "replay": defense_key(key, 0),
        "fixed": jax.random.fold_in(stream(key, "attack/fixed"), 0),
        "unseen": stream(key, "unseen"),
    }

    def at(i: jax.Array) -> Key | PartKeys:
        own = defense_key(key, i)
        if {source for _, source in rule} == {"replay"}:
            return own
        return choose(
            i == 0, _assemble(rule, first), _assemble(rule, dict.fromkeys(first, own))
        )

    return jax.vmap(at)(jnp.arange(n))


def _merged(rule: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """`fresh` and `replay` are judged under the same own key: no need to tell apart."""
    same = {"fresh": "replay"}
    rule = tuple((name, same.get(source, source)) for name, source in rule)
    rest = dict(rule)[REST]
    return ((REST, rest), *((n, s) for n, s in rule if n != REST and s != rest))


def _source(rule: Rule, name: str) -> Source:
    sources = dict(rule)
    return sources.get(name, sources[REST])


def _assemble(rule: tuple[tuple[str, str], ...], keys: Mapping[str, Key]) -> Key | PartKeys:
    """One key where all parts have the same source, else a key for each part."""
    sources = dict(rule)
    rest = keys[sources.pop(REST)]
    named = {name: keys[source] for name, source in sources.items()}
    return PartKeys(rest, named) if named else rest
