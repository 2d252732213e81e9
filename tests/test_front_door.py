"""`import jaxpure as jp`: its names are what they say, whatever was imported before."""

import importlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

import jaxpure as jp
from jaxpure.errors import UserError
from jaxpure.keys import noise_at, part


@pytest.mark.parametrize("name", jp.__all__)
def test_every_name_is_there_and_is_not_hidden_by_a_module(name):
    for module in ("api", "evaluation.evaluate", "evaluation.paired", "data", "weights"):
        importlib.import_module(f"jaxpure.{module}")
    found = getattr(jp, name)
    is_module = name in jp._MODULES
    assert isinstance(found, types.ModuleType) == is_module
    assert name in dir(jp)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'purify'"):
        _ = jp.purify


def test_importing_it_imports_no_jax():
    code = "import sys, jaxpure; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def noisy(key, x):
    return x + 0.05 * noise_at(part(key, "noise"), 0, x)


def linear(x):
    rows = np.random.default_rng(0).normal(size=(x.size, 4)).astype(np.float32)
    return x.ravel() @ rows


def arrays(n=6):
    images = np.random.default_rng(1).uniform(size=(n, 4, 4, 1)).astype(np.float32)
    labels = np.array([int(np.argmax(linear(x))) for x in images])
    return jp.data.from_arrays(images, labels, num_classes=4)


def evaluate(**changes):
    settings = {
        "ball": "linf(0.1)",
        "key": jax.random.key(0),
        "judging_keys": 3,
        "batch_size": 6,
    }
    defense = jp.defense(noisy, linear)
    return jp.evaluate(
        defense, "pgd(num_steps=3,step_size=0.05)", arrays(), **settings | changes
    )


def test_bare_functions_make_a_defense_and_its_result_reads_itself(tmp_path):
    result = evaluate()
    text = str(result)
    assert "pgd(" in text and "worst of N" in text and "L-inf" in text
    path = tmp_path / "result.npz"
    result.save(path)
    again = jp.load_result(path)
    np.testing.assert_array_equal(again.logits, result.logits)
    assert again.about == result.about and str(again) == text
    table = result.to_pandas()
    assert len(table) == 6 and list(table["index"]) == list(range(6))


def test_a_folder_makes_it_resumable(tmp_path):
    first = evaluate(folder=tmp_path / "run")
    again = evaluate(folder=tmp_path / "run")
    np.testing.assert_array_equal(first.images, again.images)
    with pytest.raises(UserError, match="differ in.*ball"):
        evaluate(folder=tmp_path / "run", ball="linf(0.2)")


def test_two_results_are_compared_on_the_images_they_share():
    gap = jp.compare(evaluate(policy="fresh"), evaluate(policy="replay"))
    assert "paired" in str(gap) or "A - B" in str(gap)


def test_what_does_not_fit_is_told_before_any_work():
    with pytest.raises(UserError, match="unknown attack 'pdg'.*Did you mean 'pgd'"):
        jp.evaluate(jp.defense(noisy, linear), "pdg", arrays(), ball="linf(0.1)", key=0)
    with pytest.raises(UserError, match="unknown gradient"):
        evaluate(gradient="bdpa")
    with pytest.raises(UserError, match="policy"):
        evaluate(policy="replays")
    with pytest.raises(UserError, match="same shape"):
        jp.evaluate(
            jp.defense(lambda key, x: x[1:], linear),
            "pgd",
            arrays(),
            ball="linf(0.1)",
            key=jax.random.key(0),
        )
