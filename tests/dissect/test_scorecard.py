"""The scorecard names a masked gradient, and clears a defense that masks nothing."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation.toys import examples

from jaxpure import data, dissect
from jaxpure.attacks import Linf
from jaxpure.defenses import PurifiedClassifier
from jaxpure.dissect import Scorecard
from jaxpure.errors import UserError
from jaxpure.keys import noise_at, part
from jaxpure.pytrees import pytree

QUICK = {"key": jax.random.key(0), "num_steps": 4, "eot_samples": 2, "queries": 8}
IMAGES = 200
CHECKS = {
    "replay gap",
    "EOT against replay",
    "EOT",
    "steps or draws",
    "BPDA",
    "one step",
    "more steps",
    "larger eps",
    "unbounded",
    "queries",
    "transfer",
    "loss along gradient",
    "usable gradients",
}


@pytree
class Rounding:
    """Rounds to 256 levels: its gradient is zero wherever it has one."""

    noise_parts = ()

    def __call__(self, key, x):
        return jnp.round(x * 255) / 255


@pytree
class Noise:
    """Adds a lot of noise, all of it known to who knows the key."""

    sigma: float
    noise_parts = ("forward",)

    def __call__(self, key, x):
        return x + self.sigma * noise_at(part(key, "forward"), 0, x)


@pytree
class Nothing:
    noise_parts = ("forward",)

    def __call__(self, key, x):
        return x


def card(purifier, **options) -> Scorecard:
    dataset, classifier = examples(IMAGES)
    defense = PurifiedClassifier(purifier, classifier)
    given = {"ball": "linf(0.3)", "batch_size": 25} | QUICK | options
    return dissect.scorecard(defense, dataset, **given)


@pytest.fixture(scope="module")
def rounding():
    return card(Rounding())


@pytest.fixture(scope="module")
def nothing():
    return card(Nothing())


def test_a_gradient_of_zero_is_named(rounding):
    assert rounding.verdict == "masked"
    assert {"BPDA", "usable gradients", "loss along gradient"} <= set(rounding.masked)
    line = rounding["usable gradients"]
    assert line.value == 1.0
    assert line.low > 0.9
    assert rounding["BPDA"].value > 0.3
    assert "Athalye" in rounding["BPDA"].answers


def test_what_has_no_meaning_is_said(rounding):
    asked = {line.check for line in rounding.lines}
    assert asked | set(rounding.left_out) == CHECKS
    assert rounding.left_out["replay gap"] == "it draws no noise"
    with pytest.raises(UserError, match="it draws no noise"):
        rounding["replay gap"]


def test_a_defense_that_hides_nothing_is_cleared(nothing):
    assert nothing.masked == []
    assert {line.check for line in nothing.lines} == CHECKS
    for check in CHECKS - {"steps or draws", "more steps", "larger eps"}:
        assert nothing[check].verdict == "clear", str(nothing[check])
    assert nothing["unbounded"].value == 0
    assert nothing["loss along gradient"].value == 1


def test_hidden_noise_is_named():
    found = card(Noise(0.6), ball="linf(0.1)", checks=["replay gap"], tolerance=0.02)
    (gap,) = found.lines
    assert found.masked == ["replay gap"]
    assert 0 < gap.low < gap.value < gap.high


def robust_under(monkeypatch, share):
    """Makes each evaluation leave the first so many images right: `share` by name."""

    def evaluated(defense, attack, dataset, *, folder, **_):
        right = np.arange(IMAGES) < share.get(folder.name, 0) * IMAGES
        none = np.zeros(IMAGES, int)
        found = {"zero_gradients": none, "bad_gradients": none, "evaluations": none + 1}
        return types.SimpleNamespace(robust=right[:, None], **found)

    module = sys.modules["jaxpure.dissect.scorecard"]
    monkeypatch.setattr(module, "evaluate", evaluated)


MASKED = {
    "replay gap": {"fresh": 1},
    "EOT against replay": {"fresh_eot": 1},
    "EOT": {"fresh": 1, "fresh_eot": 0.97},
    "steps or draws": {"fresh_eot_few": 1},
    "BPDA": {"plain": 1},
    "one step": {"plain": 1},
    "more steps": {"plain": 1},
    "larger eps": {"plain": 1, "wider": 0.97},
    "unbounded": {"unbounded": 1},
    "queries": {"plain": 1},
    "transfer": {"plain": 1},
}


@pytest.mark.parametrize("check", MASKED)
def test_every_line_can_name_masking(check, monkeypatch, tmp_path):
    robust_under(monkeypatch, MASKED[check])
    found = card(Nothing(), checks=[check], folder=tmp_path)
    assert found.verdict == found[check].verdict == "masked"


def test_a_defense_that_every_attack_breaks_alike_is_clear(monkeypatch, tmp_path):
    robust_under(monkeypatch, {})
    found = card(Nothing(), folder=tmp_path)
    assert {line.check for line in found.lines} == CHECKS
    assert found.verdict == "clear", str(found)


def test_a_difference_below_the_tolerance_is_clear(monkeypatch, tmp_path):
    """Above zero with all of its interval, and too small to matter."""
    robust_under(monkeypatch, {"plain": 0.05})
    (line,) = card(Nothing(), checks=["BPDA"], folder=tmp_path).lines
    assert 0 < line.low < line.high < 0.1 and line.verdict == "clear"


@pytest.mark.parametrize(("steps", "draws"), [(20, 8), (3, 8), (16, 4)])
def test_steps_and_draws_cost_the_same(steps, draws, monkeypatch, tmp_path):
    made = {}

    def evaluated(defense, attack, dataset, *, folder, **_):
        made[folder.name] = attack.num_steps * attack.eot_samples
        return types.SimpleNamespace(robust=np.zeros((IMAGES, 1), bool))

    monkeypatch.setattr(sys.modules["jaxpure.dissect.scorecard"], "evaluate", evaluated)
    checks = {"checks": ["steps or draws"], "folder": tmp_path}
    card(Nothing(), num_steps=steps, eot_samples=draws, **checks)
    many = made.get("fresh_many", made.get("fresh"))
    assert made["fresh_eot_few"] == many


def test_it_prints_a_table_and_writes_a_csv(rounding, tmp_path):
    text = str(rounding)
    assert text.startswith("200 images of toy, L-inf 76.5/255")
    for line in rounding.lines:
        assert f"{100 * line.value:.1f} ({100 * line.low:.1f}" in text
    assert "left out: replay gap, it draws no noise" in text
    rounding.to_csv(tmp_path / "card.csv")
    rows = [r for r in (tmp_path / "card.csv").read_text().splitlines() if r[0] != "#"]
    assert rows[0] == "check,measured,value,value_low,value_high,images,verdict,answers"
    assert len(rows) == 1 + len(rounding.lines)


def test_a_function_without_a_purifier():
    dataset, classifier = examples(20)
    defense = jax.tree_util.Partial(lambda key, x: classifier(x))
    some = {"checks": ["BPDA", "transfer", "unbounded"]}
    found = dissect.scorecard(
        defense, dataset, ball="linf(0.3)", batch_size=20, **some, **QUICK
    )
    assert set(found.left_out) == {"BPDA", "transfer"}
    assert [line.check for line in found.lines] == ["unbounded"]


def test_evaluations_are_kept(tmp_path):
    some = {"folder": tmp_path, "checks": ["BPDA"]}
    first = card(Nothing(), **some)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    again = card(Nothing(), **some)
    assert again.lines == first.lines
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_no_image_that_was_right_is_undecided():
    images = np.full((4, 2, 2, 1), 0.5, np.float32)
    dataset = data.from_arrays(images, np.array([1, 1, 1, 1]), num_classes=2)
    classifier = jax.tree_util.Partial(lambda x: jnp.array([1.0, 0.0]) + 0 * jnp.sum(x))
    defense = PurifiedClassifier(Nothing(), classifier)
    some = {"ball": "linf(0.3)", "batch_size": 4, "checks": ["usable gradients"]}
    found = dissect.scorecard(defense, dataset, **some, **QUICK)
    assert found["usable gradients"].verdict == "undecided"
    assert np.isnan(found["usable gradients"].value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ball": "flow(0.1)"}, "moves pixels"),
        ({"num_steps": 1}, "num_steps=1, expected a finite number at least 2"),
        ({"eot_samples": 1}, "eot_samples=1"),
        ({"queries": 0}, "queries=0"),
        ({"tolerance": 0}, "tolerance=0"),
        ({"checks": ["quries"]}, "unknown check 'quries'.*Did you mean 'queries'"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(UserError, match=message):
        card(Nothing(), **options)


def test_attacks_are_what_the_lines_say():
    """Radii, lengths of steps and gradients of the attempts that lines compare."""
    module = sys.modules["jaxpure.dissect.scorecard"]
    ball = Linf(0.1)
    effort = module._Effort(ball, 20, 0.0125, 8, 500, largest=1.0)
    attacks = module._attacks(effort)
    radii = {name: options.get("ball", ball).eps for name, (_, options) in attacks.items()}
    assert radii.pop("wider") == 0.2 and radii.pop("unbounded") == 1.0
    assert set(radii.values()) == {0.1}
    reach = {
        name: attack.num_steps * attack.step_size / options.get("ball", ball).eps
        for name, (attack, options) in attacks.items()
        if name not in ("queries", "one_step", "more_steps")
    }
    assert all(far == pytest.approx(2.5) for far in reach.values())
    few, many = attacks["fresh_eot_few"][0], attacks["fresh_many"][0]
    assert few.num_steps * few.eot_samples == many.num_steps * many.eot_samples == 16
    assert attacks["one_step"][0].step_size == 0.1
    assert module._Effort(ball, 20, 0.01, 8, 500, largest=0.15).doubled == 0.15
