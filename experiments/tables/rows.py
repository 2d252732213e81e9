"""What the tables hold: each cell is a run, and each run is one change or more of a config.

The tables are those of the source paper (seed paper, 2023): attacks on DiffPure with and
without replay (Table 1), other purifiers (Table 2), other checkpoints of the same denoiser
(Table 3). Its cells are not public, so that the rows are ours. Under one replayed key EOT
is EOT 1 to the bit (its Corollary 2.1), so that rows with EOT have no run under replay.
"""

import itertools
import pathlib
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from experiments import config as configs
from experiments import things
from experiments.config import RunConfig
from jaxpure import specs
from jaxpure.attacks import BALLS
from jaxpure.errors import check_in

FRESH, REPLAY = "fresh", "replay"


class Plan(NamedTuple):
    """How much of each table is measured on a data set.

    Attributes:
      config: name of the config of which every run is a change.
      classifiers: by name; Tables 2 and 3 are about the first.
      balls: specs; Tables 2 and 3 are about the first.
      purifiers: specs, of Table 2.
      bpda_images: the first so many of the set, in rows under BPDA.
      exact_images: likewise, under exact gradients.
      autoattack_images: likewise, under AutoAttack.
      num_steps: updates of PGD, each of two and a half radii over all of them.
      eot_samples: draws of PGD with EOT, at least 2.
    """

    config: str
    classifiers: tuple[str, ...]
    balls: tuple[str, ...]
    purifiers: tuple[str, ...]
    bpda_images: int
    exact_images: int
    autoattack_images: int
    num_steps: int = 20
    eot_samples: int = 10


def _purifiers(t_star: int) -> tuple[str, ...]:
    """DiffPure, RevPure, DDIM with and without noise, one-shot, and gradual (GDMP)."""
    return (
        f"diffpure(t_star={t_star})",
        f"revpure(t_star={t_star})",
        f"ddim(t_star={t_star},num_steps=10)",
        f"diffpure(t_star={t_star},step_rule=ddim(eta=1.0,num_steps=10))",
        f"one_shot(t_star={t_star})",
        f"diffpure(t_star={t_star // 4},rounds=4)",
    )


PLANS = {
    "digits": Plan(
        config="digits_bpda_replay",
        classifiers=("digits_classifier", "digits_robust_classifier"),
        balls=("linf(51/255)", "l2(0.5)"),
        purifiers=_purifiers(50),
        bpda_images=500,
        exact_images=500,
        autoattack_images=64,
    ),
    "mnist": Plan(
        config="mnist_bpda_replay",
        classifiers=("mnist_classifier",),
        balls=("linf(51/255)", "l2(1.5)"),
        purifiers=_purifiers(100),
        bpda_images=500,
        exact_images=500,
        autoattack_images=32,
    ),
    "cifar10": Plan(
        config="cifar_bpda_replay",
        classifiers=("cifar10_classifier",),
        balls=("linf(8/255)", "l2(0.5)"),
        purifiers=_purifiers(50),
        bpda_images=256,
        exact_images=128,
        autoattack_images=32,
    ),
}


class Pair(NamedTuple):
    """Two runs whose difference one of the papers' claims is about.

    Attributes:
      relation: the claim's number.
      about: what the two have in common.
      first: what the second's robust accuracy is taken from.
      second: likewise.
    """

    relation: int
    about: str
    first: RunConfig
    second: RunConfig


class Line(NamedTuple):
    """One row of a table.

    Attributes:
      labels: what it is about, a cell for each of the table's heads.
      runs: what is measured, by policy of randomness.
    """

    labels: tuple[str, ...]
    runs: dict[str, RunConfig]


class Table(NamedTuple):
    """A table.

    Attributes:
      title: of the table.
      about: what a reader must know of it, in plain sentences.
      heads: of the first columns, which say what a row is about.
      lines: its rows.
      relations: numbers of the papers' claims that it bears on.
      pairs: what says of these whether they hold. Claim 10 has none: it asks for the
        quality of the checkpoints too (`experiments.paper`).
    """

    title: str
    about: str
    heads: tuple[str, ...]
    lines: tuple[Line, ...]
    relations: tuple[int, ...]
    pairs: tuple[Pair, ...] = ()


def plan(data: str, **options: object) -> Plan:
    """The plan of a data set, with the options that are not None.

    Raises:
      UserError: there is no such plan.
    """
    check_in("--data", data, PLANS)
    given = {name: value for name, value in options.items() if value is not None}
    return PLANS[data]._replace(**given)


def tables(plan: Plan, checkpoints: tuple[str, ...] = ()) -> dict[str, Table]:
    """All tables of a plan, by the number that they have in the paper.

    Args:
      plan: how much of them.
      checkpoints: files of weights of the denoiser, for Table 3.
    """
    base = configs.by_name(plan.config, RunConfig)
    base = replace(base, classifier=plan.classifiers[0], ball=plan.balls[0])
    attacks, purifiers = tuple(_attacks(base, plan)), tuple(_purified(base, plan))
    return {
        "1": Table(
            "Table 1: DiffPure, with the noise unknown and replayed",
            "The same defense and the same first images under each attack. Under one "
            "replayed key EOT is the attack without it, so that those rows, AutoAttack's "
            "rand among them, have no such run.",
            ("Classifier", "Ball", "Attack"),
            attacks,
            (1, 2, 3),
            tuple(_pairs_of_attacks(attacks, plan)),
        ),
        "2": Table(
            "Table 2: purifiers",
            "One classifier and one ball; PGD under each gradient rule.",
            ("Purifier", "Attack"),
            purifiers,
            (4,),
            tuple(_pairs_of_purifiers(purifiers)),
        ),
        "3": Table(
            "Table 3: checkpoints of the denoiser",
            "The same denoiser from along its training, averaged weights and raw ones.",
            ("Weights", "Attack"),
            tuple(
                Line((pathlib.PurePath(path).stem, rule.name), rule.runs(changed, plan))
                for path in checkpoints
                for changed in (replace(base, denoiser=path),)
                for rule in _rules(plan)
            ),
            (10,),
        ),
    }


class _Rule(NamedTuple):
    """PGD under a gradient rule."""

    name: str
    gradient: str
    images: int

    def runs(
        self, subject: RunConfig, plan: Plan, eot_samples: int = 1
    ) -> dict[str, RunConfig]:
        attack = _pgd(plan, subject.ball, eot_samples)
        policies = (FRESH, REPLAY) if eot_samples == 1 else (FRESH,)
        return {
            policy: _run(subject, policy, self.gradient, self.images, attack)
            for policy in policies
        }


def _rules(plan: Plan) -> tuple[_Rule, ...]:
    return (
        _Rule("BPDA", "bpda", plan.bpda_images),
        _Rule("exact PGD", "exact", plan.exact_images),
    )


def _attacks(base: RunConfig, plan: Plan) -> Iterator[Line]:
    """Table 1."""
    for classifier, ball in itertools.product(plan.classifiers, plan.balls):
        subject = replace(base, classifier=classifier, ball=ball)
        about = classifier, str(specs.build(BALLS, ball))
        for rule in _rules(plan):
            yield Line((*about, rule.name), rule.runs(subject, plan))
            name = f"{rule.name}, EOT {plan.eot_samples}"
            yield Line((*about, name), rule.runs(subject, plan, plan.eot_samples))
        for version, policies in (("rand", (FRESH,)), ("standard", (FRESH, REPLAY))):
            yield Line(
                (*about, f"AutoAttack {version}"),
                {
                    policy: _run(
                        subject,
                        policy,
                        "exact",
                        plan.autoattack_images,
                        f"autoattack(version={version})",
                    )
                    for policy in policies
                },
            )


def _purified(base: RunConfig, plan: Plan) -> Iterator[Line]:
    """Table 2."""
    for purifier in plan.purifiers:
        changed = replace(base, purifier=purifier)
        for rule in _rules(plan):
            yield Line((purifier, rule.name), rule.runs(changed, plan))


def _pairs_of_attacks(lines: tuple[Line, ...], plan: Plan) -> Iterator[Pair]:
    """Replay against unknown noise (1), EOT (2), BPDA with the noise against exact (3)."""
    subjects = dict.fromkeys(line.labels[:2] for line in lines)
    for subject in subjects:
        by_attack = {x.labels[2]: x.runs for x in lines if x.labels[:2] == subject}
        where = ", ".join(subject)
        for attack, run in by_attack.items():
            if REPLAY in run:
                yield Pair(1, f"{where}, {attack}", run[FRESH], run[REPLAY])
        for rule in _rules(plan):
            one = by_attack[rule.name][FRESH]
            many = by_attack[f"{rule.name}, EOT {plan.eot_samples}"][FRESH]
            yield Pair(2, f"{where}, {rule.name}", one, many)
        exact, bpda = (by_attack[rule.name] for rule in reversed(_rules(plan)))
        yield Pair(3, where, exact[FRESH], bpda[REPLAY])


def _pairs_of_purifiers(lines: tuple[Line, ...]) -> Iterator[Pair]:
    """RevPure against DiffPure (4), where they differ in nothing else."""
    replayed = {line.labels: line.runs[REPLAY] for line in lines}
    for (purifier, rule), run in replayed.items():
        reverse = "revpure" + purifier.removeprefix("diffpure"), rule
        if purifier.startswith("diffpure") and reverse in replayed:
            yield Pair(4, ", ".join((purifier, rule)), replayed[reverse], run)


def _pgd(plan: Plan, ball: str, eot_samples: int) -> str:
    eps = specs.build(BALLS, ball).eps
    step = 2.5 * eps / plan.num_steps
    written = f"{255 * step:.6g}/255" if "/255" in ball else f"{step:.6g}"
    eot = "" if eot_samples == 1 else f",eot_samples={eot_samples}"
    return f"pgd(step_size={written},num_steps={plan.num_steps}{eot})"


def _run(
    subject: RunConfig, policy: str, gradient: str, images: int, attack: str
) -> RunConfig:
    data = things.set_option("data", subject.data, ["num_examples"], str(images))
    return replace(subject, data=data, policy=policy, gradient=gradient, attack=attack)
