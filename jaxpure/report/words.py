"""What the numbers say, in words: the verdict, and how its pieces are written."""

import re
from typing import Any

from markupsafe import Markup, escape

from jaxpure.evaluation.summary import count_images, ranges
from jaxpure.policy import Knowledge, read_policy

__all__ = ["count_images", "ranges"]


def verdict(summary: dict[str, Any]) -> str:
    """One plain sentence: what survives, of how many, and how far to trust it."""
    under = f"of {summary['num_examples']} {data_split(summary)} images right"
    if ball := norm_ball(summary):
        under += f" under {ball}"
    kept = f"{interval(summary['robust_accuracy'])} {under}"
    fresh = percent(summary.get("robust_accuracy_fresh"))
    unseen = (
        f"judged under noise the attack never saw, the same adversarial images give {fresh}"
    )
    match knowledge(summary):
        case "all":
            first = f"with the noise replayed, the purified classifier keeps {kept}"
            clauses = [first, unseen]
        case "some":
            policy = f"with part of the noise known to the attack ({asked_policy(summary)})"
            clauses = [f"{policy}, the purified classifier keeps {kept}", unseen]
        case _:
            clauses = [
                f"the purified classifier keeps {kept}, judged under noise the attack "
                "never saw",
                "what survives once the noise is replayed, only a run with "
                "policy=replay shows",
            ]
    if summary.get("robust_accuracy_undefended"):
        alone = percent(summary["robust_accuracy_undefended"])
        clauses.append(f"the undefended classifier keeps {alone}")
    if bad := len(summary.get("nonfinite_examples") or []):
        clauses[0] = (
            f"not to be trusted yet, because {count_images(bad)} gave logits that are not "
            f"finite (counted as wrong): {clauses[0]}"
        )
    if masked := len(summary.get("zero_gradient_examples") or []):
        clauses.append(
            f"but on {count_images(masked)} the attack met a gradient identically zero "
            "at every evaluation (masked), so what those keep is no evidence of robustness"
        )
    sentence = "; ".join(clauses) + "."
    return sentence[0].upper() + sentence[1:]


def knowledge(summary: dict[str, Any]) -> Knowledge:
    """How much of the noise that judges it the attack has met."""
    return read_policy(summary["policy"]).knowledge


def asked_policy(summary: dict[str, Any]) -> str:
    """The policy as it was asked for, which is shorter than its canonical text."""
    return (summary.get("config") or {}).get("policy") or summary["policy"]


def title(summary: dict[str, Any]) -> str:
    name = summary.get("name") or "Evaluation"
    dataset = summary.get("dataset")
    return f"{name} on {dataset}" if dataset else str(name)


def data_split(summary: dict[str, Any]) -> str:
    """The split of the data that the config names, "test" where it names none."""
    data = (summary.get("config") or {}).get("data") or ""
    if isinstance(data, dict):  # of a run of before configs held specs
        return data.get("split") or "test"
    named = re.search(r"\bsplit=([\w:\[\]%]+)", data)
    return named[1] if named else "test"


def norm_ball(summary: dict[str, Any]) -> str:
    """What the attack might change, as people say it; "" where that is not known."""
    norm, eps = summary.get("norm"), summary.get("eps")
    return "" if norm is None or eps is None else ball(norm, eps)


def ball(norm: str, eps: float) -> str:
    """A ball as people say it: "L-inf 8/255", "L2 0.5", "a flow of 0.05"."""
    if norm == "linf":
        return f"L-inf {255 * eps:.4g}/255"
    return f"a flow of {eps:.4g}" if norm == "flow" else f"{norm.upper()} {eps:.4g}"


def percent(estimate: dict[str, Any] | None) -> str:
    return "n/a" if not estimate else f"{100 * estimate['value']:.1f}%"


def interval(estimate: dict[str, Any] | None) -> str:
    if not estimate:
        return "n/a"
    low, high = 100 * estimate["low"], 100 * estimate["high"]
    return f"{percent(estimate)} ({low:.1f} to {high:.1f})"


def thousands(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def emphasised(sentence: str) -> Markup:
    """The sentence with its percentages set off, and its ball on one line."""
    text = re.sub(r"\d+\.\d%", r"<strong>\g<0></strong>", str(escape(sentence)))
    return Markup(re.sub(r"L-inf [\d./]*\d", r"<span>\g<0></span>", text))
