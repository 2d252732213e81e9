"""The command refuses to go on with a run whose data set was changed meanwhile."""

from unittest import mock

import numpy as np
import pytest
from PIL import Image

from experiments import run
from jaxpure.evaluation import lanes
from tests.experiments.commands import TINY


class KilledError(Exception):
    """In place of a kill: it ends the command wherever it comes."""


@pytest.fixture
def pictures(tmp_path):
    """Ten classes of one image each, in a folder."""
    random = np.random.default_rng(0)
    for label in range(10):
        place = tmp_path / "pictures" / f"class{label}"
        place.mkdir(parents=True)
        pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(place / "0.png")
    return tmp_path / "pictures"


def test_a_changed_image_is_named_and_nothing_is_done(pictures, tmp_path, capsys):
    workdir = tmp_path / "run"
    options = [option for option in TINY if "num_examples" not in option]
    command = ["--config=cifar_bpda_replay", f"--workdir={workdir}", "--cpu_devices=0"]
    command += [f"--config.data=folder('{pictures}',image_size=32)", *options]
    calls = iter([0, KilledError])

    def judge(where, defense, policy, root, indices, images, keys):
        if next(calls) is KilledError:
            raise KilledError
        return np.zeros((len(indices), keys, 10), np.float32)

    with (
        mock.patch.object(run.cost, "announce"),  # it would measure, and so compile, a step
        mock.patch.object(lanes, "judge", judge),
        pytest.raises(KilledError),
    ):
        run.command(command)
    before = {path: path.read_bytes() for path in workdir.rglob("*.json*")}
    assert any("clean" in path.parts for path in before)

    changed = pictures / "class3" / "0.png"
    pixels = np.asarray(Image.open(changed)).copy()
    flipped = np.zeros_like(pixels)
    flipped[16, 16] = 128  # the border is cropped away
    Image.fromarray(pixels ^ flipped).save(changed)
    capsys.readouterr()
    with mock.patch.object(lanes, "judge", side_effect=AssertionError("work was begun")):
        assert run.command(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and "example 3" in line and "another folder" in line
    assert before == {path: path.read_bytes() for path in workdir.rglob("*.json*")}

    # Without its config.json the folder is no other config's, and is its own again.
    (workdir / "config.json").unlink()
    (workdir / "summary.json").write_text("{}")  # of whatever run
    Image.fromarray(pixels).save(changed)
    other = [*command, "--config.seed=5"]
    with mock.patch.object(lanes, "judge", side_effect=AssertionError("work was begun")):
        assert run.command(other) == 2
    assert "they differ in" in capsys.readouterr().err
    assert not (workdir / "config.json").exists()
    with (
        mock.patch.object(run.cost, "announce"),
        mock.patch.object(lanes, "judge", side_effect=KilledError),
        pytest.raises(KilledError),  # it came to the work
    ):
        run.command(command)
