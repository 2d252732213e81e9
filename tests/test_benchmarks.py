"""The benchmarks: their works are what they say, and both frameworks compute the same."""

import pathlib
import re
import subprocess
import sys

import pytest

from benchmarks import report, worker
from benchmarks.works import MATMUL, Peer, Work, chosen, works
from jaxpure.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


def test_works_are_chosen_by_name_and_in_the_order_given():
    assert list(chosen("pgd, chain", quick=False)) == ["pgd", "chain"]
    assert list(chosen(None, quick=False)) == list(works(quick=False))


def test_the_quick_ones_leave_out_what_is_the_same_at_their_size():
    assert "published_chain" not in chosen(None, quick=True)
    assert "published_chain" in chosen("published_chain", quick=True)


def test_an_unknown_work_lists_the_known_ones():
    with pytest.raises(UserError, match=r"pdg.*chain_gradient.*pgd.*Did you mean 'pgd'"):
        chosen("chain,pdg", quick=False)


@pytest.mark.parametrize("quick", [False, True])
def test_every_peer_names_a_function_of_the_package(quick):
    for work in works(quick).values():
        names = [peer.task for peer in (MATMUL, *work.peers)] + [work.ready]
        for name in filter(None, names):
            module, function = name.split(".")
            text = (ROOT / "benchmarks" / f"{module}.py").read_text()
            assert re.search(rf"^def {function}\(", text, re.M), name


WORK = Work("two steps", 10, (Peer("ours", ""), Peer("theirs", ""), Peer("other", "")), 1)
MEASURED = {
    "ready": [{"differ": 1e-6}],
    MATMUL.name: [{"first": 1, "later": 0.1, "mib": 1, "operations": 1e9}] * 3,
    "ours": [
        {"first": first, "later": later, "mib": 100, "operations": 4e9, "evaluations": 2}
        for first, later in ((9, 2), (3, 1), (5, 4))
    ],
    "theirs": [{"first": 3, "later": 3, "mib": 50}] * 3,
    "other": [{"error": "other is not installed"}],
}


def test_rows_are_medians_beside_the_first_peer():
    rows = report.summarized(WORK, MEASURED)["rows"]
    ours, theirs = rows["ours"], rows["theirs"]
    assert (ours["seconds"], ours["lowest"], ours["highest"]) == (2, 1, 4)
    assert ours["compile"] == 7  # of the first process, that had no cache
    assert (ours["ratio"], theirs["ratio"]) == (1, 1.5)
    assert ours["images_a_second"] == 5
    assert ours["share"] == pytest.approx(4e9 / 2 / 1e10)
    assert theirs["share"] == pytest.approx(4e9 / 3 / 1e10)


def test_what_is_not_there_says_so_in_its_cell(tmp_path):
    works = {"chain": report.summarized(WORK, MEASURED)}
    results = {"machine": {"cores": 2}, "quick": True, "repeats": 3, "works": works}
    table = report.table(results)
    assert "| other | other is not installed |" in table
    assert "| theirs | 3 (3 to 3) | 3.33 | 1.50 |" in table
    assert "says anything of speed" in table
    report.plot(results, tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()


def test_nothing_is_measured_where_the_preparation_fails():
    rows = report.summarized(WORK, {"ready": [{"error": "no weights"}]})["rows"]
    assert {row["error"] for row in rows.values()} == {"no weights"}


def test_curves_are_of_what_is_varied():
    rows = {"batch 1": {"seconds": 1.0}, "batch 4": {"seconds": 2.0}, "steps 2": {}}
    assert report._curves(rows) == {"batch": [(1, 1.0), (4, 2.0)]}


def test_a_library_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "benchmarks.attacks_torch", raising=False)
    peer = "Foolbox on PyTorch, channels last"
    found = worker.main("pgd", peer, str(tmp_path), quick=True)
    assert re.match("torch is not installed: pip install", found["error"])


@pytest.mark.slow
@pytest.mark.parametrize("gradient", [False, True])
def test_the_chain_is_the_same_in_both_frameworks(tmp_path, gradient):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from benchmarks import chains_shared, chains_torch

    found = chains_shared.ready(str(tmp_path), "tiny", gradient)
    assert found["differ"] < 1e-4
    task = chains_torch.task(
        str(tmp_path), "tiny", steps=3, images=2, gradient=gradient, compiled=False
    )
    task.call()
    assert task.facts()["evaluations"] == (6 if gradient else 3)


@pytest.mark.slow
def test_the_classifier_is_the_same_in_both_frameworks(tmp_path):
    pytest.importorskip("torch")
    from benchmarks import attacks_shared

    assert attacks_shared.ready(str(tmp_path))["differ"] < 1e-4


def test_what_runs_pytorch_is_free_of_jax():
    """So that the memory of its processes is its own."""
    code = "import sys, benchmarks.worker, benchmarks.works; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
