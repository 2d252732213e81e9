"""The report: what it says of the numbers, and that the page is whole and alone."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest
from etils import epath

from jaxpure import report
from jaxpure.evaluation import Result
from jaxpure.evaluation.summary import summarize
from jaxpure.policy import parse_policy
from tests.fakes import fake_result

VOID = {"meta", "link", "img", "br"}
HOSTILE = "<script>alert('config')</script>"


CONFIG = {"data": "digits(split=test)", "classifier": HOSTILE, "policy": "replay"}


def fake_summary(defended: Result, undefended: Result, **changes) -> dict:
    run = {
        "config": CONFIG,
        "name": "fake",
        "seed": 0,
        "seconds": 61.0,
        "images_per_second": 0.5,
        "num_devices": 1,
        "device_kind": "cpu",
        "versions": {"jax": "0"},
        "git": None,
    }
    return summarize(defended, undefended) | run | changes


def write(folder, shape=(8, 8, 1), n=30, survive=0.4, keys=4, **changes) -> str:
    """The page of a fake evaluation."""
    defended = fake_result(shape, n, keys, survive=survive)
    undefended = fake_result(shape, n, keys, seed=1, survive=0)
    shown = report.chosen(defended)
    path = epath.Path(folder) / "report.html"
    summary = fake_summary(defended, undefended, **changes)
    purified = defended.clean_images[shown], defended.images[shown]
    report.write(path, summary, defended, undefended, purified)
    return path.read_text()


class Page(HTMLParser):
    """Checks that elements close in order; gathers text, classes and attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.getpos())
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def of_class(self, *names: str) -> list[str]:
        return [
            tag
            for tag, attrs in self.tags
            if set(names) <= set((attrs.get("class") or "").split())
        ]


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
def test_page_is_well_formed_and_alone(tmp_path, shape):
    html = write(tmp_path, shape)
    page = Page(html)
    assert page.open == []
    assert not re.search(r"https?:|src=\"(?!data:)|@import|url\((?!#)", html)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert len(html) < 3_000_000
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 5 * 12
    assert all(attrs["alt"] for attrs in images)


def pictures(page: "Page") -> list[np.ndarray]:
    """The page's pictures as arrays of bytes, five for each example."""
    found = []
    for tag, attrs in page.tags:
        if tag == "img":
            encoded = attrs["src"].partition("base64,")[2]
            found.append(np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(encoded)))))
    return found


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (10, 160, 3)])
def test_small_pictures_are_exact(tmp_path, shape):
    defended = fake_result(shape, survive=0.4)
    adversarial = np.rint(255 * defended.images[report.chosen(defended)]).astype(np.uint8)
    page = Page(write(tmp_path, shape))
    for shown, image in zip(pictures(page)[1::5], adversarial, strict=True):
        np.testing.assert_array_equal(shown.reshape(shape), image)
    assert "scaled down" not in page.text


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((256, 256, 3), (160, 160, 3)), ((161, 322, 1), (80, 160))],
)
def test_large_pictures_are_scaled_down(tmp_path, shape, expected):
    html = write(tmp_path, shape)  # of noise, which compresses worst
    page = Page(html)
    assert len(html) < 3_000_000
    assert {picture.shape for picture in pictures(page)} == {expected}
    assert "All pictures are scaled down to 160 pixels a side" in page.text


def test_page_says_the_verdict_and_every_accuracy(tmp_path):
    text = Page(write(tmp_path)).text
    summary = fake_summary(
        fake_result((8, 8, 1)), fake_result((8, 8, 1), seed=1, survive=0)
    )
    assert report.verdict(summary) in text
    for value in summary.values():
        if isinstance(value, dict) and "low" in value:
            assert f"{100 * value['value']:.1f}%" in text
            assert f"{100 * value['low']:.1f} to {100 * value['high']:.1f}" in text
    assert "as the attack saw it" in text
    assert "100-129" in text
    assert "not measured" not in text
    assert (
        "experiments.judge DIR --seed=1" in text
        and "experiments.compare DIR_FRESH DIR_REPLAY" in text
    )


def test_text_of_the_config_is_escaped(tmp_path):
    html = write(tmp_path, warnings=["<b>bold</b>"], git="<i>")
    assert HOSTILE not in html and "<b>bold" not in html and "<i>" not in html
    assert HOSTILE in Page(html).text


@pytest.mark.parametrize("survive", [0.0, 0.4, 1.0])
def test_marks_agree_with_the_records(tmp_path, survive):
    page = Page(write(tmp_path, survive=survive))
    defended = fake_result((8, 8, 1), survive=survive)
    shown = report.chosen(defended)
    drawn = np.stack([defended.clean[shown, 0], defended.robust[shown, 0]])
    assert len(page.of_class("mark", "right")) == drawn.sum()
    assert len(page.of_class("mark", "wrong")) == (~drawn).sum()
    assert page.text.count("✓") == drawn.sum()
    assert page.text.count("✗") == (~drawn).sum()
    assert len(page.of_class("missed")) == (~drawn).sum()


@pytest.mark.parametrize("n", [1, 3])
def test_few_examples_and_two_keys(tmp_path, n):
    page = Page(write(tmp_path, n=n, keys=2))
    assert page.open == []
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 5 * n


def test_page_without_what_is_optional(tmp_path):
    defended = fake_result((8, 8, 1))
    full = fake_summary(defended, defended)
    needed = ("num_examples", "policy", "robust_accuracy")
    summary = {name: full[name] for name in needed}
    path = epath.Path(tmp_path) / "report.html"
    report.write(path, summary, defended)
    page = Page(path.read_text())
    assert page.open == []
    assert "None" not in page.text


def test_a_result_writes_its_own_page(tmp_path):
    """The same page as a run's, without what only a run knows."""
    defended, undefended = (fake_result((8, 8, 1), seed=i) for i in (0, 1))
    path = tmp_path / "page.html"
    defended.report(path)
    page = Page(path.read_text())
    assert page.open == [] and "Undefended" not in page.text and "None" not in page.text
    assert report.verdict(summarize(defended)) in page.text
    assert "DIR_FRESH" not in page.text and "Purified clean" not in page.text
    defended.report(path, undefended)
    assert "Undefended classifier" in Page(path.read_text()).text


def test_logits_that_are_not_finite_are_marked_wrong(tmp_path):
    defended = fake_result((8, 8, 1), n=3, survive=1)
    defended.logits[0, 0] = np.nan
    summary = fake_summary(defended, defended)
    images = defended.images * np.nan
    path = epath.Path(tmp_path) / "report.html"
    report.write(path, summary, defended, defended, (images, images))
    text = Page(path.read_text()).text
    assert "✗ wrong, class not finite" in text


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high, "n": 200}


SUMMARY = {
    "num_examples": 200,
    "policy": "replay",
    "norm": "linf",
    "eps": 8 / 255,
    "robust_accuracy": estimate(0.31, 0.25, 0.377),
    "robust_accuracy_fresh": estimate(0.552, 0.48, 0.62),
    "robust_accuracy_undefended": estimate(0.0, 0.0, 0.02),
}


def test_verdict_of_a_replay():
    assert report.verdict(SUMMARY) == (
        "With the noise replayed, the purified classifier keeps 31.0% (25.0 to 37.7) of "
        "200 test images right under L-inf 8/255; judged under noise the attack never "
        "saw, the same adversarial images give 55.2%; the undefended classifier keeps 0.0%."
    )


@pytest.mark.parametrize(
    "policy", ["fresh", "fixed", "replay,judging=fresh", "fresh,gradient=replay"]
)
def test_verdict_under_noise_the_attack_never_saw(policy):
    words = report.verdict({**SUMMARY, "policy": policy})
    assert "judged under noise the attack never saw" in words
    assert "only a run with policy=replay shows" in words
    assert "55.2%" not in words


@pytest.mark.parametrize(
    "policy",
    [
        "fresh,forward=replay",
        "fresh,gradient=replay,judging=replay",
        "fixed,judging=fixed",
    ],
)
def test_verdict_where_some_noise_was_known(policy):
    words = report.verdict({**SUMMARY, "policy": policy})
    assert words.startswith(f"With part of the noise known to the attack ({policy})")
    assert "55.2%" in words


def test_verdict_names_what_is_not_to_be_trusted():
    words = report.verdict({**SUMMARY, "nonfinite_examples": [3]})
    assert words.startswith("Not to be trusted yet, because 1 image gave logits that")
    words = report.verdict({**SUMMARY, "zero_gradient_examples": [3, 4]})
    assert (
        "on 2 images the attack met a gradient identically zero at every evaluation"
        in words
    )


def test_verdict_in_an_l2_ball():
    words = report.verdict({**SUMMARY, "norm": "l2", "eps": 0.5})
    assert "right under L2 0.5" in words


def test_warnings_are_those_of_the_summary(tmp_path):
    text = Page(write(tmp_path, warnings=["Mind this."])).text
    assert text.count("Mind this.") == 1 and "1 warning to read first" in text
    text = Page(write(tmp_path, bad_gradient_examples=[101], warnings=[])).text
    assert "No warnings." in text


def test_policy_is_named_as_it_was_asked_for():
    policy = parse_policy("fresh,forward=replay", ("forward", "reverse"))
    config = {"policy": "fresh,forward=replay"}
    words = report.verdict({**SUMMARY, "policy": str(policy), "config": config})
    assert words.startswith(
        "With part of the noise known to the attack (fresh,forward=replay), the purified"
    )


def test_chosen_mixes_fallen_and_standing_in_data_order():
    defended = fake_result((8, 8, 1), n=60)
    shown = report.chosen(defended)
    clean, robust = defended.clean[shown, 0], defended.robust[shown, 0]
    assert (clean & ~robust).sum() == 6 and robust.sum() == 6
    assert (np.diff(shown) > 0).all()
    np.testing.assert_array_equal(shown, report.chosen(defended))


@pytest.mark.parametrize("survive", [0.0, 1.0])
def test_chosen_fills_up_where_one_kind_is_missing(survive):
    defended = fake_result((8, 8, 1), survive=survive)
    assert len(np.unique(report.chosen(defended))) == 12
    np.testing.assert_array_equal(report.chosen(defended, 99), np.arange(30))
