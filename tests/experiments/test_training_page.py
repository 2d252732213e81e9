"""What a training leaves: its page, its events, its pace; once, also after a break."""

import csv
import json
import re
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from experiments import config as configs
from experiments import events, throughput, train, training_log, training_page
from experiments import training_pictures as shown
from experiments.arguments import Arguments
from experiments.training_log import TrainingLog
from jaxpure import models, weights
from jaxpure.models.layers import SAME_3X3, conv2d
from jaxpure.report import curve

COMMON = dict(
    num_steps=6,
    batch_size=16,
    warmup_steps=1,
    log_steps=2,
    validation_steps=2,
    checkpoint_seconds=0,
)
CONFIGS = {
    "classifier": configs.TrainConfig(
        architecture="conv_mixer(features=8,depth=1,mean=[0.3],std=[0.38])", **COMMON
    ),
    "denoiser": configs.TrainConfig(
        task="denoiser",
        architecture="naf_unet(widths=[4],blocks=[1],time_features=8)",
        schedule="linear(num_timesteps=50)",
        **COMMON,
    ),
}


class Broken(Exception):
    """What ends a training in a test."""


def trained(config, workdir, export=False):
    name = f"digits_{config.task}"  # of which the card says how it differs
    arguments = Arguments({"export": export, "data_dir": None}, name)
    train.train(config, arguments, epath.Path(workdir))
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished workdir of each task, made when it is first asked for."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "SIDE", 64)

        def finished(task):
            if task not in made:
                made[task] = trained(CONFIGS[task], tmp_path_factory.mktemp(task))
            return made[task]

        yield finished


def page_of(workdir):
    return (workdir / "report.html").read_text()


def table_of(workdir):
    with (workdir / "validation.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def losses_of(workdir):
    return [json.loads(line) for line in (workdir / "loss.jsonl").open()]


@pytest.mark.parametrize("task", CONFIGS)
def test_the_page_has_curves_and_pictures_and_the_numbers_that_were_logged(runs, task):
    workdir = runs(task)
    page, last = page_of(workdir), table_of(workdir)[-1]
    assert page.count("<svg") == 2
    assert f"training loss {losses_of(workdir)[-1]['loss']:.4f}" in page
    measure, scale, form = {
        "classifier": ("accuracy", 100, "{:.1f}%"),
        "denoiser": ("loss", 1, "{:.4f}"),
    }[task]
    for each in ("averaged", "raw"):
        assert f"{each} {form.format(scale * last[f'{measure}_{each}'])}" in page
    card = json.loads((workdir / f"digits_{task}.json").read_text())
    for told in (card["result"], card["throughput"], "6 of 6, 16"):
        assert told in page
    assert card["images_seen"] == 96 and "<td>96</td>" in page
    pace = throughput.load(epath.Path(workdir))
    assert pace.steps == 6 and pace.text(16) == card["throughput"]
    assert "% of matmul" in card["throughput"]
    # It opens from a disk: all that it loads is in it.
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {x for x in loaded if not x.startswith("data:")} == {
        "loss.jsonl",
        "validation.csv",
    }
    assert "<script" not in page and not re.search(r"url\((?!#)", page)


def test_a_classifiers_page_shows_what_it_gets_wrong(runs):
    page = page_of(runs("classifier"))
    wrong, among = re.search(r"get (\d+) of the first (\d+) images", page).groups()
    last = table_of(runs("classifier"))[-1]
    assert int(among) == 500
    assert 1 - int(wrong) / 500 == pytest.approx(last["accuracy_averaged"], abs=1e-6)
    assert page.count('alt="test image') == shown.MISTAKES
    found = re.findall(r"<b>class (\d), [\d.e-]+%</b>says (\d)", page)
    assert len(found) == shown.MISTAKES and all(label != says for label, says in found)


def test_a_denoisers_page_shows_samples_and_four_noise_levels(runs):
    page = page_of(runs("denoiser"))
    assert '<h2 id="samples">Samples' in page and "noise alone" in page
    assert page.count('alt="sample"') == shown.SAMPLES
    for name, rows in (("noised", 4), ("denoised", 4), ("test image", 1)):
        assert page.count(f'alt="{name} of example') == rows * shown.DENOISED


def test_a_denoiser_of_some_timesteps_starts_from_noised_test_images(runs):
    network = weights.load(runs("denoiser") / "digits_denoiser.safetensors")
    trained = models.Trained("linear(num_timesteps=50)", 8)
    network = models.Network(network.architecture, network.params, trained)
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    found = training_page._samples(network, images)
    assert not found["from_noise"] and found["timestep"] == 7 and found["steps"] == 8
    names = [[image["name"] for image in pair] for pair in found["pairs"]]
    assert names == 3 * [["noised test image", "reverse chain"]]
    signal = trained.schedule.alphas_cumprod[7]
    noise = (2 * shown.samples(network, images).starts - 1) - np.sqrt(signal) * (
        2 * images - 1
    )
    assert np.std(noise) == pytest.approx(np.sqrt(1 - signal), rel=0.2)


def test_denoising_in_one_call_gives_the_image_to_one_who_knows_the_noise(runs):
    """The clean image that the true noise implies is the image."""
    network = weights.load(runs("denoiser") / "digits_denoiser.safetensors")
    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    for level in shown.denoised(network, images):
        x, noised = 2 * images - 1, 2 * level.noised - 1
        noise = (noised - np.sqrt(level.signal) * x) / np.sqrt(1 - level.signal)
        told = network(jnp.asarray(noised), jnp.full(2, level.timestep))
        implied = x + np.sqrt(1 / level.signal - 1) * (noise - told)
        np.testing.assert_allclose(
            2 * level.denoised - 1, np.clip(implied, -1, 1), atol=1e-3
        )


def broken_at_the_end(task, workdir, monkeypatch):
    """A run that was killed at its last step, after the records and before the state."""

    def breaks(run, state, *rest):
        if int(state.step) == 6:
            raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(train, "_write_page", breaks)
        with pytest.raises(Broken):
            trained(CONFIGS[task], workdir)
    assert [row["step"] for row in losses_of(workdir)] == [2, 4, 6]


def test_a_resumed_run_has_each_step_once(runs, tmp_path, monkeypatch, capsys):
    broken_at_the_end("classifier", tmp_path, monkeypatch)
    trained(CONFIGS["classifier"], tmp_path, export=True)
    page = page_of(tmp_path)
    assert "After 4 of 6 steps" in page  # the state's, not those written down since
    assert f"training loss {losses_of(tmp_path)[1]['loss']:.4f}" in page
    trained(CONFIGS["classifier"], tmp_path)
    assert "resuming digits_classifier at step 4" in capsys.readouterr().out
    whole = runs("classifier")
    for name in ("loss.jsonl", "validation.csv", "digits_classifier.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert throughput.load(epath.Path(tmp_path)).steps == 6
    assert "After 6 steps" in page_of(tmp_path)


# Events, where tensorboardX is installed.


def events_of(workdir):
    """`{tag: [(step, value), ...]}` of all files of events."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted((workdir / events.FOLDER).iterdir()):
        content = path.read_bytes()
        while content:  # length and its checksum, the event and its checksum
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
            content = content[16 + length :]
    return found


def as_recorded(workdir):
    """The same, of the records."""
    found = {"training/loss": [(row["step"], row["loss"]) for row in losses_of(workdir)]}
    for row in table_of(workdir):
        for name in row.keys() - {"step", "images"}:
            found.setdefault(f"test/{name}", []).append((row["step"], row[name]))
    return found


def check_events(workdir):
    found, expected = events_of(workdir), as_recorded(workdir)
    assert found.keys() == expected.keys()
    for tag, points in expected.items():
        np.testing.assert_allclose(found[tag], points, rtol=1e-6, err_msg=tag)


@pytest.mark.parametrize("task", CONFIGS)
def test_events_are_the_records(runs, task):
    pytest.importorskip("tensorboardX")
    check_events(runs(task))


def test_events_of_a_run_that_goes_on_have_each_step_once(tmp_path):
    pytest.importorskip("tensorboardX")
    workdir = epath.Path(tmp_path)

    def write(log, *steps):
        for step in steps:
            log.add(jnp.float32(1 / step))
            log.write(step)
            log.validation(step, {"accuracy_averaged": step / 100})

    write(TrainingLog(workdir, 4, events.begin(workdir)), 10, 20, 30)
    (killed,) = (tmp_path / events.FOLDER).iterdir()
    killed.write_bytes(killed.read_bytes()[:-3])  # in the middle of an event
    write(TrainingLog(workdir, 4, events.begin(workdir), step=20), 30, 40)
    assert [step for step, _ in events_of(tmp_path)["training/loss"]] == [10, 20, 30, 40]
    check_events(tmp_path)


def test_without_tensorboardx_a_line_says_how_to_have_events(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    assert events.begin(epath.Path(tmp_path)) is None
    assert "pip install -e '.[tensorboard]'" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_where_tensorboardx_cannot_write_a_line_says_so(tmp_path, monkeypatch, capsys):
    module = pytest.importorskip("tensorboardX.event_file_writer")
    assert events.begin(epath.Path("az://bucket/run")) is None
    assert "az://bucket/run/events" in capsys.readouterr().out

    def refuses(prefix):
        raise ImportError("boto3 must be installed")

    monkeypatch.setattr(module, "EventsWriter", refuses)
    assert events.begin(epath.Path(tmp_path)) is None
    assert capsys.readouterr().out == "no TensorBoard events: boto3 must be installed\n"


# Pace.


def test_flops_are_those_of_all_devices():
    size = 64
    for devices in (1, 4):
        mesh = jax.make_mesh((devices,), ("data",), devices=jax.devices()[:devices])
        sharding = jax.sharding.NamedSharding(mesh, jax.P("data"))
        x = jax.device_put(np.ones((devices, size, size), np.float32), sharding)
        found = throughput.flops(jax.jit(jnp.matmul), x, x)
        assert found == pytest.approx(devices * 2 * size**3, rel=0.05)


def test_flops_of_a_convolutions_derivative_are_all_counted():
    """On a CPU it is a loop, whose body counts once."""
    x, kernel = jnp.ones((128, 16, 16, 8)), jnp.ones((3, 3, 8, 8))

    def loss(kernel):
        return jnp.sum(conv2d(x, kernel, padding=SAME_3X3))

    found = throughput.flops(jax.jit(jax.grad(loss)), kernel)
    assert found == pytest.approx(2 * 9 * 128 * 16 * 16 * 8 * 8, rel=0.2)


def test_pace_adds_up_and_knows_what_it_does_not_know():
    one, other = throughput.Pace(10, 2.0, 0.5), throughput.Pace(30, 6.0, 1.5)
    assert one.and_then(other) == throughput.Pace(40, 8.0, 2.0)
    assert one.and_then(other).text(16) == "80 images/s, 25% of matmul"
    unknown = one.and_then(throughput.Pace(30, 6.0, None))
    assert unknown.text(16) == "80 images/s"
    assert throughput.Pace().text(16) == "not measured"


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"steps": 1}', '{"steps": "x"}'])
def test_a_damaged_pace_stops_no_training(tmp_path, damage):
    workdir = epath.Path(tmp_path)
    throughput.save(workdir, throughput.Pace(3, 1.5, None))
    assert throughput.load(workdir) == throughput.Pace(3, 1.5, None)
    (tmp_path / throughput.FILE).write_text(damage)
    assert throughput.load(workdir) == throughput.Pace()


def test_time_aside_does_not_count(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(training_log.time, "monotonic", lambda: clock[0])
    log = TrainingLog(epath.Path(tmp_path), 4)
    for _ in range(2):
        clock[0] += 1
        log.add(jnp.float32(1), 0.25)
    with log.aside():
        clock[0] += 100
    assert log.write(2)[1] == log.pace == throughput.Pace(2, 2.0, 0.5)


def test_a_curve_of_one_point_is_drawn():
    drawing = curve.along([curve.Line("raw", [5], [0.25])], shares=True)
    assert "raw 25.0%" in drawing
