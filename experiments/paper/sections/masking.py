"""Masking: replay against fresh noise, EOT, gradients, and what transfers between keys."""

from functools import partial

import numpy as np

from experiments import dissect_figures as figures
from experiments.config import PaperConfig
from experiments.paper.asks import Ask, ask
from experiments.paper.relations import (
    HELPS,
    OF_GAPS,
    Finding,
    Outcome,
    below,
    both,
    number,
    points,
    positive,
)
from experiments.paper.sections.section import Figure, Report, Section, needs_noise
from experiments.paper.study import Study
from jaxpure.dissect.alignment import alignment_curve, signal_to_noise
from jaxpure.dissect.masking import KeyMatrix, key_matrix
from jaxpure.dissect.results import Result, summarise
from jaxpure.evaluation.statistics import correct, paired_gap, wilson

GRADIENTS = ("exact", "bpda")
USED = {
    "bpda": "BPDA",
    "surrogate": "surrogate",  # of a chain of more steps than it has
    "other_key": "another key",
    "eot": "EOT mean",
}


def asks(plan: PaperConfig) -> list[Ask]:
    attack = partial(ask, "attack", plan.purifier, plan.denoiser)
    return [
        ask("clean", plan.purifier, plan.denoiser),
        *(attack(policy=p, gradient=g) for p in ("fresh", "replay") for g in GRADIENTS),
        attack(policy="fresh", gradient="bpda", eot=plan.eot_samples),
        *_matrix(plan),
        ask("gradients", plan.purifier, plan.denoiser),
    ]


def _matrix(plan: PaperConfig) -> list[Ask]:
    """Replayed attacks under each key in turn, and under the first 2, 3, ... at once."""
    attack = partial(
        ask, "attack", plan.purifier, plan.denoiser, policy="replay", gradient="bpda"
    )
    single = [attack(first=k) if k else attack() for k in range(plan.matrix_keys)]
    return [*single, *(attack(known=k) for k in range(2, plan.matrix_keys + 1))]


def report(study: Study) -> Report:
    plan, labels = study.plan, study.dataset.labels
    clean = study.all(ask("clean", plan.purifier, plan.denoiser))["logits"]
    right = correct(clean, labels)[:, 0]
    robust = {
        (policy, gradient, eot): right & correct(study.all(a)["logits"], labels)[:, 0]
        for a in asks(plan)
        if a.measure == "attack" and not {"first", "known"} & set(dict(a.options))
        for policy, gradient, eot in [_named(a)]
    }
    matrix = [study.all(a)["logits"] for a in _matrix(plan)]
    logits = np.stack(matrix, 1)[:, :, : 2 * plan.matrix_keys]
    keys = _key_matrix(logits, labels, clean, plan.matrix_keys)
    cosines = study.all(ask("gradients", plan.purifier, plan.denoiser))
    curves = {title: cosines[name] for name, title in USED.items() if name in cosines}
    aligned = alignment_curve(curves, indices=study.indices)
    means = summarise("cosines", "", {n: v.mean(1) for n, v in curves.items()})
    table = _table(robust, right)
    drawn = [
        Figure(
            "masking",
            "Robust accuracy, by what the attack knows and which gradient it follows",
            f"{table.about}; of all images.",
            partial(
                figures.dots,
                table,
                label="attack",
                value="robust",
                xlabel="right under judging key 0 (share of images)",
            ),
        ),
        Figure(
            "key_matrix",
            "Attack success by attack key and judging key",
            f"{keys.cells.about}. The rows from {plan.matrix_keys} on knew the first 2 to "
            f"{plan.matrix_keys} keys at once (EOT, mean logits).",
            partial(figures.key_matrix, keys.cells),
        ),
        Figure(
            "gradient_cosine",
            "The gradients that attacks use against the true one",
            f"{aligned.about}; 1 is the same direction. The path follows the true one.",
            partial(
                figures.groups,
                aligned,
                by="gradient",
                x="step",
                y="cosine",
                xlabel="step of the attack",
                ylabel="cosine with the true gradient",
                reference=0,
            ),
        ),
    ]
    notes = []
    try:
        snr = signal_to_noise(
            cosines["signal"], cosines["noise"], (1, 4, 16, 64), indices=study.indices
        )
        drawn.append(
            Figure(
                "gradient_snr",
                "What an EOT mean of n draws is worth",
                f"{snr.about}; 1 is as much signal as noise.",
                partial(
                    figures.curves,
                    {"EOT mean": snr},
                    x="draws",
                    y="snr",
                    xlabel="draws n",
                    ylabel="signal to noise",
                    log="xy" if (snr["snr_low"] > 0).all() else "x",
                ),
            )
        )
    except ValueError as error:
        notes.append(f"No curve of signal to noise: {error}.")
    findings = [
        _replay(robust, right),
        _eot(robust, plan),
        _bpda(robust),
        _transfer(keys, logits, labels, clean, plan.matrix_keys),
        _cosines(means),
    ]
    return Report(findings, drawn, notes)


def _named(a: Ask) -> tuple[str, str, int]:
    options = dict(a.options)
    return options["policy"], options["gradient"], options.get("eot", 1)


def _table(robust: dict, right: np.ndarray) -> Result:
    rows = {"clean": wilson(right)} | {
        f"{policy}, {gradient}{f', EOT {eot}' if eot > 1 else ''}": wilson(values)
        for (policy, gradient, eot), values in robust.items()
    }
    columns = {
        "attack": np.array(list(rows)),
        "robust": np.array([e.value for e in rows.values()]),
        "robust_low": np.array([e.low for e in rows.values()]),
        "robust_high": np.array([e.high for e in rows.values()]),
    }
    about = "right clean and attacked, under judging key 0; Wilson's 95% intervals"
    return Result("masking", about, columns, {"images": len(right)})


def _replay(robust: dict, right: np.ndarray) -> Finding:
    gaps = [paired_gap(robust["fresh", g, 1], robust["replay", g, 1]) for g in GRADIENTS]
    ours = "; ".join(f"{g} {points(gap)}" for g, gap in zip(GRADIENTS, gaps, strict=True))
    outcome = OF_GAPS[1](gaps[0].low, gaps[0].high)
    p = f"McNemar's p {gaps[0].p_value:.2g}"
    sentence = (
        f"Fresh minus replayed, exact gradient, same images and budget ({p}); clean "
        f"{wilson(right)} under the same key in both."
    )
    return Finding(1, ours, outcome, sentence)


def _eot(robust: dict, plan: PaperConfig) -> Finding:
    gap = paired_gap(robust["fresh", "bpda", 1], robust["fresh", "bpda", plan.eot_samples])
    sentence = (
        f"EOT 1 minus EOT {plan.eot_samples}, fresh BPDA; it held where the whole interval "
        f"is below {100 * HELPS:.0f} points. Under replay all draws are one key, and one "
        "draw is made of them."
    )
    return Finding(2, points(gap), OF_GAPS[2](gap.low, gap.high), sentence)


def _bpda(robust: dict) -> Finding:
    gap = paired_gap(robust["fresh", "exact", 1], robust["replay", "bpda", 1])
    sentence = (
        "Fresh exact minus replayed BPDA: above zero, the attack with the poorer gradient "
        "and the noise finds more."
    )
    return Finding(3, points(gap), OF_GAPS[3](gap.low, gap.high), sentence)


def _key_matrix(
    logits: np.ndarray, labels: np.ndarray, clean: np.ndarray, keys: int
) -> KeyMatrix:
    """Rows: attacks under each key, and under the first 2 to `keys` at once."""
    judges = 2 * keys
    several = [np.arange(judges) < known for known in range(2, keys + 1)]
    seen = np.vstack([np.eye(keys, judges), *several]).astype(bool)
    return key_matrix(logits, labels, seen=seen, clean=clean[:, :judges])


def _transfer(
    keys: KeyMatrix, logits: np.ndarray, labels: np.ndarray, clean: np.ndarray, m: int
) -> Finding:
    """One key against m of them: at home (under keys that they know), and elsewhere."""
    overall = keys.overall.estimate("difference")
    n, rows, judges, _ = logits.shape
    wrong = ~correct(logits.reshape(n, rows * judges, -1), labels).reshape(n, rows, judges)
    counted = correct(clean, labels)[:, None, :judges]
    # An image that is wrong under a key to begin with is no success of either.
    success = (wrong & counted).astype(float)
    one_home = success[:, np.arange(m), np.arange(m)].mean(1)
    home = summarise("home", "", {"gain": success[:, -1, :m].mean(1) - one_home})
    one_away = success[:, :m, m : 2 * m].mean((1, 2))
    away = summarise("away", "", {"gain": success[:, -1, m : 2 * m].mean(1) - one_away})
    gain, loss = away.estimate("gain"), home.estimate("gain")
    outcome = both(
        positive(overall.low, overall.high),
        positive(gain.low, gain.high),
        below(loss.low, loss.high, 0),
    )
    ours = (
        f"seen minus unseen {number(overall)}; {m} keys in place of one: elsewhere "
        f"{number(gain)}, at home {number(loss)}"
    )
    sentence = (
        "Success under the attack's own key against others, and what knowing several keys "
        "gains under others and loses under each of them; shares of images, bootstrap."
    )
    return Finding(16, ours, outcome, sentence)


def _cosines(means: Result) -> Finding:
    used = [name for name in USED.values() if name in means.columns]
    found = {name: means.estimate(name) for name in used}
    ours = "; ".join(f"{name} {number(e)}" for name, e in found.items())
    outcomes: list[Outcome] = [
        below(e.low, e.high, 0.95) for name, e in found.items() if name != USED["surrogate"]
    ]
    outcome = both(*outcomes)
    sentence = (
        "Mean cosine with the exact gradient under the judging key; it held where BPDA's, "
        "another key's and the mean's over keys are clearly others (below 0.95). A "
        "surrogate of fewer steps knows the key and the chain: it is for comparison."
    )
    return Finding(17, ours, outcome, sentence)


SECTION = Section("Gradient masking", (1, 2, 3, 16, 17), asks, report, needs_noise)
