"""Verification: a sound record passes every rule, and each rule fails for its own fault."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from evaluation import toys

from jaxpure import keys
from jaxpure.errors import UserError
from jaxpure.evaluation import AttackError, lanes, readings, records, result
from jaxpure.evaluation.folder import open_folder
from jaxpure.evaluation.identity import about_digest
from jaxpure.evaluation.judging import judge_more, rejudge
from jaxpure.evaluation.summary import summarize
from jaxpure.evaluation.verify import RULES, compatible, verify

ONE = lanes.local_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """`(folder, result, defense)` of one evaluation, which tests copy and harm."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    defense, attack, dataset = toys.problem(9)
    return folder, toys.run(folder, defense, attack, dataset), defense


@pytest.fixture
def copy(finished, tmp_path):
    return epath.Path(shutil.copytree(finished[0], tmp_path / "copy"))


def failing(findings):
    return {finding.rule for finding in findings if not finding.ok}


def change(folder, place, alter, whole=True):
    """Alters the first row of a place; with `whole` its digest is made to fit."""
    path = min((folder / place).glob("part-*.jsonl"))
    first, *others = path.read_text().splitlines()
    row = {k: records._decode(v) for k, v in json.loads(first).items()}
    alter(row)
    if whole:
        row["digest"] = records._digest({k: v for k, v in row.items() if k != "digest"})
    encoded = {name: records._encode(value) for name, value in row.items()}
    path.write_text("\n".join([json.dumps(encoded), *others]) + "\n")


def test_what_was_made_passes_every_rule_from_its_files_alone(finished, copy):
    told = summarize(finished[1])
    assert told["hash"] == finished[1].about["hash"]
    findings = verify(copy, told)
    assert failing(findings) == set(), [str(f) for f in findings]
    assert [finding.rule for finding in findings][:-1] == [rule.name for rule in RULES]
    stored = open_folder(copy)
    toys.assert_same(stored.result, finished[1])
    assert stored.result.about == finished[1].about
    assert failing(verify(finished[1], summarize(finished[1]))) == set()


def set_to(**values):
    return lambda row: row.update(values)


def brighten(row):
    row["image"] = np.clip(row["image"] + np.float32(0.2), 0, 1)


def beyond(row):
    row["image"] = row["image"] + np.float32(2)


ATTACKED, JUDGED = "stages/0-pgd/attacked", "stages/0-pgd/judged"
FAULTS = {
    "an image, unnoticed by its digest": (
        ATTACKED,
        brighten,
        False,
        {"digests", "in the ball"},
    ),
    "an image in a sound row": (ATTACKED, brighten, True, {"in the ball"}),
    "an image out of range": (ATTACKED, beyond, True, {"in the ball"}),
    "logits": (JUDGED, set_to(logits=np.zeros((3, 5), np.float32)), False, {"digests"}),
    "fewer keys": (
        JUDGED,
        set_to(logits=np.zeros((2, 5), np.float32)),
        True,
        {"judging keys"},
    ),
    "more steps": (ATTACKED, set_to(attack_calls=np.int32(99)), True, {"budget"}),
    "fewer evaluations": (ATTACKED, set_to(gradient_evaluations=0), True, {"budget"}),
    "iterates": (ATTACKED, set_to(nonfinite=np.int32(1)), True, {"finite search"}),
    "whose it is": (ATTACKED, set_to(belongs="another"), True, {"digests"}),
    "a clean image": ("clean", brighten, True, {"examples"}),
    "a label": ("clean", set_to(label=77), True, {"examples"}),
}


@pytest.mark.parametrize("what", FAULTS)
def test_each_alteration_is_found_by_the_rule_for_it(copy, what):
    place, alter, whole, rules = FAULTS[what]
    change(copy, place, alter, whole)
    found = failing(verify(copy))
    assert rules <= found, [str(f) for f in verify(copy)]
    assert found <= rules | {"in the ball", "complete", "examples"}


@pytest.mark.parametrize("place", ["clean", ATTACKED, JUDGED])
def test_missing_records_are_not_complete(copy, place):
    min((copy / place).glob("part-*.jsonl")).unlink()
    assert failing(verify(copy)) == {"complete"}


def test_two_records_that_disagree_are_not_exactly_one(copy):
    path = min((copy / JUDGED).glob("part-*.jsonl"))
    (copy / JUDGED / "part-000-000099-abcdabcd.jsonl").write_text(path.read_text())
    assert failing(verify(copy)) == set()  # twice the same: two writers did it
    change(copy, JUDGED, set_to(logits=np.zeros((3, 5), np.float32)))
    assert "complete" in failing(verify(copy))


def test_a_damaged_line_is_told(copy):
    (copy / "clean" / "part-000-000099-abcdabcd.jsonl").write_bytes(b"\x00\xff[[[\n")
    assert failing(verify(copy)) == {"readable"}


def same_for_all(key, index):
    del index
    return key


def same_for_pairs(key, index):
    return keys.example_key(key, index // 2)


@pytest.mark.parametrize(
    ("name", "derivation"),
    [
        ("defense_key", same_for_all),
        ("example_key", same_for_all),
        ("example_key", same_for_pairs),
    ],
)
def test_equal_keys_are_found(copy, monkeypatch, name, derivation):
    """Where draws of an example, or two examples, were given the same key."""
    monkeypatch.setattr(f"jaxpure.evaluation.verify.{name}", derivation)
    (finding,) = [f for f in verify(copy) if not f.ok]
    assert finding.rule == "distinct keys"
    assert "same key" in finding.problems[0]


def test_another_protocol_is_found(copy):
    path = copy / records.IDENTITY
    content = json.loads(path.read_text())
    content["parts"]["version"] = "1"
    path.write_text(json.dumps(content))
    assert failing(verify(copy)) == {"protocol version", "digests"}


def test_numbers_that_the_records_do_not_give_are_found(finished, copy):
    told = summarize(finished[1])
    told["robust_accuracy"]["value"] += 1 / 9
    (finding,) = [f for f in verify(copy, told) if not f.ok]
    assert finding.rule == "reported numbers"
    assert "robust_accuracy is reported as" in finding.problems[0]
    assert failing(verify(finished[1], {"policy": "fresh"})) == {"reported numbers"}
    assert failing(verify(copy, {})) == {"reported numbers"}  # of a run all is told
    assert failing(verify(finished[1], {"hash": "0" * 16})) == {"reported numbers"}


def test_numbers_of_the_classifier_alone_are_computed_too(finished, copy):
    told = summarize(finished[1], finished[1])
    assert failing(verify(copy, told, copy)) == set()
    told["robust_accuracy_undefended"]["value"] = 0.0
    (finding,) = [f for f in verify(copy, told, copy) if not f.ok]
    assert "robust_accuracy_undefended is reported as 0" in finding.problems[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("ball_spec", "linf(0.4)"), ("judging_keys", 2), ("policy", "fresh"), ("key", [0, 1])],
)
def test_no_other_protocol_is_told(copy, name, value):
    """Rows made at one eps are not reported at another, whatever else is changed along."""
    path = copy / records.IDENTITY
    content = json.loads(path.read_text())
    assert content["about"][name] != value
    content["about"][name] = value
    path.write_text(json.dumps(content))
    assert "protocol" in failing(verify(copy))
    content["parts"]["about"] = about_digest(content["about"])
    path.write_text(json.dumps(content))
    assert "digests" in failing(verify(copy))


def test_altered_rows_make_no_result(copy):
    change(copy, JUDGED, set_to(logits=np.zeros((3, 5), np.float32)), whole=False)
    with pytest.raises(records.RecordError, match="was altered after it was made"):
        _ = open_folder(copy).result


def test_images_outside_the_ball_make_no_result(copy):
    change(copy, ATTACKED, brighten)
    with pytest.raises(AttackError, match="the image that is kept for example"):
        _ = open_folder(copy).result


# A saved result.


def test_a_saved_result_is_the_same_and_its_alterations_are_refused(finished, tmp_path):
    path, found = tmp_path / "result.npz", finished[1]
    found.save(path)
    again = result.load(path)
    toys.assert_same(found, again)
    assert again.about == found.about
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    about = json.loads(str(arrays["about"])) | {"ball_spec": "linf(0.4)"}
    for altered in (
        {"logits": arrays["logits"] + 1},
        {"about": np.array(json.dumps(about))},
    ):
        np.savez(path, **(arrays | altered))
        with pytest.raises(result.ResultError, match="altered after it was saved"):
            result.load(path)
    moved = dataclasses.replace(found, images=found.images + np.float32(0.5))
    moved.save(path)
    with pytest.raises(AttackError, match="outside L-inf"):
        result.load(path)
    assert "in the ball" in failing(verify(moved))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"5", b"\x80\x04K\x05."])
def test_files_that_are_no_result_are_told(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(result.ResultError, match="is not a readable result"):
        result.load(tmp_path / "x.npz")


# Against a reference, and judged anew.


def test_compatible_with_itself_and_not_with_another_defense(finished):
    found = finished[1]
    agreements = compatible(found, found)
    assert all(each.ok and each.p_value == 1 for each in agreements)
    assert "same images" in agreements[0].test
    n = 40
    wide = {
        f.name: np.repeat(getattr(found, f.name), n, 0)
        for f in dataclasses.fields(found)
        if f.name != "about"
    }
    right = np.eye(5, dtype=np.float32)[wide["labels"]][:, None].repeat(3, 1)
    one = dataclasses.replace(found, **{**wide, "logits": right})
    other = dataclasses.replace(found, **{**wide, "logits": -right})
    verdicts = {each.reading: each.ok for each in compatible(one, other)}
    assert verdicts == {
        "clean headline": True,
        "headline": False,
        "worst of N": False,
        "majority vote": False,
    }
    elsewhere = dataclasses.replace(one, indices=one.indices + 1)
    assert "two samples" in compatible(one, elsewhere)[0].test
    assert all(each.ok for each in compatible(one, elsewhere))
    with pytest.raises(UserError, match="level=0"):
        compatible(found, found, level=0)


def test_judged_anew_is_the_same_to_the_bit_and_differences_are_told(finished):
    _, found, defense = finished
    again = rejudge(found, defense, 5, mesh=ONE)
    assert again.ok and again.equal == again.total and again.n == 5
    other = dataclasses.replace(found, logits=found.logits + np.float32(0.5))
    assert not rejudge(other, defense, 5, mesh=ONE).ok
    flipped = dataclasses.replace(found, logits=-found.logits)
    assert rejudge(flipped, defense, 9, mesh=ONE).changed
    weaker = dataclasses.replace(defense, purifier=jax.tree_util.Partial(toys.noisy, 0.1))
    with pytest.raises(UserError, match="another defense"):
        rejudge(found, weaker, 5, mesh=ONE)


def test_more_keys_extend_the_first_ones_and_are_kept(finished, copy, monkeypatch):
    _, found, defense = finished
    more = judge_more(copy, defense, 7, mesh=ONE)
    assert more.logits.shape == (9, 7, 5) and more.about["judging_keys"] == 7
    np.testing.assert_array_equal(more.logits[:, :3], found.logits)
    np.testing.assert_array_equal(more.clean_logits[:, :3], found.clean_logits)
    monkeypatch.setattr(lanes, "judge", None)  # nothing is left to do
    toys.assert_same(judge_more(copy, defense, 7, mesh=ONE), more)
    assert failing(verify(copy)) == set()
    monkeypatch.undo()
    anew = judge_more(copy, defense, 3, seed=11, mesh=ONE)
    assert not np.array_equal(anew.logits, found.logits)
    assert rejudge(anew, defense, 3, mesh=ONE).ok


def test_reducers_are_chosen_when_read():
    logits = np.eye(3)[[[0, 0, 1, 2, 2], [0, 0, 0, 1, 2]]]
    labels = np.array([0, 0])
    expected = {
        "mean": 0.5,
        "vote": 1.0,  # of equals the lowest class
        "mean_logits": 1.0,
        "worst": 0.0,
        "at_least_2": 1.0,
        "at_least_3": 0.5,
        "at_least_4": 0.0,
        "headline": 1.0,
    }
    for name, value in expected.items():
        assert readings.reduce(logits, labels, name).value == value, name
    for wrong in ("at_least_0", "at_least_6", "at_least_K", "votes", "unseens"):
        with pytest.raises(UserError, match="at_least_|reducer"):
            readings.reduce(logits, labels, wrong)
