"""The sweep over t_star and samplers: robustness against compression, one dot a setting."""

from functools import partial

import numpy as np

from experiments import dissect_figures as figures
from experiments.config import PaperConfig
from experiments.paper.asks import Ask, ask
from experiments.paper.relations import OF_GAPS, Finding, above, below, number
from experiments.paper.sections.section import Figure, Report, Section
from experiments.paper.study import Study
from jaxpure.defenses import denoiser_evaluations
from jaxpure.dissect.prediction import correlation, logistic_fit
from jaxpure.dissect.results import Result, bootstrap, require_finite
from jaxpure.evaluation.statistics import wilson

KINDS = {"diffpure": "DiffPure", "revpure": "RevPure"}
LEAST = 8  # settings of a sigmoid
MEASURES = {
    "robust": "robust under replay (share)",
    "clean": "clean accuracy (share)",
    "rate": "compression rate (lower = stronger)",
    "seconds": "seconds of a purification",
}


def asks(plan: PaperConfig) -> list[Ask]:
    return [ask("sweep", setting, plan.denoiser) for setting in plan.sweep]


def report(study: Study) -> Report:
    plan = study.plan
    if not plan.sweep:
        raise ValueError("the plan names no settings to sweep over")
    found, left_out = {}, []
    for a in asks(plan):
        try:
            found[a.purifier] = study.all(a)
        except ValueError as error:  # one setting must not cost the others
            left_out.append(f"Left out: {error}.")
    if not found:
        raise ValueError(" ".join(left_out))
    table = sweep_table(found, study)
    notes = [
        "One dot is one setting. Attack: PGD along the exact gradient under the replayed "
        "key. Seconds are of one purification in a batch, on the machine named below."
    ]
    notes += left_out
    drawn = _settings(table)
    if len(found) < 2:
        notes.append("One setting: no curve is drawn through a single dot.")
    else:
        drawn += _curves(table, notes)
    findings = [_reverse_alone(table, found, notes), *_against_rate(table, drawn, notes)]
    return Report(findings, drawn, notes)


def sweep_table(found: dict[str, dict], study: Study) -> Result:
    """A row for each setting: what it is, and its clean, robust, rate and seconds."""
    rows = []
    for setting, arrays in found.items():
        purifier = study.purifier(ask("sweep", setting, study.plan.denoiser))
        rate = bootstrap(require_finite(setting, arrays["rate"], study.indices))
        clean, robust = wilson(arrays["clean"]), wilson(arrays["robust"])
        rows.append(
            {
                "setting": setting,
                "kind": setting.partition("(")[0],
                "sampler": _sampler(purifier),
                "t_star": getattr(purifier, "t_star", 0),
                "steps": denoiser_evaluations(purifier) or 0,
                **dict(zip(("rate", "rate_low", "rate_high"), rate, strict=True)),
                **dict(zip(("clean", "clean_low", "clean_high"), clean[:3], strict=True)),
                **dict(
                    zip(("robust", "robust_low", "robust_high"), robust[:3], strict=True)
                ),
                **_seconds(arrays["seconds"]),
            }
        )
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    about = (
        "clean and robust (right clean, and under the replayed attack): shares of images, "
        "Wilson's intervals; expected compression rate under judging key 0 (lower is "
        "stronger), bootstrap; seconds of a purification, median and range over batches"
    )
    return Result("sweep", about, columns, {"images": len(study.dataset)})


def _seconds(values: np.ndarray) -> dict[str, float]:
    ends = {"": np.median, "_low": np.min, "_high": np.max}
    return {f"seconds{end}": float(of(values)) for end, of in ends.items()}


def _sampler(purifier) -> str:
    """The step rule, with the share of its noise."""
    rule = getattr(purifier, "step_rule", None)
    if rule is None:
        return type(purifier).__name__
    eta = f", eta {rule.eta:g}" if hasattr(rule, "eta") else ""
    return f"{type(rule).__name__}{eta}"


def _settings(table: Result) -> list[Figure]:
    """Each measure as a row of dots, one for each setting."""
    kinds = [KINDS.get(kind, kind) for kind in table["kind"]]
    labels = [
        f"{kind} {t}, {steps} steps, {sampler}"
        for kind, t, steps, sampler in zip(
            kinds, table["t_star"], table["steps"], table["sampler"], strict=True
        )
    ]
    shown = Result(
        "sweep", table.about, {**table.columns, "label": np.array(labels)}, table.notes
    )
    return [
        Figure(
            f"settings_{name}",
            f"{label}, by setting",
            f"{table.about}. Each with its t_star.",
            partial(figures.dots, shown, label="label", value=name, xlabel=label),
        )
        for name, label in MEASURES.items()
    ]


def _curves(table: Result, notes: list[str]) -> list[Figure]:
    """Each measure against t_star, for the settings that share sampler and steps."""
    by_kind = {}
    for kind, title in KINDS.items():
        rows = (table["kind"] == kind) & _main_sampler(table)
        if len(set(table["t_star"][rows])) < 2:
            notes.append(f"{title}: fewer than two values of t_star, so no curve of it.")
            continue
        order = np.flatnonzero(rows)[np.argsort(table["t_star"][rows])]
        columns = {name: table[name][order] for name in table.columns}
        by_kind[title] = Result(table.name, table.about, columns, table.notes)
    if not by_kind:
        return []
    return [
        Figure(
            f"sweep_{name}",
            f"{label} against t_star",
            f"Settings of one sampler. {table.about}.",
            partial(
                figures.curves, by_kind, x="t_star", y=name, xlabel="t_star", ylabel=label
            ),
        )
        for name, label in MEASURES.items()
    ]


def _main_sampler(table: Result) -> np.ndarray:
    """Rows of the sampler of the first; DDPM's steps go with t_star, others' do not."""
    first = table["sampler"][0]
    same = table["sampler"] == first
    return same & ((table["steps"] == table["steps"][0]) | (first == "Ddpm"))


def _reverse_alone(table: Result, found: dict, notes: list[str]) -> Finding:
    """RevPure minus DiffPure, of settings that differ in nothing else."""
    pairs = [
        (setting, "revpure" + setting.removeprefix("diffpure"))
        for setting in found
        if setting.startswith("diffpure")
    ]
    pairs = [(d, r) for d, r in pairs if r in found]
    if not pairs:
        why = "No setting is there both as DiffPure and as RevPure."
        return Finding(4, "not measured", "undecided", why)
    gaps = {
        name: np.mean(
            [found[r][name].astype(float) - found[d][name] for d, r in pairs], axis=0
        )
        for name in ("robust", "clean")
    }
    (robust, low, high), clean = bootstrap(gaps["robust"]), bootstrap(gaps["clean"])
    ours = (
        f"robust {100 * robust:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), clean "
        f"{100 * clean[0]:+.1f} ({100 * clean[1]:+.1f} to {100 * clean[2]:+.1f})"
    )
    sentence = (
        f"RevPure minus DiffPure under replay, mean over {len(pairs)} settings that differ "
        "in nothing else; bootstrap over images. 'At least' held where the interval is not "
        "below zero."
    )
    return Finding(4, ours, OF_GAPS[4](float(low), float(high)), sentence)


def _against_rate(table: Result, drawn: list[Figure], notes: list[str]) -> list[Finding]:
    findings = []
    for relation, name, goes in ((9, "robust", below), (13, "clean", above)):
        try:
            rho = correlation(table["rate"], table[name]).spearman
        except ValueError as error:
            findings.append(Finding(relation, "no correlation", "undecided", f"{error}."))
            continue
        direction = "falls" if relation == 9 else "grows"
        sentence = (
            f"Spearman's correlation of the compression rate with {name} accuracy over "
            f"{rho.n} settings; it held where {name} accuracy {direction} with the rate "
            "(lower rate = stronger compression)."
        )
        outcome = goes(rho.low, rho.high, 0)
        findings.append(Finding(relation, number(rho), outcome, sentence))
    findings.append(_sigmoid(table, drawn, notes))
    return findings


def _sigmoid(table: Result, drawn: list[Figure], notes: list[str]) -> Finding:
    n = int(table.notes["images"])
    if len(table) < LEAST:
        why = f"{len(table)} settings: no sigmoid is fitted through fewer than {LEAST}."
        notes.append(why)
        return Finding(12, "no fit", "undecided", why)
    try:
        fit = logistic_fit(
            table["rate"], np.rint(table["robust"] * n), np.full(len(table), n)
        )
    except ValueError as error:
        notes.append(f"No sigmoid: {error}.")
        return Finding(12, "no fit", "undecided", f"{error}.")
    labels = [
        f"{'D' if kind == 'diffpure' else 'R'}{t}"
        for kind, t in zip(table["kind"], table["t_star"], strict=True)
    ]
    drawn.append(
        Figure(
            "sigmoid",
            "Robustness under replay against compression",
            f"{fit.settings.about}. D: DiffPure, R: RevPure, with t_star.",
            partial(figures.sigmoid, fit, labels=labels),
        )
    )
    residual = float(np.abs(fit.settings["residual"]).max())
    ours = f"slope {number(fit.slope)}, half at a rate of {fit.midpoint:.2f}"
    sentence = (
        f"Logistic fit on the logarithm of the rate over {len(table)} settings; it held "
        f"where the slope is below zero. Largest residual {100 * residual:.0f} points, "
        f"dispersion {fit.dispersion:.1f} (1: as much scatter as the images make)."
    )
    return Finding(12, ours, below(fit.slope.low, fit.slope.high, 0), sentence)


SECTION = Section("Sweep over t_star and samplers", (4, 9, 12, 13), asks, report)
