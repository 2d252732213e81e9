"""The page of the papers: a line for each relation, units kept, every NaN named."""

import dataclasses
import html.parser
import re
import signal
import time

import jax
import numpy as np
import pytest
from etils import epath

from experiments.arguments import Arguments
from experiments.config import PaperConfig, by_name
from experiments.paper import __main__ as program
from experiments.paper import measures, page, plans
from experiments.paper.asks import ask
from experiments.paper.relations import RELATIONS, above, below, both, nothing
from experiments.paper.sections import SECTIONS, compression, masking
from experiments.paper.sections.section import needs_noise, needs_path
from experiments.paper.study import Measure, Study
from jaxpure import purifiers
from jaxpure.dissect import thresholds
from jaxpure.errors import UserError
from jaxpure.evaluation.statistics import wilson

from . import commands

QUICK = plans.quick(by_name("digits_paper", PaperConfig))
N = 100
KEYS, CLASSES = 8, 10
# Networks that compile in no time, of the digits' shape.
TINY = (
    "--data=digits",
    "--quick",
    "--config.num_examples=4",
    "--config.purifier=diffpure(t_star=2)",
    "--config.sweep=[diffpure(t_star=2),diffpure(t_star=3)]",
    "--config.denoiser=random:unet(image_size=8,in_channels=1,out_channels=1,channels=8,"
    "channel_mult=[1],num_res_blocks=1,attention_resolutions=[],num_groups=4)",
    "--config.classifier=random:airnet(image_size=8,in_channels=1,num_classes=10,widths=[4],mean=[0.5],std=[0.5])",
)


class Fake(Study):
    """A study whose measurements are made up: what each says is known."""

    def __init__(self, robust=None, sweep=("diffpure(t_star=2)",), poison=None):
        plan = dataclasses.replace(QUICK, num_examples=N, sweep=sweep)
        super().__init__(plan, epath.Path("/nowhere"), measures.MEASURES)
        self.robust = {"fresh": 0.9, "replay": 0.1} if robust is None else robust
        self.poison = poison

    def unit(self, a, rows):
        found = getattr(self, f"_{a.measure}")(
            a, rows, np.random.default_rng(len(a.purifier))
        )
        if self.poison in found:
            found[self.poison][3 % len(rows.labels)] = np.nan
        return found

    def _logits(self, rows, share):
        """Under every key the first so many are right, the others not."""
        right = rows.indices < share * N
        predicted = np.where(right, rows.labels, (rows.labels + 1) % CLASSES)
        return np.repeat(np.eye(CLASSES)[predicted][:, None], KEYS, axis=1)

    def _clean(self, a, rows, random):
        return {"anchors": rows.images, "logits": self._logits(rows, 0.95)}

    def _attack(self, a, rows, random):
        options = dict(a.options)
        logits = self._logits(rows, self.robust[options["policy"]])
        if options["policy"] == "fresh":  # under half of the keys all are wrong
            logits[:, KEYS // 2 :] = np.roll(np.eye(CLASSES), 1, 1)[rows.labels][:, None]
        images = np.clip(rows.images + 0.1, 0, 1) * (1 - 1e-3)
        return {"images": images, "logits": logits, "unusable": np.zeros(len(rows.labels))}

    def _cloud(self, a, rows, random):
        n, k = len(rows.labels), self.plan.cloud
        shape = rows.images.shape[1:]
        same = random.normal(size=(n, 1, *shape))
        return {
            "by_key": random.normal(size=(n, k, *shape)),
            "by_start": same + 0.01 * random.normal(size=(n, k, *shape)),
            "from_start": random.normal(size=(n, k, *shape)),
            "along": random.uniform(0.2, 0.4, (n, 7)),
            "part_forward": random.uniform(0.5, 0.6, n),
            "part_reverse": random.uniform(0.3, 0.4, n),
            "grid": random.normal(size=(n, 1, measures.geometry.KEYS, *shape))
            + 0.1
            * random.normal(
                size=(n, measures.geometry.INPUTS, measures.geometry.KEYS, *shape)
            ),
        }

    def _fate(self, a, rows, random):
        n, up, down = len(rows.labels), 3, 4
        line = np.broadcast_to(np.linspace(1, 2, up + down), (n, 2, up + down)).copy()
        falling = np.r_[np.ones(up), np.linspace(0.8, 0.2, down)]
        rising = {name: line.copy() for name in ("l2", "linf", "orthogonal")}
        return rising | {
            "ssim": 3 - line,
            "along": line.copy(),
            "paired": np.broadcast_to(falling, line.shape).copy(),
            "margin": line.copy(),
            "signal": np.broadcast_to(falling, (n, up + down)).copy(),
            "forward": np.broadcast_to(np.arange(up + down) < up, (n, up + down)).copy(),
        }

    def _gradients(self, a, rows, random):
        n, steps = len(rows.labels), self.plan.path_steps
        cosines = {"bpda": 0.3, "other_key": 0.1, "eot": 0.2}
        found = {k: v + 0.01 * random.normal(size=(n, steps)) for k, v in cosines.items()}
        return found | {"signal": np.ones(n), "noise": np.full(n, 4.0)}

    def _rates(self, a, rows, random):
        n = len(rows.labels)
        # What stays right (the first) is compressed more.
        rate = 0.2 + rows.indices / N + 0.01 * random.random(n)
        names = ("expected", "local", "finite", "adversarial")
        found = {name: rate.copy() for name in names} | {"local_error": 0.1 * rate}
        return found | {"on": 2 * rate, "off": rate}

    def _thresholds(self, a, rows, random):
        n = len(rows.labels)
        return {
            "at_image": 1 + random.random(n),
            "at_anchor": 3 - rows.indices / N,
            "system_at_image": 2 + random.random(n),
            "system_at_anchor": 2 + random.random(n),
            "reached": np.arange(n) > 0,
            "balls": np.repeat(((rows.labels + rows.indices % 2) % CLASSES)[:, None], 6, 1),
        }

    def _stability(self, a, rows, random):
        n, directions = len(rows.labels), self.plan.directions
        shape = (
            n,
            measures.compression.STABLE_KEYS,
            directions,
            len(measures.compression.RADII),
        )
        singular = np.sort(random.uniform(0.5, 1, (n, measures.compression.SINGULAR)))[
            :, ::-1
        ]
        return {
            "rates": 0.4 + 0.01 * random.random(shape),
            "radii": np.tile(measures.compression.RADII, (n, 1)),
            "singular": singular,
            "on": random.uniform(0.5, 1, singular.shape),
        }

    def _scorecard(self, a, rows, random):
        found = {
            "check": np.array(["replay gap", "usable gradients", "queries"]),
            "value": np.array([0.4, np.nan, 0.0]),
            "value_low": np.array([0.3, np.nan, -0.02]),
            "value_high": np.array([0.5, np.nan, 0.02]),
            "verdict": np.array(["masked", "undecided", "clear"]),
        }
        return found | {"left_out": np.array(["BPDA: it has no purifier"])}

    def _sweep(self, a, rows, random):
        t_star = int(re.search(r"t_star=(\d+)", a.purifier)[1])
        rate, reverse = 1.5 - t_star / 150, a.purifier.startswith("revpure")
        robust = rows.indices < N * (0.9 - 0.5 * rate + 0.1 * reverse)
        clean = rows.indices < N * (0.7 + 0.2 * rate)
        n = len(rows.labels)
        columns = {"rate": rate + 0.01 * random.random(n), "seconds": np.full(n, 0.5)}
        return {"clean": clean, "robust": clean & robust} | columns


class Checkpoints(Fake):
    """A study of checkpoints `d/0` to `d/5-raw`, each a better model than the one before.

    Args:
      gain: how much more of the images each leaves right than the one before.
    """

    def __init__(self, gain, **options):
        super().__init__(**options)
        names = [f"d/{i}{'-raw' if i % 2 else ''}.safetensors" for i in range(6)]
        self.plan = dataclasses.replace(self.plan, checkpoints=tuple(names))
        self.gain = gain

    def _number(self, a):
        return int(a.denoiser[2])

    def _sweep(self, a, rows, random):
        robust = rows.indices < N * (0.5 + self.gain * self._number(a))
        clean = np.ones(len(robust), bool)
        return {"clean": clean, "robust": robust, "rate": np.full(len(robust), 0.5)}

    def _quality(self, a, rows, random):
        return {
            "error": 1.0 - 0.1 * self._number(a) + 0.01 * random.random(len(rows.labels))
        }

    def _samples(self, a, rows, random):
        n, shift = len(rows.labels), 3 - 0.5 * self._number(a)
        made = random.normal(size=(n, measures.models.SAMPLES, CLASSES)) + shift
        return {"made": made, "real": random.normal(size=(n, CLASSES))}


SWEEP = by_name("digits_paper", PaperConfig).sweep[:12]


@pytest.fixture(scope="module")
def reports():
    study = Fake(sweep=SWEEP)
    return {name: program._report(study, name, tuple(SECTIONS), {}) for name in SECTIONS}


def findings(reports):
    return {f.relation: f for report in reports.values() for f in report.findings}


def test_the_sections_share_the_17_relations():
    numbers = sorted(n for section in SECTIONS.values() for n in section.relations)
    assert numbers == sorted(RELATIONS) == list(range(1, 18))


def test_what_is_true_of_made_up_numbers_is_found(reports):
    found = findings(reports)
    assert sorted(found) == list(range(1, 18))
    outcomes = {number: f.outcome for number, f in found.items()}
    held = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 17}
    assert {number for number, o in outcomes.items() if o == "held"} == held, outcomes
    assert outcomes[16] == outcomes[10] == "undecided"  # all keys fare alike
    assert outcomes[11] == "undecided"  # 5 of 100 anchors are wrong
    assert found[1].ours.startswith("exact +80.0 points (")
    assert found[10].sentence.startswith("0 checkpoints are given")


def test_what_knowing_all_keys_gains_is_of_the_attack_that_knew_them_all():
    """Alone each attack wins at home; of those that knew several, the last wins away."""
    keys, n = 3, 40
    labels = np.zeros(n, int)
    wrong = np.zeros((keys + 2, 2 * keys), bool)
    wrong[:keys, :keys] = np.eye(keys)
    wrong[-1, keys:] = True
    logits = np.eye(2)[np.tile(wrong, (n, 1, 1)).astype(int)]
    clean = np.tile(np.eye(2)[0], (n, 2 * keys, 1))
    matrix = masking._key_matrix(logits, labels, clean, keys)
    found = masking._transfer(matrix, logits, labels, clean, keys)
    assert "elsewhere 1.00 (1.00 to 1.00), at home -1.00 (-1.00 to -1.00)" in found.ours
    seen = matrix.cells["seen"].reshape(wrong.shape)
    np.testing.assert_array_equal(seen.sum(1), [1, 1, 1, 2, 3])


@pytest.mark.parametrize(
    "wrong, broken, outcome",
    [
        (20, 30, "held"),
        (0, 30, "did not hold"),
        (20, 0, "did not hold"),
        (5, 30, "undecided"),
    ],
)
def test_whether_anchor_and_ball_are_both_needed_is_found(wrong, broken, outcome):
    labels = np.zeros(N, int)
    anchors = (np.arange(N) < wrong).astype(int)
    balls = np.tile(anchors[:, None], 3)
    balls[wrong : wrong + broken, 0] += 1
    table = thresholds.two_requirements(anchors, balls, labels)
    share = wilson(anchors != labels)
    assert compression._requirements(table, share).outcome == outcome


@pytest.mark.parametrize("gain, outcome", [(0.08, "did not hold"), (-0.08, "held")])
def test_whether_better_checkpoints_purify_better_is_found(gain, outcome, tmp_path):
    found = SECTIONS["checkpoints"].report(Checkpoints(gain))
    assert found.findings[0].outcome == outcome
    assert "Frechet distance" in found.findings[0].sentence
    for figure in found.figures:
        figure.draw(tmp_path / f"{figure.name}.svg")
    lines = (tmp_path / "checkpoints_frechet.csv").read_text().splitlines()
    header, *rows = [line.split(",") for line in lines if not line.startswith("#")]
    table = dict(zip(header, zip(*rows, strict=True), strict=True))
    assert table["checkpoint"] == ("5-raw", "4", "3-raw", "2", "1-raw", "0")
    assert table["weights"] == ("raw", "averaged") * 3
    distances = np.array(table["frechet"], float)
    assert (np.diff(distances) > 0).all()
    assert (np.array(table["frechet_low"], float) <= distances).all()
    assert (np.array(table["frechet_high"], float) >= distances).all()


def test_a_checkpoint_that_makes_nan_is_named():
    with pytest.raises(ValueError, match="samples: made is not finite for example 3"):
        SECTIONS["checkpoints"].report(Checkpoints(0.08, poison="made"))


def test_the_scorecard_is_told(reports, tmp_path):
    found = reports["scorecard"]
    assert found.notes[0].startswith("The plan's defense is masked by replay gap.")
    assert found.notes[1] == "Left out, BPDA: it has no purifier."
    found.figures[0].draw(tmp_path / "card.svg")
    text = (tmp_path / "card.csv").read_text()
    assert "queries,0.0" in text and "usable" not in text  # of no image there is no share


def test_a_setting_that_is_not_finite_costs_no_other():
    class Study(Fake):
        def _sweep(self, a, rows, random):
            found = super()._sweep(a, rows, random)
            if a.purifier == SWEEP[2]:
                found["rate"][4 % len(rows.labels)] = np.nan
            return found

    found = SECTIONS["sweep"].report(Study(sweep=SWEEP))
    (told,) = [note for note in found.notes if note.startswith("Left out")]
    assert "rate is not finite for example 4" in told and SWEEP[2] in told
    assert {f.outcome for f in found.findings} == {"held"}


def test_what_did_not_hold_is_explained(reports, tmp_path):
    study = Fake(robust={"fresh": 0.1, "replay": 0.9})
    opposite = reports | {"masking": SECTIONS["masking"].report(study)}
    why = [RELATIONS[number].otherwise for number in (1, 3)]
    text = page.write(tmp_path, "made up", opposite, []).read_text()
    usual = page.write(tmp_path, "made up", reports, []).read_text()
    for sentence in why:
        told = sentence.replace("'", "&#39;")
        assert told in text and told not in usual


def test_other_sets_have_plans_of_their_own():
    given = {"denoiser": "d", "classifier": "c", "ball": "linf(0.1)"}
    for quick in (True, False):
        flags = {"data": "folder(x)", "quick": quick}
        begun = dataclasses.replace(plans.chosen(Arguments(flags)), **given)
        with pytest.raises(UserError, match="give --config.purifier too"):
            plans.settled(begun)
        begun.purifier = "diffpure(t_star=9)"
        found = plans.settled(begun)
        assert (found.data, found.purifier) == ("folder(x)", "diffpure(t_star=9)")


def test_a_set_of_data_means_its_config_and_overrides_come_last():
    usual = by_name("digits_paper", PaperConfig)
    assert plans.chosen(Arguments({"data": "digits", "quick": False})) == usual
    named = Arguments({"data": None, "quick": True}, config="digits_paper")
    assert plans.chosen(named) == QUICK != usual
    small = plans.settled(dataclasses.replace(QUICK, num_examples=5))
    assert (small.batch_size, small.cloud_images) == (5, 5)
    assert plans.eps(QUICK) == pytest.approx(51 / 255)
    assert plans.step_size(QUICK) == pytest.approx(2.5 * 51 / 255 / 10)


def test_what_looks_at_all_images_is_of_these_images():
    """Principal components of other images are others, whatever the unit's own are."""
    asked = ask("rates", "diffpure(t_star=2)", "digits_denoiser")
    other = ask("clean", "diffpure(t_star=2)", "digits_denoiser")
    paths = {}
    for n in (32, 50):
        plan = dataclasses.replace(QUICK, num_examples=n)
        study = Study(plan, epath.Path("/nowhere"), measures.MEASURES)
        for a in (asked, other):
            paths[n, a.measure] = study.path(a, study.batches(a)[0])
    assert paths[32, "rates"] != paths[50, "rates"]
    assert paths[32, "clean"] == paths[50, "clean"]


def test_a_purifier_that_changes_the_images_size_is_told(monkeypatch):
    def halved(key, x):
        return x[::2, ::2]

    study = Fake()
    monkeypatch.setattr(Fake, "purifier", lambda self, a: jax.tree_util.Partial(halved))
    monkeypatch.setattr(Fake, "check", lambda self, a: None)
    asks = {name: SECTIONS[name].asks(study.plan) for name in SECTIONS}
    told = program._refused(study, asks)
    assert "makes images (4, 4, 1) of images (8, 8, 1)" in told["compression"]
    assert "theory" not in told


def test_the_opposite_is_found_too():
    study = Fake(robust={"fresh": 0.1, "replay": 0.9})
    found = {f.relation: f for f in SECTIONS["masking"].report(study).findings}
    assert found[1].outcome == found[3].outcome == "did not hold"
    assert found[1].ours.startswith("exact -80.0 points (")


def test_the_page_has_every_line_and_needs_nothing_else(reports, tmp_path):
    path = page.write(tmp_path, "A <title>", reports, [("Command", "python & more")])
    text = path.read_text()
    assert "A &lt;title&gt;" in text and "python &amp; more" in text
    html.parser.HTMLParser().feed(text)
    for number, relation in RELATIONS.items():
        assert f'id="relation-{number}"' in text
        assert relation.claim in text
    assert not re.search(r'(?:src|href)="(?!data:|#|figures/)', text)
    linked = set(re.findall(r'href="(figures/[^"]+)"', text))
    assert len(linked) > 15
    assert all((tmp_path / name).read_text().startswith("# about: ") for name in linked)
    drawn = sum(len(report.figures) for report in reports.values())
    assert text.count("data:image/svg+xml;base64,") == drawn
    assert "nan" not in page.verdict(findings(reports))


@pytest.mark.parametrize(
    ("section", "array"),
    [("masking", "bpda"), ("geometry", "by_key"), ("compression", "on"), ("sweep", "rate")],
)
def test_a_number_that_is_not_finite_is_named_with_its_example(section, array):
    study = Fake(poison=array, sweep=SWEEP)
    found = program._report(study, section, tuple(SECTIONS), {})
    example = study.indices[3]
    for finding in found.findings:
        assert finding.outcome == "undecided"
        assert re.search(
            rf"{array} is not finite for example {example}\b", finding.sentence
        )
    assert len(found.findings) == len(SECTIONS[section].relations)


def test_a_sweep_over_one_setting_draws_no_curve():
    found = SECTIONS["sweep"].report(Fake())
    names = [figure.name for figure in found.figures]
    assert names == [f"settings_{x}" for x in ("robust", "clean", "rate", "seconds")]
    assert "One setting: no curve is drawn through a single dot." in found.notes
    sentences = {f.relation: f.sentence for f in found.findings}
    assert "needs at least 4" in sentences[9]
    assert "no sigmoid is fitted" in sentences[12]


def test_no_setting_at_all_is_said():
    found = program._report(Fake(sweep=()), "sweep", tuple(SECTIONS), {})
    assert found.notes == ["The plan names no settings to sweep over."]


def test_sections_without_a_meaning_are_told():
    def denoiser(x, t):
        return x

    revpure = purifiers.RevPure(denoiser, t_star=2)
    still = purifiers.ddim(denoiser, t_star=2)
    assert needs_noise(purifiers.Identity()).startswith("the purifier draws no noise")
    assert needs_noise(revpure) == needs_path(revpure) == needs_noise(still) == ""
    assert "no single reverse chain" in needs_path(purifiers.OneShot(denoiser, 2))
    twice = purifiers.DiffPure(denoiser, t_star=2, rounds=2)
    assert "no single reverse chain" in needs_path(twice)
    why = {"denoising": needs_path(twice)}
    found = program._report(Fake(), "denoising", tuple(SECTIONS), why)
    assert {f.relation for f in found.findings} == {6, 7}
    assert found.notes == [
        "The purifier has no single reverse chain whose states could be followed."
    ]


def test_what_was_left_out_is_open():
    found = program._report(Fake(), "fuzzy", ("theory",), {})
    assert found.findings == nothing((8,), "Left out by --only.")


def test_outcomes():
    assert above(0.1, 0.2, 0) == below(-0.2, -0.1, 0) == "held"
    assert above(-0.2, -0.1, 0) == below(0.1, 0.2, 0) == "did not hold"
    assert above(-0.1, 0.1, 0) == below(-0.1, 0.1, 0) == "undecided"
    assert both("held", "held") == "held"
    assert both("held", "undecided") == "undecided"
    assert both("undecided", "did not hold") == "did not hold"


def counting(plan, folder):
    """A study of one measure that counts how often it is taken."""
    taken = []

    def measure(study, a, rows, factor=1):
        taken.append(tuple(rows.indices))
        return {"value": factor * rows.indices.astype(float)}

    named = {"count": Measure(measure, lambda plan: 1)}
    return Study(plan, folder, named), taken


def test_units_are_kept_and_damaged_ones_made_anew(tmp_path):
    plan = dataclasses.replace(QUICK, num_examples=10, batch_size=4)
    asked = ask("count", plan.purifier, plan.denoiser)
    study, taken = counting(plan, epath.Path(tmp_path))
    assert len(study.missing([asked])) == 3
    first = study.all(asked)
    np.testing.assert_array_equal(first["value"], study.indices)
    assert len(taken) == 3 and study.missing([asked]) == []

    again, taken = counting(plan, epath.Path(tmp_path))
    again.all(asked)
    assert taken == []
    damaged = sorted(tmp_path.glob("count-*.npz"))[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    np.testing.assert_array_equal(again.all(asked)["value"], study.indices)
    assert len(taken) == 1


def test_what_a_unit_depends_on_makes_it_another(tmp_path):
    plan = dataclasses.replace(QUICK, num_examples=4, batch_size=4)
    study, taken = counting(plan, epath.Path(tmp_path))
    asked = ask("count", plan.purifier, plan.denoiser)
    study.all(asked)
    others = [
        (plan, ask("count", plan.purifier, plan.denoiser, factor=2)),
        (plan, ask("count", "diffpure(t_star=3)", plan.denoiser)),
        (dataclasses.replace(plan, seed=1), asked),
        (dataclasses.replace(plan, ball="linf(0.1)"), asked),
        (dataclasses.replace(plan, classifier="digits_robust_classifier"), asked),
    ]
    for number, (other, question) in enumerate(others, 1):
        again, taken = counting(other, epath.Path(tmp_path))
        again.all(question)
        assert len(taken) == 1
        assert len(list(tmp_path.glob("*.npz"))) == 1 + number
    more, taken = counting(dataclasses.replace(plan, sweep=()), epath.Path(tmp_path))
    more.all(asked)
    assert taken == []  # the sweep's settings are asks of their own


def test_directions_are_split_by_the_data():
    random = np.random.default_rng(0)
    basis = random.normal(size=(2, 12))
    images = (random.normal(size=(30, 2)) @ basis).reshape(30, 2, 2, 3)
    directions = random.normal(size=(4, 5, 2, 2, 3))
    on, off = measures.compression.on_and_off(directions, images)
    np.testing.assert_allclose(on + off, directions, rtol=1e-5, atol=1e-6)
    inner = np.einsum("ndhwc,ndhwc->nd", on, off)
    np.testing.assert_allclose(inner, 0, atol=1e-5)
    flat = on.reshape(-1, 12)
    assert np.linalg.matrix_rank(flat, tol=1e-4) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "--data=NAME or --config=NAME is needed.* cifar10, digits, mnist"),
        (("--data=digits", "--config=digits_paper"), "one of them"),
        (("--config=digits_pape",), "Did you mean 'digits_paper'"),
        (("--config=digits_bpda_replay",), "unknown config"),
        (("--data=digts",), "unknown --data 'digts'; known: .* Did you mean 'digits'"),
        (("--data=digits", "--only=mask"), "unknown section 'mask'.* 'masking'"),
        (
            ("--data=digits", "--config.num_examples=1"),
            "config.num_examples=1, expected .*2",
        ),
        (("--data=digits", "--config.seed=-1"), "config.seed=-1, expected"),
        (("--data=digits", "--config.matrix_keys=9"), "judging_keys=16, expected at least"),
        (("--data=digits", "--config.purifier=difpure"), "unknown purifier 'difpure'"),
        (("--data=digits", "--config.denoiser=nothing"), "nothing"),
        (("--data=digits", "--checkpoints=/none"), "holds no .safetensors files"),
        (("--data=digits", "--only=sweep", "--config.sweep=[diffpure(t=1)]"), "diffpure"),
        (("--data=digits", "extra"), "unexpected argument 'extra'"),
    ],
)
def test_bad_input(given, message, tmp_path, capsys):
    assert program.command([*given, f"--workdir={tmp_path}", "--cpu_devices=0"]) == 2
    assert re.search(message, commands.error_line(capsys.readouterr().err))


@pytest.mark.long
def test_a_command_that_is_killed_goes_on_to_the_same_numbers(tmp_path):
    """The real command: one call to its end, and one killed after its first unit."""
    options = (*TINY, "--only=geometry,fuzzy,theory")
    code, output = commands.run("paper", *options, f"--workdir={tmp_path / 'whole'}")
    assert code == 0, output
    assert "units of work, 0 of them done" in output
    assert "denoiser evaluations" in output

    killed = tmp_path / "killed"
    process = commands.start("paper", *options, f"--workdir={killed}")
    units = killed / "units"
    began = time.monotonic()
    while not (units.is_dir() and list(units.glob(".*.part")) + list(units.glob("*.npz"))):
        assert process.poll() is None or list(units.glob("*.npz")), process.stdout.read()
        assert time.monotonic() - began < 300
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, output = commands.run("paper", *options, f"--workdir={killed}")
    assert code == 0, output
    for path in (tmp_path / "whole" / "figures").glob("*.csv"):
        assert (killed / "figures" / path.name).read_text() == path.read_text()


@pytest.mark.long
def test_the_whole_page_of_tiny_networks(tmp_path):
    code, output = commands.run("paper", *TINY, f"--workdir={tmp_path}")
    assert code == 0, output
    text = (tmp_path / "paper.html").read_text()
    for number in RELATIONS:
        assert f'id="relation-{number}"' in text
    code, again = commands.run("paper", *TINY, f"--workdir={tmp_path}")
    assert code == 0, again
    done = re.search(r"(\d+) units of work, (\d+) of them done", again)
    assert done[1] == done[2]
