"""Nothing that is opened runs code: weights, data, records and runs from strangers.

Each reader of the project is given every file of `malicious`: none may be executed, none
may write outside of its place, and what is refused is refused in a sentence.
"""

import inspect
import json
import pathlib
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from faults import malicious

from checkpoints_convert import sources
from experiments import runs, view
from jaxpure import data, weights
from jaxpure.data import archives
from jaxpure.errors import UserError
from jaxpure.evaluation import lock, records
from jaxpure.evaluation.folder import open_folder
from jaxpure.evaluation.result import load as load_result


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder deep enough that what climbs would land inside of the test's own."""
    return tmp_path_factory.mktemp("malicious")


@pytest.fixture(scope="module")
def files(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(malicious.MARKER, str(place / "it-ran"))
        made = place / "made"
        made.mkdir()
        yield malicious.all_files(made)


@pytest.fixture
def folder(place, request):
    deep = place / request.node.name.replace("[", "-").replace("]", "") / "a" / "b"
    deep.mkdir(parents=True)
    return deep


def test_each_payload_does_run_where_it_is_let(files, place):
    """The test can fail: a careless reader would have left the mark."""
    pickle.loads(files["pickle 2, a call in a state_dict"])
    (place / "it-ran").unlink()
    pickle.loads(files["pickle 0, the shell"])
    (place / "it-ran").unlink()


def as_weights(suffix):
    def read(path):
        weights.load(path.rename(path.with_suffix(suffix)))

    return read


def as_training_state(path):
    weights.load_tree(path, {"step": jnp.zeros(())})


def as_checkpoint(path):
    sources.open_contents(path)


def as_images(path):
    of_class = path.parent / "images" / "cat"
    of_class.mkdir(parents=True)
    path.rename(of_class / "0.png")
    data.load(f"folder({of_class.parent})")


def as_digits_of_tfds(path):
    manual = path.parent / "downloads" / "manual"
    manual.mkdir(parents=True)
    path.rename(manual / "cifar-10-binary.tar.gz")
    data.load(f"cifar10(data_dir={path.parent})")


def as_a_finished_run(path):
    summary = {"dataset": "d", "policy": "replay"}
    path.rename(path.parent / "adversarial.npz")
    runs.judged(runs.Run(epath.Path(path.parent), summary, {}))


def as_a_summary(path):
    path.rename(path.parent / "summary.json")
    runs.read(epath.Path(path.parent))


def as_an_identity(path):
    path.rename(path.parent / "identity.json")
    open_folder(path.parent)


def as_a_result(path):
    load_result(path.rename(path.with_suffix(".npz")))


READERS = {
    "weights": as_weights(".safetensors"),
    "weights of another framework": as_weights(".pt"),
    "a training's state": as_training_state,
    "a checkpoint to convert": as_checkpoint,
    "images": as_images,
    "a published archive": as_digits_of_tfds,
    "a finished run": as_a_finished_run,
    "a summary": as_a_summary,
    "an identity": as_an_identity,
    "a saved result": as_a_result,
}


@pytest.mark.parametrize("reader", READERS)
def test_no_file_is_executed_and_each_is_refused_in_a_sentence(
    files, folder, place, reader
):
    for number, (name, content) in enumerate(files.items()):
        path = folder / str(number) / "file.bin"
        path.parent.mkdir()
        path.write_bytes(content)
        with pytest.raises(UserError) as raised:
            READERS[reader](path)
        assert "\n" not in str(raised.value).strip(), name
        assert not (place / "it-ran").exists(), name
    assert not list(place.rglob("evil*"))


def test_the_converter_refuses_in_words_of_its_own(files, folder, recwarn):
    """torch advises to switch its safety off: that is said to nobody."""
    for number, (name, content) in enumerate(files.items()):
        path = folder / f"{number}.pt"
        path.write_bytes(content)
        with pytest.raises(UserError) as raised:
            sources.open_contents(path)
        said = str(raised.value)
        assert "weights_only" not in said and "will likely" not in said, name
        if "TorchScript" in name:
            assert "is a TorchScript archive" in said, name
            assert "runs no code" in said and "model.state_dict()" in said, name
    assert not [str(w.message) for w in recwarn if "torch" in f"{w.filename} {w.message}"]


def test_records_and_locks_of_strangers_are_passed_over(files, folder, place):
    for number, content in enumerate(files.values()):
        parts = epath.Path(folder / str(number))
        parts.mkdir()
        (parts / "part-000-000000-abcdabcd.jsonl").write_bytes(content)
        assert records.read(parts) == {}
        (parts / "lock-000.json").write_bytes(content)
        with lock.held(parts):
            pass
    assert not (place / "it-ran").exists()


def test_an_archive_of_images_that_climbs_writes_nothing(files, folder, place):
    """Even one with the right checksum: members are read in memory, by their last name."""
    for name in ("tar that climbs", "tar of an absolute path", "tar of links"):
        path = folder / "cifar-10-binary.tar.gz"
        path.write_bytes(files[name])
        with pytest.raises(KeyError):  # none of the batches is in it
            archives._read_cifar10({path.name: path})
    assert not (place / "it-ran").exists() and not list(place.rglob("evil*"))


def test_a_page_over_runs_of_strangers_executes_nothing(files, folder, place):
    for number, content in enumerate(files.values()):
        run = folder / str(number)
        run.mkdir()
        (run / "summary.json").write_bytes(content)
        (run / "config.json").write_text(json.dumps({"config": {}}))
    found, problems = view.entries([epath.Path(folder)])
    assert not found and len(problems) == len(files)
    assert not (place / "it-ran").exists()


HEADERS = {
    "an architecture that is code": {"architecture": "__import__('os').system('id')"},
    "an architecture of dunder names": {"architecture": "__class__(__init__=1)"},
    "a nest of brackets": {"architecture": "unet(channel_mult=" + "[" * 50_000},
    "a nest of closed brackets": {
        "architecture": "unet(channel_mult=" + "[" * 5000 + "]" * 5000 + ")"
    },
    "facts in a nest of brackets": {"trained": "[" * 100_000},
    "facts that are none": {"trained": '{"__class__": 1}'},
    "facts of a wrong type": {"trained": '{"schedule": 5, "timesteps": []}'},
    "a number as facts": {"trained": "5"},
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_of_strange_words_is_refused_in_a_sentence(tmp_path, what):
    path = tmp_path / "x.safetensors"
    metadata = {
        "format": weights.FORMAT,
        "architecture": "unet(image_size=8)",
        "trained": "null",
    }
    weights.save_tree(path, {"params": np.zeros(3, np.float32)}, metadata | HEADERS[what])
    with pytest.raises(UserError) as raised:
        weights.load(path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_a_card_of_a_stranger_is_told(tmp_path):
    path = tmp_path / "x.safetensors"
    weights.save_tree(path, {"a": np.zeros(3, np.float32)}, {"format": weights.FORMAT})
    for content in (b"\x80\x04", b"[" * 100_000, b"5", b"{"):
        path.with_suffix(".json").write_bytes(content)
        with pytest.raises(UserError, match="x.json"):
            weights.card(path)


def test_no_module_of_the_project_unpickles():
    """torch's own reader is called in one place, for tensors alone."""
    root = pathlib.Path(weights.__file__).parents[1]
    words = ("pickle.load", "pickle.Unpickler", "allow_pickle=True", "extractall")
    found = {
        (path.name, word)
        for package in ("jaxpure", "experiments", "checkpoints_convert")
        for path in (root / package).rglob("*.py")
        for word in words
        if word in path.read_text()
    }
    assert not found
    loads = [
        line for line in inspect.getsource(sources).splitlines() if "torch.load(" in line
    ]
    calls = [line for line in loads if "`" not in line]
    assert calls and all("weights_only=True" in line for line in calls)
