"""Names of strangers on the pages: whatever they hold, no page has another tag for it.

Every text of a summary, the names of its fields, of stages, weights, classes, files and
runs is replaced in turn by each of `HOSTILE`; the page must keep its tags, their
attributes' names, and what its scripts say.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from etils import epath

from jaxpure import report
from jaxpure.evaluation.summary import summarize
from jaxpure.report import view
from tests.fakes import fake_result

PIECES = (
    "</script><script>document.title='broken'</script>",
    "</title><script>1</script><title>",
    "\"' onerror=alert(1) x='\"><img src=x onerror=alert(1)>",
    "--><!--<script>",
    "&lt;script&gt;&#60;b&#62;</td></tr></table>",
    "{{ 7 * 7 }}{% raw %}<b>{# #}",
    "\x00\x1b[31m\u202e\u2028<b>",
)
HOSTILE = {
    "tags, quotes, comments and templates": "".join(PIECES),
    "an open quote": "'",
    "a scheme": "javascript:alert(1)",
}
PARSED = ("policy", "norm", "ball", "indices")
"""Fields that the pages read as one of a few words, and refuse or pass over otherwise."""


class Structure(HTMLParser):
    """The tags of a page with their attributes' names, and what is in its scripts."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.links = Counter(), [], []
        self.inside = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag, tuple(sorted(name for name, _ in attrs))] += 1
        self.links += [value for name, value in attrs if name in ("href", "src")]
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "script"

    def handle_comment(self, data):
        self.tags["comment", ()] += 1

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def texts(values: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all texts in nested values, but for those that are parsed."""
    if isinstance(values, str):
        yield path
    elif isinstance(values, dict):
        for name, value in values.items():
            if name not in PARSED:
                yield from texts(value, (*path, name))
    elif isinstance(values, list | tuple):
        for i, value in enumerate(values):
            yield from texts(value, (*path, i))


def replaced(values: Any, path: tuple, text: str) -> Any:
    changed = copy.deepcopy(values)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = text
    return changed


def summary_of(defended, undefended):
    run = {
        "config": {
            "data": "digits",
            "classifier": "x.safetensors",
            "attack": "pgd",
            "ball": "linf(8/255)",
        },
        "name": "fake",
        "seed": 0,
        "seconds": 61.0,
        "images_per_second": 0.5,
        "num_devices": 1,
        "device_kind": "cpu",
        "versions": {"jax": "0"},
        "git": "0123456",
        "warnings": ["a warning"],
    }
    return summarize(defended, undefended) | run


@pytest.fixture(scope="module")
def results():
    return tuple(fake_result((8, 8, 1), n=6, seed=i) for i in (0, 1))


def report_page(folder, summary, results) -> str:
    path = epath.Path(folder) / "report.html"
    report.write(path, summary, *results)
    return path.read_text()


def structure(page: str) -> tuple[Counter, list[str]]:
    found = Structure(page)
    assert not [link for link in found.links if str(link).startswith("javascript")]
    return found.tags, found.scripts


@pytest.mark.parametrize("what", HOSTILE)
def test_no_text_of_a_summary_changes_the_tags_of_a_report(tmp_path, results, what):
    summary = summary_of(*results)
    plain = structure(report_page(tmp_path, summary, results))
    paths = list(texts(summary))
    assert ("dataset",) in paths and ("device_kind",) in paths
    for path in paths:
        page = report_page(tmp_path, replaced(summary, path, HOSTILE[what]), results)
        assert structure(page) == plain, path
    fields = {**summary["config"], HOSTILE[what]: HOSTILE[what]}
    fields.pop("attack")  # as many rows
    page = report_page(tmp_path, summary | {"config": fields}, results)
    assert structure(page) == plain


@pytest.mark.parametrize("what", HOSTILE)
def test_nor_do_names_in_an_evaluation(tmp_path, results, what):
    """Of stages and of all that a result says about itself."""
    summary = summary_of(*results)
    plain = structure(report_page(tmp_path, summary, results))
    for name in ("broken_by", "about"):
        changed = []
        for result in results:
            value = getattr(result, name)
            if name == "about":
                value = {
                    key: HOSTILE[what]
                    if isinstance(text, str) and key not in PARSED
                    else text
                    for key, text in value.items()
                }
            else:
                value = np.where(value == "", "", HOSTILE[what])
            changed.append(copy.copy(result))
            object.__setattr__(changed[-1], name, value)
        page = report_page(tmp_path, summary, tuple(changed))
        assert structure(page) == plain


@pytest.mark.parametrize("what", HOSTILE)
def test_no_text_changes_the_tags_of_the_page_over_runs(tmp_path, results, what):
    summary = summary_of(*results)

    def page(**changes) -> str:
        options = {"name": "run", "defense": "diffpure", "summary": summary} | changes
        place = (
            epath.Path(tmp_path)
            / options["name"].replace("/", "∕").replace("\0", "")
            / "r.html"
        )
        first = view.Entry(
            options["name"], place, options["summary"], results[0], options["defense"]
        )
        second = view.Entry("other", None, summary, results[1], "identity")
        view.write(tmp_path / "runs.html", [first, second])
        return (tmp_path / "runs.html").read_text()

    plain = structure(page())
    for changes in (
        {"name": HOSTILE[what]},
        {"defense": HOSTILE[what]},
        *({"summary": replaced(summary, path, HOSTILE[what])} for path in texts(summary)),
    ):
        tags, scripts = structure(page(**changes))
        # A name of its own may have an entry of its own in a filter.
        assert tags - plain[0] <= Counter({("option", ()): 1}), changes
        assert plain[0] <= tags and scripts == plain[1], changes
