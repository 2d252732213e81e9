"""The page over many runs: what it shows and compares, and names that try to escape."""

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
from urllib.parse import unquote

import numpy as np
import pytest
from etils import epath

from jaxpure.errors import UserError
from jaxpure.evaluation import Result, statistics
from jaxpure.evaluation.summary import summarize
from jaxpure.report import view

EVIL = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>\"'&"


def fake(seed=0, policy="replay", survive=0.4, data="toy", n=30) -> Result:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 10
    right = rng.random((n, 4)) < survive
    logits = np.eye(10)[np.where(right, labels[:, None], (labels[:, None] + 1) % 10)]
    clean = np.eye(10)[np.repeat(labels[:, None], 4, 1)]
    broken = ~statistics.correct(logits, labels)[:, 0]
    images, counts = np.full((n, 4, 4, 1), 0.5, np.float32), np.full(n, 20)
    about = {
        "data": data,
        "attack": "pgd",
        "stages": ["pgd"],
        "ball": "L-inf 8/255",
        "ball_spec": "linf(8/255)",
        "policy": policy,
        "gradient": "bpda",
        "judging_keys": 4,
    }
    return Result(
        indices=np.arange(n),
        labels=labels,
        clean_logits=clean,
        logits=logits,
        images=images,
        clean_images=images,
        linf=np.zeros(n),
        l2=np.zeros(n),
        attack_calls=counts,
        evaluations=counts,
        broken_at=np.where(broken, 3, -1),
        bad_gradients=0 * counts,
        zero_gradients=0 * counts,
        gradient_evaluations=counts,
        forward_evaluations=0 * counts,
        broken_by=np.where(broken, "pgd", ""),
        lost=np.full(n, np.nan),
        vote_lost=np.zeros(n, bool),
        about=about,
    )


def entry(name, *, report=None, defense="diffpure, a, b", **options):
    result = fake(**options)
    return view.Entry(name, report, summarize(result), result, defense)


@pytest.fixture
def entries(tmp_path):
    base = epath.Path(tmp_path)
    return [
        entry("fresh", policy="fresh", survive=0.8, report=base / "fresh" / "report.html"),
        entry("replay", seed=1, survive=0.3),
        entry("elsewhere", seed=2, data="other", defense="identity, , b"),
        entry(
            EVIL, seed=3, survive=0.5, report=base / "javascript:alert(1)" / "a b#?.html"
        ),
    ]


class Page(html.parser.HTMLParser):
    """Tags, and what is in each script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.links, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name == "href"]
        self.handlers = getattr(self, "handlers", [])
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "script"

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def written(tmp_path, entries):
    path = tmp_path / "runs.html"
    view.write(path, entries)
    return path.read_text()


def test_no_name_becomes_a_tag_a_script_or_a_scheme(tmp_path, entries):
    evil = dataclasses.replace(
        entries[3],
        defense=EVIL,
        summary={**entries[3].summary, "attack": EVIL, "dataset": EVIL, "warnings": [EVIL]},
    )
    page = Page(written(tmp_path, [*entries[:3], evil]))
    plain = Page(written(tmp_path, entries[:3]))
    assert len(page.scripts) == len(plain.scripts) == 2
    assert page.scripts[1] == plain.scripts[1]  # the one that runs
    assert page.tags.count("img") == 0 and page.handlers == []
    assert "./javascript%3Aalert%281%29/a%20b%23%3F.html" in page.links
    assert all(re.match(r"\./|data:,$", link) for link in page.links)


def test_it_needs_no_network(tmp_path, entries):
    text = written(tmp_path, entries[:3])
    assert "http:" not in text and "https:" not in text and "src=" not in text


def test_the_numbers_are_those_of_the_summaries(tmp_path, entries):
    row = view._row(entries[0], entries, epath.Path(tmp_path))
    summary = entries[0].summary
    for column, key in view.READINGS.items():
        assert row["cells"][column]["value"] == summary[key]["value"]
    # The lowest replayed headline of the same defense on the same images.
    replayed = [entries[i].summary["robust_accuracy"]["value"] for i in (1, 3)]
    assert row["cells"]["replay"]["value"] == min(replayed)
    assert view._row(entries[2], entries, epath.Path(tmp_path))["cells"]["defense"]["text"]


def known(which, parts, **options):
    """An entry whose result says of what parts it is."""
    found = fake(**options)
    about = {**found.about, "hash": which, "parts": {"defense": "d", **parts}}
    result = dataclasses.replace(found, about=about)
    return view.Entry(f"run {which[:3]}", None, summarize(result), result, "told defense")


def cells_of(tmp_path, entry, among):
    return view._row(entry, among, epath.Path(tmp_path))["cells"]


def test_hashes_say_which_runs_are_of_the_same_experiment(tmp_path, entries):
    one = known("abc123456789", {})
    twice = dataclasses.replace(one, name="again")
    other = known("abc12345zzzz", {}, seed=1)  # the letters shown are the same
    among = [one, twice, other, *entries]
    assert cells_of(tmp_path, one, among)["experiment"] == {
        "text": "abc12345",
        "value": "abc12345",
        "more": "as again",
    }
    assert "more" not in cells_of(tmp_path, other, among)["experiment"]
    old = cells_of(tmp_path, entries[0], among)
    assert old["experiment"]["text"] == "" and old["reported"]["text"]  # shown as before
    text = written(tmp_path, among)
    assert ">abc12345<" in text and ">as again<" in text


def test_replay_is_of_the_same_defense_and_images_by_their_hash(tmp_path, entries):
    fresh = known("f", {}, policy="fresh", survive=0.9)
    ours = known("r", {}, seed=1, survive=0.5)
    weaker = known("w", {"defense": "other weights, same name"}, seed=2, survive=0.1)
    assert fresh.summary["subject_hash"] != weaker.summary["subject_hash"]
    among = [fresh, ours, weaker]
    headline = ours.summary["robust_accuracy"]["value"]
    assert cells_of(tmp_path, fresh, among)["replay"]["value"] == headline
    old = dataclasses.replace(entries[1], defense="told defense")  # says no hash
    lowest = min(headline, old.summary["robust_accuracy"]["value"])
    found = cells_of(tmp_path, fresh, [fresh, old, ours])["replay"]["value"]
    assert found == lowest != headline


def test_pairs_are_compared_on_the_images_that_they_share(tmp_path, entries):
    found = json.loads(Page(written(tmp_path, entries)).scripts[0])
    assert set(found) == {"0,1", "0,3", "1,3"}  # "elsewhere" is of other data
    gap = statistics.paired_gap(*(e.judged.robust[:, 0] for e in (entries[0], entries[1])))
    assert found["0,1"]["robust accuracy"]["gap"].startswith(f"{100 * gap.gap:+.1f} points")
    assert found["0,1"]["robust accuracy"]["n"] == 30


def test_a_changed_set_of_the_same_name_is_not_compared(tmp_path, entries):
    result = entries[1].judged
    changed = dataclasses.replace(result, clean_images=result.clean_images / 2)
    other = dataclasses.replace(entries[1], judged=changed)
    assert set(view.pairs([entries[0], other, entries[1]])) == {"0,2"}


def test_an_empty_page_is_not_written(tmp_path):
    with pytest.raises(UserError, match="no finished run to show"):
        view.write(tmp_path / "runs.html", [])
    assert not (tmp_path / "runs.html").exists()


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
ACT = """
<script>
const say = (name, value) => document.body.setAttribute("data-" + name, value);
const all = () => [...document.querySelectorAll("#runs tbody tr")];
const names = () => all().filter((r) => !r.hidden)
  .map((r) => r.querySelector("[data-column=run]").textContent.trim());
const press = (name) => [...document.querySelectorAll("th button")]
  .find((b) => b.textContent === name).click();
press("reported"); say("up", names().join("|"));
press("reported"); say("down", names().join("|"));
const word = document.getElementById("word");
word.value = "fresh"; word.dispatchEvent(new Event("input"));
say("word", names().join("|"));
word.value = ""; word.dispatchEvent(new Event("input"));
const select = document.querySelector("select[data-column=images]");
select.value = "30 of other"; select.dispatchEvent(new Event("change"));
say("filtered", names().join("|"));
const box = (k) => document.querySelector(`tr[data-row="${k}"] input`);
const change = (k, on) => {
  box(k).checked = on;
  box(k).dispatchEvent(new Event("change", {bubbles: true}));
};
change(0, true); change(1, true);
say("pair", document.getElementById("pair-body").textContent);
change(1, false); change(2, true);
say("strangers", document.getElementById("pair-body").textContent);
say("title", document.title);
</script>
"""


def in_browser(tmp_path, text, act=ACT, options=()):
    """What the body's data- attributes say in the end, after a script has acted."""
    page = tmp_path / "acted.html"
    page.write_text(text.replace("</body>", act + "</body>"))
    command = [BROWSER, *QUIET, *options, f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{page}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return dict(
        re.findall(r'data-(\w+)="([^"]*)"', re.search("<body[^>]*>", done.stdout)[0])
    )


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_in_a_browser_it_sorts_filters_and_compares(tmp_path, entries):
    text = written(tmp_path, entries)
    found = in_browser(tmp_path, text)
    headlines = {e.name: e.summary["robust_accuracy"]["value"] for e in entries[:3]}
    order = [name for name in found["up"].split("|") if name in headlines]
    assert order == sorted(headlines, key=headlines.get)
    assert found["down"].split("|") == found["up"].split("|")[::-1]
    assert found["word"].startswith("fresh") and "elsewhere" not in found["word"]
    assert found["filtered"] == "elsewhere"
    assert "robust accuracy" in found["pair"] and "points" in found["pair"]
    assert "share no image" in found["strangers"]
    assert found["title"] == "4 runs"  # no name has run as a script


CLICK = """
<script>
addEventListener("load", () => setTimeout(
  () => document.querySelector(`tr[data-row="ROW"] td.run a`).click(), 100));
</script>
"""
REPORT = """
<!DOCTYPE html><html><body><script>
document.body.setAttribute("data-arrived", "NAME");
document.body.setAttribute("data-address", location.href);
</script></body></html>
"""


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
@pytest.mark.parametrize("row", [0, 3])
def test_in_a_browser_a_click_on_a_run_leads_to_its_report(tmp_path, entries, row):
    """Also where folder and file are called like a scheme, a query and a fragment."""
    for number in (0, 3):
        path = entries[number].report
        path.parent.mkdir()
        path.write_text(REPORT.replace("NAME", f"report {number}"))
    text = written(tmp_path, entries)
    click = CLICK.replace("ROW", str(row))
    found = in_browser(tmp_path, text, click, ["--virtual-time-budget=5000"])
    assert found["arrived"] == f"report {row}"
    assert unquote(found["address"]) == f"file://{entries[row].report}"
