"""The 17 relations that a reproduction is to show, and what is said of each.

Relations, not numbers, so that they can be asked of small models too. What was published
is from abstracts, reviews and the authors' answers: full tables of the later papers are not
public, and it is said where that is so.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxpure.evaluation.statistics import Estimate, PairedGap

Outcome = Literal["held", "did not hold", "undecided"]
HELPS = 0.1  # a change of robust accuracy below it does not matter


class Relation(NamedTuple):
    """A claim.

    Attributes:
      claim: in one sentence.
      published: the number that goes with it, as far as it is known.
      source: where it is from.
      otherwise: what could explain that it does not hold somewhere.
    """

    claim: str
    published: str
    source: str
    otherwise: str


SEED, NEXT = "seed paper (2023)", "2025 submission"
FOLLOWING, LATEST = "arXiv 2505.22839", "2026 submission"
NONE = "no number is public"

RELATIONS: dict[int, Relation] = {
    1: Relation(
        "Replay lowers robust accuracy; clean accuracy is the same.",
        "improvement near 70% fresh, about 24% replayed (CIFAR-10)",
        f"{SEED}, Table 1; {FOLLOWING}, abstract",
        "Where the attack finds every image anyway, or none, knowing the noise adds "
        "nothing; and at a few steps the exact gradient through a long chain may be "
        "the weaker one.",
    ),
    2: Relation(
        "EOT does not help an attack that does not know the noise; with it, EOT is EOT 1.",
        "a theorem; " + NONE,
        f"{SEED}, Theorem 2, Corollary 2.1",
        "The theorem is about perturbations whose directions have nothing in common "
        "over keys. Where the keys' adversarial sets share a part, as small models in "
        "few dimensions have it, the mean over draws finds that part.",
    ),
    3: Relation(
        "BPDA with the noise replayed leaves no more than the exact gradient without.",
        NONE,
        f"{SEED}, Table 1",
        "BPDA's gradient is the poorer one: where it points elsewhere than the exact "
        "one by much, knowing the noise does not make up for it.",
    ),
    4: Relation(
        "RevPure is at least as robust as DiffPure.",
        "better on CIFAR-10; on ImageNet its clean accuracy falls",
        f"{SEED}, abstract, Fig. 2c, Table 2",
        "Without noising the state carries less noise than the denoiser is told, so "
        "that the perturbation may survive; how much is lost depends on the denoiser.",
    ),
    5: Relation(
        "What purification adds hangs on the key and hardly on where it starts.",
        "correlation 0.24 to 0.3 over keys, above 0.95 over starts",
        f"{SEED}, Fig. 2; {NEXT}",
        "Starts are points of the ball: where that is large against what purification "
        "moves, what is taken off each start is of that start alone.",
    ),
    6: Relation(
        "Purification takes an attacked image farther from the clean one.",
        "SSIM falls by about 20%",
        f"{NEXT}, Fig. 1c",
        "The distances were measured at balls that are hardly visible. In a larger "
        "ball more of the perturbation is taken off than purification adds.",
    ),
    7: Relation(
        "The adversarial part stays while noise is added and falls while it is removed.",
        NONE,
        f"{SEED}, Fig. 3c",
        "The denoiser may read the perturbation as part of the image: then nothing "
        "takes it off.",
    ),
    8: Relation(
        "A large part of adversarial images succeeds under some keys and not under others.",
        "46.3% (DiffHammer)",
        f"{NEXT}; DiffHammer",
        "Where the attack breaks nearly every image under every key, or none, few are "
        "left in between.",
    ),
    9: Relation(
        "The robustness that replay leaves grows with compression.",
        NONE,
        FOLLOWING,
        "Settings differ in more than their compression: where the anchors of the "
        "strong ones are wrong, clean accuracy goes first.",
    ),
    10: Relation(
        "A better generative model does not purify better.",
        "two checkpoints, which reviewers found too few",
        f"{SEED}, Table 3",
        "Over all of a training the earliest models denoise nothing and are no "
        "defense at all; the claim was made of two models that both were trained to "
        "the end.",
    ),
    11: Relation(
        "Robust takes two things: a right anchor, and a ball that is mapped to it.",
        NONE,
        f"{FOLLOWING}, summary",
        "Where every anchor is right, or no ball is lost, one of the two requirements "
        "costs nothing: a smaller or larger t_star is where the other shows.",
    ),
    12: Relation(
        "Robustness under replay is a sigmoid of the expected compression rate.",
        "a sigmoid; its parameters are not public",
        f"{LATEST}, Fig. 3a",
        "A sigmoid has one threshold for all settings; samplers and noise levels that "
        "move the anchors have thresholds of their own.",
    ),
    13: Relation(
        "Clean accuracy falls with the compression rate: the price.",
        NONE,
        f"{LATEST}, Fig. S4",
        "At these t_star the classifier is right of nearly all purified images, so "
        "that there is no price yet.",
    ),
    14: Relation(
        "Compression acts off the manifold of the data more than along it.",
        NONE,
        f"{LATEST}, Fig. 4; {NEXT}, Fig. 5",
        "What carries the data's variance depends on how many components are counted, "
        "and a small image has few others.",
    ),
    15: Relation(
        "Compression and critical threshold tell robust images from others.",
        "separated; " + NONE,
        f"{NEXT}, Fig. 6",
        "Where almost all images stay, or almost none, an AUC has little to tell apart.",
    ),
    16: Relation(
        "EOT is a transfer attack between keys: it wins elsewhere what it loses at home.",
        NONE,
        f"{LATEST}, Sec. B",
        "Where the keys' adversarial sets share a part, a perturbation made under one "
        "succeeds under others.",
    ),
    17: Relation(
        "Masking can be measured: the gradients that attacks use are not the true one.",
        "asked for by a reviewer; " + NONE,
        SEED,
        "A chain of few steps, or a small t_star, is nearly the identity, whose "
        "gradient all of them have.",
    ),
}


class Finding(NamedTuple):
    """What was found of a relation.

    Attributes:
      relation: its number.
      ours: the number, with its interval.
      outcome: whether it held.
      sentence: what that means, plainly.
    """

    relation: int
    ours: str
    outcome: Outcome
    sentence: str


def positive(low: float, high: float) -> Outcome:
    """Whether something is above zero, by its interval."""
    return above(low, high, 0.0)


def above(low: float, high: float, least: float) -> Outcome:
    """Whether something is above a number, by its interval."""
    return "held" if low > least else "did not hold" if high < least else "undecided"


def below(low: float, high: float, most: float) -> Outcome:
    """Whether something is below a number, by its interval."""
    return "held" if high < most else "did not hold" if low > most else "undecided"


def hardly(low: float, high: float) -> Outcome:
    """Whether a gain does not matter (`HELPS`), by its interval."""
    if high <= HELPS:
        return "held"
    return "did not hold" if low > 0 else "undecided"


def at_least(low: float, high: float) -> Outcome:
    """Whether something is not below zero, by its interval."""
    return "held" if low >= 0 else positive(low, high)


# What decides the relations that are a difference of two robust accuracies.
OF_GAPS: dict[int, Callable[[float, float], Outcome]] = {
    1: positive,  # noise unknown minus replayed
    2: hardly,  # EOT 1 minus EOT n
    3: positive,  # noise unknown, exact, minus replayed BPDA
    4: at_least,  # RevPure minus DiffPure
}


def both(*outcomes: Outcome) -> Outcome:
    """Whether all of several things held."""
    if "did not hold" in outcomes:
        return "did not hold"
    return "undecided" if "undecided" in outcomes else "held"


def nothing(relations: tuple[int, ...], why: str) -> list[Finding]:
    """What is said of relations that nothing can be said about."""
    return [Finding(number, "not measured", "undecided", why) for number in relations]


def number(e: Estimate, digits: int = 2) -> str:
    """A value with its interval."""
    return f"{e.value:.{digits}f} ({e.low:.{digits}f} to {e.high:.{digits}f})"


def points(gap: PairedGap) -> str:
    """A paired difference in points, with its interval."""
    return f"{100 * gap.gap:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"


WORDS: dict[Outcome, str] = {
    "held": "it held",
    "did not hold": "it did not hold",
    "undecided": "undecided at this size",
}
