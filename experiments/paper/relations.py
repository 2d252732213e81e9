"""The 17 relations that a reproduction is to show, and what is said of each.

Relations, not numbers, so that they can be asked of small models too. What was published
is from abstracts, reviews and the authors' answers: full tables of the later papers are not
public, and it is said where that is so.
"""

from typing import Literal, NamedTuple

from jaxpure.evaluation.statistics import Estimate, PairedGap

Outcome = Literal["held", "did not hold", "undecided"]


class Relation(NamedTuple):
    """A claim.

    Attributes:
      claim: in one sentence.
      published: the number that goes with it, as far as it is known.
      source: where it is from.
    """

    claim: str
    published: str
    source: str


SEED, NEXT = "seed paper (2023)", "2025 submission"
FOLLOWING, LATEST = "arXiv 2505.22839", "2026 submission"
NONE = "no number is public"

RELATIONS: dict[int, Relation] = {
    1: Relation(
        "Replay lowers robust accuracy; clean accuracy is the same.",
        "improvement near 70% fresh, about 24% replayed (CIFAR-10)",
        f"{SEED}, Table 1; {FOLLOWING}, abstract",
    ),
    2: Relation(
        "EOT does not help an attack that does not know the noise; with it, EOT is EOT 1.",
        "a theorem; " + NONE,
        f"{SEED}, Theorem 2, Corollary 2.1",
    ),
    3: Relation(
        "BPDA with the noise replayed leaves no more than the exact gradient without.",
        NONE,
        f"{SEED}, Table 1",
    ),
    4: Relation(
        "RevPure is at least as robust as DiffPure.",
        "better on CIFAR-10; on ImageNet its clean accuracy falls",
        f"{SEED}, abstract, Fig. 2c, Table 2",
    ),
    5: Relation(
        "What purification adds hangs on the key and hardly on where it starts.",
        "correlation 0.24 to 0.3 over keys, above 0.95 over starts",
        f"{SEED}, Fig. 2; {NEXT}",
    ),
    6: Relation(
        "Purification takes an attacked image farther from the clean one.",
        "SSIM falls by about 20%",
        f"{NEXT}, Fig. 1c",
    ),
    7: Relation(
        "The adversarial part stays while noise is added and falls while it is removed.",
        NONE,
        f"{SEED}, Fig. 3c",
    ),
    8: Relation(
        "A large part of adversarial images succeeds under some keys and not under others.",
        "46.3% (DiffHammer)",
        f"{NEXT}; DiffHammer",
    ),
    9: Relation(
        "The robustness that replay leaves grows with compression.",
        NONE,
        FOLLOWING,
    ),
    10: Relation(
        "A better generative model does not purify better.",
        "two checkpoints, which reviewers found too few",
        f"{SEED}, Table 3",
    ),
    11: Relation(
        "Robust takes two things: a right anchor, and a ball that is mapped to it.",
        NONE,
        f"{FOLLOWING}, summary",
    ),
    12: Relation(
        "Robustness under replay is a sigmoid of the expected compression rate.",
        "a sigmoid; its parameters are not public",
        f"{LATEST}, Fig. 3a",
    ),
    13: Relation(
        "Clean accuracy falls with the compression rate: the price.",
        NONE,
        f"{LATEST}, Fig. S4",
    ),
    14: Relation(
        "Compression acts off the manifold of the data more than along it.",
        NONE,
        f"{LATEST}, Fig. 4; {NEXT}, Fig. 5",
    ),
    15: Relation(
        "Compression and critical threshold tell robust images from others.",
        "separated; " + NONE,
        f"{NEXT}, Fig. 6",
    ),
    16: Relation(
        "EOT is a transfer attack between keys: it wins elsewhere what it loses at home.",
        NONE,
        f"{LATEST}, Sec. B",
    ),
    17: Relation(
        "Masking can be measured: the gradients that attacks use are not the true one.",
        "asked for by a reviewer; " + NONE,
        SEED,
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
