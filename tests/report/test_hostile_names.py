"""Names of strangers on the pages: whatever they hold, no page has another tag for it.

Every text of a summary, the names of its fields, of stages, weights, classes, files and
runs is replaced in turn by each of `HOSTILE`; the page must keep its tags, their
attributes' names, and what its scripts say. So must the pages of a training and of the
papers, where all that could be a stranger's is replaced at once.
"""

import base64
import copy
import dataclasses
import functools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from etils import epath

from experiments import config as configs
from experiments import (
    devices,
    dissect_figures,
    events,
    program,
    runs,
    throughput,
    training_page,
    versions,
)
from experiments import weights as named_weights
from experiments.config import PaperConfig, by_name
from experiments.paper import __main__ as paper
from experiments.paper import page as paper_page
from experiments.paper.sections import SECTIONS, Figure
from experiments.tables import page as tables_of
from experiments.tables import rows
from jaxpure import data, models, report
from jaxpure.dissect.results import Result
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
PARSED = ("policy", "norm", "ball", "indices", "task")
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


def all_replaced(values: Any, text: str) -> Any:
    """Nested values with all their texts replaced, but for those that are parsed."""
    if isinstance(values, str):
        return text
    if isinstance(values, dict):
        return {
            name: value if name in PARSED else all_replaced(value, text)
            for name, value in values.items()
        }
    if isinstance(values, list | tuple):
        return type(values)(all_replaced(value, text) for value in values)
    return values


NETWORKS = {
    "classifier": "random:conv_mixer(image_size=8,in_channels=1,num_classes=3,features=4,"
    "depth=1,mean=[0.5],std=[0.5])",
    "denoiser": "random:naf_unet(image_size=8,in_channels=1,out_channels=1,widths=[4],"
    "blocks=[1],time_features=8)",
}


@functools.cache
def network_of(task) -> models.Network:
    network = named_weights.load(NETWORKS[task])
    trained = models.Trained("linear(num_timesteps=50)", 2) if task == "denoiser" else None
    return models.Network(network.architecture, network.params, trained)


def training_report(folder, task, text="") -> str:
    """The page of a training; `text` in place of all that it could be told."""
    config = configs.as_dict(configs.TrainConfig(task=task, min_snr_gamma=5.0))
    claim = {
        "command": "python -m experiments.train",
        "devices": ["cpu"],
        "platform": "a machine",
        "versions": {"jax": "0"},
        "git": "0123456",
    }
    if text:
        config = all_replaced(config, text)
        claim = all_replaced(claim, text) | {"versions": {text: text}}
    measure = training_page.MEASURES[task]
    workdir = epath.Path(folder)
    (workdir / events.FOLDER).mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(claim))
    (workdir / "loss.jsonl").write_text(f'{{"step": 1, "loss": 0.5}}\n{text}\n')
    (workdir / "validation.csv").write_text(
        f"step,images,{measure}_averaged,{measure}_raw\n1,8,0.5,0.25\n{text},8,{text},1\n"
    )
    images = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
    examples = data.from_arrays(images, np.arange(6) % 3, name=text or "digits")
    of_data = configs.DataConfig(**config.pop("data"))
    story = training_page.Story(
        name=text or "tiny",
        config=configs.TrainConfig(**config, data=of_data),
        network=network_of(task),
        dataset=examples,
        test=examples,
        step=1,
        pace=throughput.Pace(1, 1.0, 0.5),
        result=text or "accuracy 50%",
    )
    training_page.write(workdir, story)
    return (workdir / training_page.NAME).read_text()


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("task", NETWORKS)
def test_no_text_changes_the_tags_of_a_trainings_page(tmp_path, task, what):
    plain = training_report(tmp_path / "plain", task)
    page = training_report(tmp_path / "hostile", task, HOSTILE[what])
    assert structure(page) == structure(plain)
    assert page.count("<svg") == 2 and "<img" in page  # all parts of it are there


def papers_report(folder, monkeypatch, text="") -> str:
    """The page of the papers; `text` in place of all that it could be told."""
    plan, section = by_name("digits_paper", PaperConfig), next(iter(SECTIONS))
    fields = {**dataclasses.asdict(plan), "checkpoints": ("a.safetensors",)}
    if text:
        fields = all_replaced(fields, text)
        monkeypatch.setattr(sys, "orig_argv", ["python", text])
        monkeypatch.setattr(versions, "git_commit", lambda: text)
        monkeypatch.setattr(versions, "packages", lambda: {text: text})
        monkeypatch.setattr(devices, "hardware", lambda: text)
    dataset = data.from_arrays(
        np.zeros((2, 8, 8, 1), np.float32), [0, 1], name=text or "digits"
    )
    study: Any = SimpleNamespace(plan=PaperConfig(**fields), dataset=dataset)
    why = text or "a checkpoint is damaged"
    failed = dict.fromkeys(SECTIONS, why)  # as an error says it, with the files' names
    reports = {
        name: paper._report(study, name, tuple(SECTIONS), failed) for name in SECTIONS
    }
    ends = np.ones(1)
    table = Result(
        "sweep",
        why,
        {"label": np.array([why]), "x": ends, "x_low": ends, "x_high": ends},
    )
    draw = functools.partial(
        dissect_figures.dots, table, label="label", value="x", xlabel=why
    )
    reports[section] = reports[section]._replace(
        figures=[Figure("sweep", why, why, draw)],
        findings=[f._replace(ours=why) for f in reports[section].findings],
    )
    facts = paper._facts(study, None, 1.0)
    title = f"The papers on {dataset.name}"
    return paper_page.write(folder, title, reports, facts).read_text()


def tables_page(folder, monkeypatch, text="") -> str:
    """The page of the papers' tables, `text` in all that a run or a path may say."""
    summary = {
        name: {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4}
        for name in ("clean_accuracy", "robust_accuracy", "worst_of_n", "majority_vote")
    }
    summary |= {"num_examples": 4, "seed": 0, "seconds": 1.0, "device_kind": "cpu"}
    told = {"hardware": text or "2 x cpu", "git": text or "abc"}
    if text:
        monkeypatch.setattr(sys, "orig_argv", ["python", text])
        monkeypatch.setattr(versions, "git_commit", lambda: text)
        monkeypatch.setattr(versions, "packages", lambda: {text: text})
        monkeypatch.setattr(program, "run_name", lambda name, config: text)
    plan = rows.plan("digits")
    config = rows.tables(plan)["2"].lines[0].runs["fresh"]
    config = dataclasses.replace(config, denoiser=text or "digits_denoiser")
    lines = tuple(
        rows.Line((text or "weights", "BPDA"), {policy: config})
        for policy in (rows.FRESH, rows.REPLAY)
    )
    table = rows.tables(plan)["3"]._replace(lines=lines)
    run = runs.Run(epath.Path(folder / "run"), summary | told, {})
    found = {"3": [tables_of.Cells({rows.FRESH: run}, None), tables_of.Cells({}, None)]}
    why = {program.run_name(plan.config, config): text or "it does not fit"}
    folder.mkdir()
    path = tables_of.write(epath.Path(folder), plan, {"3": table}, found, why)
    return path.read_text()


@pytest.mark.parametrize("what", HOSTILE)
def test_no_text_changes_the_tags_of_the_tables_page(tmp_path, monkeypatch, what):
    plain = tables_page(tmp_path / "plain", monkeypatch)
    page = tables_page(tmp_path / "hostile", monkeypatch, HOSTILE[what])
    assert structure(page) == structure(plain)
    assert plain.count("it does not fit") and "50.0%" in page


def drawings(page: str) -> list[Counter]:
    """Tags of the drawings that a page holds as images."""
    start = "data:image/svg+xml;base64,"
    links = [link for link in Structure(page).links if link.startswith(start)]
    svgs = [base64.b64decode(link.removeprefix(start)).decode() for link in links]
    return [structure(svg)[0] for svg in svgs]


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:constrained_layout")
@pytest.mark.parametrize("what", HOSTILE)
def test_no_text_changes_the_tags_of_the_papers_page(tmp_path, monkeypatch, what):
    plain = papers_report(tmp_path / "plain", monkeypatch)
    page = papers_report(tmp_path / "hostile", monkeypatch, HOSTILE[what])
    assert structure(page) == structure(plain)
    assert len(drawings(page)) == 1 and drawings(page) == drawings(plain)
