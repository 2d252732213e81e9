"""Who attacks what, with what knowledge: specs and objects put together and checked."""

import math
import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxpure.attacks import ATTACKS, BALLS, cascade
from jaxpure.attacks.balls import check_radius
from jaxpure.attacks.cascade import Stage
from jaxpure.data import Dataset, check
from jaxpure.defenses import PurifiedClassifier, denoiser_evaluations, noise_parts
from jaxpure.errors import UserError, check_range
from jaxpure.gradients import GRADIENTS, Transfer
from jaxpure.policy import Policy, parse_policy
from jaxpure.specs import Registry, build, describe


@dataclass(frozen=True)
class Setup:
    """Who attacks what, with what knowledge; everything but the examples.

    Attributes:
      defense: `(key, x) -> logits`, under no gradient rule: it judges.
      seen: the same under the gradient rule, which the attack differentiates.
      ball: what the attack may do.
      policy: which noise it knows.
      stages: the attacks in turn.
      judging_keys: draws under which every image is judged.
      about: the same in text, for people and records.
    """

    defense: Any
    seen: Any
    ball: Any
    policy: Policy
    stages: tuple[Stage, ...]
    judging_keys: int
    about: dict[str, Any]


def set_up(
    defense: Any,
    attack: Any,
    *,
    ball: Any,
    policy: str | Policy = "replay",
    gradient: Any = "exact",
    judging_keys: int = 10,
) -> Setup:
    """Puts an evaluation together, specs or objects alike.

    Args:
      defense: `(key, x) -> logits`, a callable pytree.
      attack: an attack, or a composite of several.
      ball: what the attack may do.
      policy: which noise it knows.
      gradient: the rule under which it differentiates the purifier.
      judging_keys: draws under which every image is judged; at least 2 where the attack
        is given the noise of one.

    Raises:
      UserError: a spec is wrong, or the parts do not fit together.
    """
    purifier = getattr(defense, "purifier", None)
    attack, ball = build(ATTACKS, attack), build(BALLS, ball)
    rule = build(GRADIENTS, gradient, denoiser=_denoiser(purifier))
    policy = parse_policy(policy, noise_parts(purifier))
    check_range(1, judging_keys=judging_keys)
    if isinstance(rule, Transfer) and policy.replays_any:
        raise UserError(
            "gradient transfer crafts on another defense, which shares no noise with the "
            "one that judges: use the policy fresh"
        )
    if purifier is None:
        if describe(rule, GRADIENTS) != "exact":
            raise UserError(
                f"gradient {describe(rule, GRADIENTS)} is a rule for a purifier, and this "
                "defense has none: use exact, or make the defense of a purifier and a "
                "classifier"
            )
        seen = defense
    else:
        seen = PurifiedClassifier(rule(purifier), defense.classifier)
    name = _named(attack, ATTACKS)
    stages = cascade(attack, _word(attack, ATTACKS), seen, policy)
    about = {
        "attack": name,
        "stages": [stage.name for stage in stages],
        "ball": str(ball),
        "ball_spec": _named(ball, BALLS),
        "policy": str(policy),
        "gradient": _named(rule, GRADIENTS),
        "judging_keys": judging_keys,
        "draws": _own_draws(stages, rule),
        "denoiser_evaluations": denoiser_evaluations(purifier),
        "attack_denoiser_evaluations": denoiser_evaluations(
            getattr(seen, "purifier", None)
        ),
    }
    return Setup(defense, seen, ball, policy, stages, judging_keys, about)


def check_fit(parts: Setup, dataset: Dataset) -> None:
    """Raises UserError, before any work, where a protocol does not fit the examples.

    The defense and one step of each attack are traced, so that what does not fit is told
    before anything is computed.
    """
    check(dataset)
    check_radius(parts.ball, dataset.image_shape)
    key = jax.eval_shape(lambda: jax.random.key(0))
    x = jax.ShapeDtypeStruct(dataset.image_shape, jnp.float32)
    label = jax.ShapeDtypeStruct((), jnp.int32)
    logits = jax.eval_shape(_judge, parts.defense, key, x)
    if dataset.labels.max() >= math.prod(logits.shape):
        raise UserError(
            f"{dataset.name} has labels up to {dataset.labels.max()}, and the defense "
            f"gives {math.prod(logits.shape)} logits: choose the classifier for this set"
        )
    for stage in parts.stages:
        of_stage = stage.attack, stage.objective, parts.ball
        jax.eval_shape(_first_step, *of_stage, key, x, label)


# Of the module, so that what is checked again was traced before.
def _judge(defense: Any, key: Any, x: Any) -> Any:
    return defense(key, x)


def _first_step(
    attack: Any, objective: Any, ball: Any, key: Any, x: Any, label: Any
) -> Any:
    return attack.step(objective, ball, attack.init(objective, ball, key, x, label))


def _named(thing: Any, registry: Registry) -> str:
    """Its spec, or what it says of itself without its place in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", describe(thing, registry))


def _word(thing: Any, registry: Registry) -> str:
    """One word for a thing, which can be the name of a folder."""
    return registry.names.get(type(thing)) or type(thing).__name__


def _own_draws(stages: tuple[Stage, ...], rule: Any) -> int:
    """Draws of the defense behind a verdict of the attack on an iterate of its own.

    1 for attacks in turn, whose verdicts do not add up, and for a transfer attack, whose
    draws are of another defense.
    """
    if isinstance(rule, Transfer):
        return 1
    draws = [stage.budget.verdict_draws for stage in stages]
    return draws[0] if len(draws) == 1 else 1


def _denoiser(purifier: Any) -> Any:
    """The denoiser inside a purifier, for purifiers that a gradient rule names."""
    inner = getattr(purifier, "purifier", None)
    return getattr(purifier, "denoiser", None) if inner is None else _denoiser(inner)
