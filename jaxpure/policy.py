"""Policies: which noise an attack may know, and which judges it.

A policy says for each role (gradient, selection, judging) and each noise part of the
purifier where the key comes from; see jaxpure.keys for the streams.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxpure.errors import UserError, unknown
from jaxpure.keys import AnyKey, Key, PartKeys, defense_key, stream
from jaxpure.pytrees import choose

Source = Literal["fresh", "fixed", "replay"]
SOURCES: tuple[Source, ...] = ("fresh", "fixed", "replay")
Role = Literal["gradient", "selection", "judging"]
ROLES: tuple[Role, ...] = ("gradient", "selection", "judging")
REST = "*"  # every noise part that is not named
Knowledge = Literal["all", "some", "none"]


class PolicyError(UserError):
    """A policy cannot be read, or names a noise part that the purifier does not have."""


@dataclass(frozen=True)
class Sources:
    """Where the key of each noise part comes from; hashable, so that it is static.

    Attributes:
      rest: of every part that `named` does not name.
      named: `(part, source)` pairs, sorted, none of them equal to `rest`.
    """

    rest: str
    named: tuple[tuple[str, str], ...] = ()

    def of(self, part: str) -> str:
        """The source of one part."""
        return dict(self.named).get(part, self.rest)

    def all(self, source: str) -> bool:
        """Whether every part comes from this source."""
        return self.rest == source and not self.named

    def any(self, source: str) -> bool:
        """Whether some part does."""
        return source in (self.rest, *dict(self.named).values())

    def keys(self, by_source: Mapping[str, Key]) -> AnyKey:
        """One key where all parts have the same source, else a key for each part."""
        if not self.named:
            return by_source[self.rest]
        return PartKeys(by_source[self.rest], {n: by_source[s] for n, s in self.named})


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

    gradient: Sources
    selection: Sources
    judging: Sources

    @property
    def replays_all(self) -> bool:
        """What the attack sees is exactly what judges it: broken once is broken."""
        return all(getattr(self, role).all("replay") for role in ROLES)

    @property
    def replays_any(self) -> bool:
        """The attack is given some of the noise that judges it."""
        return self.gradient.any("replay") or self.selection.any("replay")

    @property
    def knowledge(self) -> "Knowledge":
        """How much of the noise that judges it the attack has met."""
        if self.replays_all:
            return "all"

        def met(part: str) -> bool:
            judged = self.judging.of(part)
            return judged != "fresh" and judged in (
                self.gradient.of(part),
                self.selection.of(part),
            )

        return "some" if any(map(met, (*self.parts, REST))) else "none"

    @property
    def selection_is_free(self) -> bool:
        """Selection meets the gradient's own draws, so it costs no evaluation."""
        return self.selection == self.gradient and not self.gradient.any("fresh")

    @property
    def parts(self) -> tuple[str, ...]:
        """The noise parts that it names."""
        named = {name for role in ROLES for name, _ in getattr(self, role).named}
        return tuple(sorted(named))

    def __str__(self) -> str:
        return format_policy(self)


PRESETS: dict[str, Policy] = {
    "fresh": Policy(Sources("fresh"), Sources("fresh"), Sources("fresh")),
    "fixed": Policy(Sources("fixed"), Sources("fixed"), Sources("fresh")),
    "replay": Policy(Sources("replay"), Sources("replay"), Sources("replay")),
}


def parse_policy(text: "str | Policy", noise_parts: Iterable[str] = ()) -> Policy:
    """Reads a policy: a preset, refined by `[role/]part=source` or `role=source`.

    "replay" | "fresh" | "fixed" are the presets. "fresh,forward=replay" replays the
    forward noise in every role and draws the rest anew (DW-box, forward);
    "replay,judging=fresh" gives the attack one key and judges under another;
    "fresh,gradient/reverse=fixed" fixes the reverse noise for gradients alone.

    Args:
      text: the policy; a `Policy` is returned as it is.
      noise_parts: the parts that the purifier has; naming another is an error.

    Raises:
      PolicyError: unknown preset, role, part or source.
    """
    if isinstance(text, Policy):
        return text
    first, *refinements = [piece.strip() for piece in text.split(",")]
    if first not in PRESETS:
        raise PolicyError(
            unknown("policy", first, PRESETS)
            + " It begins with one of them, as in 'replay' or 'fresh,forward=replay'"
        )
    preset = PRESETS[first]
    sources = {role: _by_part(getattr(preset, role)) for role in ROLES}
    parts = tuple(noise_parts)
    for piece in refinements:
        target, _, source = piece.partition("=")
        target, source = target.strip(), source.strip()
        if source not in SOURCES:
            raise PolicyError(
                f"policy {text!r}: {piece!r} must end in =SOURCE with SOURCE one of "
                f"{', '.join(SOURCES)}"
            )
        head, _, tail = target.partition("/")
        roles, name = (ROLES, head) if not tail else ((head,), tail)
        if head in ROLES and not tail:
            roles, name = (head,), REST
        if roles[0] not in ROLES:
            raise PolicyError(f"policy {text!r}: {unknown('role', roles[0], ROLES)}")
        if name != REST and name not in parts:
            raise PolicyError(
                f"policy {text!r}: this purifier has no noise part {name!r}; it has "
                f"{', '.join(parts) or 'none with a name'}"
            )
        for role in roles:
            if name == REST:  # a whole role: forget what was said of its parts
                sources[role] = {}
            sources[role][name] = source
    return Policy(**{role: _canonical(given, parts) for role, given in sources.items()})


def read_policy(text: str) -> Policy:
    """A policy as `str` wrote it, of a purifier whose noise parts are not at hand.

    Parts that it does not name are there too, and have what is said of the rest.

    Raises:
      PolicyError: unknown preset, role or source.
    """
    pieces = text.split(",")[1:]
    named = {piece.partition("=")[0].split("/")[-1].strip() for piece in pieces}
    named -= {*ROLES, REST}
    others = [f"another part ({i})" for i in range(len(named) + 1)]  # the most there are
    return parse_policy(text, (*sorted(named), *others))


def format_policy(policy: Policy) -> str:
    """A short text that `parse_policy` reads as this policy, a preset where it is one."""
    return min((_refinement(policy, preset) for preset in PRESETS), key=len)


def _refinement(policy: Policy, preset: str) -> str:
    """The policy as what it changes of a preset."""
    by_role: dict[str, Sources] = {role: getattr(policy, role) for role in ROLES}
    pieces = [preset]
    for role, sources in by_role.items():
        if sources.rest != getattr(PRESETS[preset], role).rest:
            pieces.append(f"{role}={sources.rest}")
    for name in policy.parts:
        found = {role: sources.of(name) for role, sources in by_role.items()}
        if len(set(found.values())) == 1:
            pieces.append(f"{name}={found['judging']}")
            continue
        pieces += [
            f"{role}/{name}={source}"
            for role, source in found.items()
            if source != by_role[role].rest
        ]
    return ",".join(pieces)


def _by_part(sources: Sources) -> dict[str, str]:
    return {REST: sources.rest, **dict(sources.named)}


def _canonical(given: Mapping[str, str], parts: tuple[str, ...]) -> Sources:
    """One form for each choice of sources, so that equal policies compare equal.

    The rest is what most parts have (of equals the first in SOURCES), however it was
    said; the others are named.
    """
    by_part = {name: given.get(name, given[REST]) for name in parts or (REST,)}
    rest = max(SOURCES, key=list(by_part.values()).count)
    return Sources(
        rest, tuple((n, by_part[n]) for n in sorted(by_part) if by_part[n] != rest)
    )


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
    sources: Sources = getattr(policy, role)
    fresh = jax.random.fold_in(stream(key, f"attack/{role}"), step)
    fixed = stream(key, "attack/fixed")

    def at(sample: jax.Array) -> AnyKey:
        return sources.keys(
            {
                "fresh": jax.random.fold_in(fresh, sample),
                "fixed": jax.random.fold_in(fixed, sample),
                "replay": defense_key(key, 0),
            }
        )

    return jax.vmap(at)(first + jnp.arange(samples))


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

    def source(name: str) -> str:
        judged = policy.judging.of(name)
        seen = "replay" in (policy.gradient.of(name), policy.selection.of(name))
        if judged == "fresh":
            return "unseen" if seen else "own"
        return "own" if judged == "replay" else judged

    rest = source(REST)
    named = [(name, source(name)) for name in policy.parts]
    sources = Sources(rest, tuple((n, s) for n, s in named if s != rest))
    if sources.all("own"):
        return jax.vmap(lambda i: defense_key(key, i))(jnp.arange(n))
    first = {
        "own": defense_key(key, 0),
        "fixed": jax.random.fold_in(stream(key, "attack/fixed"), 0),
        "unseen": stream(key, "unseen"),
    }

    def at(i: jax.Array) -> AnyKey:
        own = dict.fromkeys(first, defense_key(key, i))
        return choose(i == 0, sources.keys(first), sources.keys(own))

    return jax.vmap(at)(jnp.arange(n))
