"""How many CPU devices the commands make, and when they leave that alone."""

import os

import jax
import pytest

from experiments import devices, program


@pytest.fixture
def asked(monkeypatch):
    """What JAX is asked for, in place of asking."""
    found = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: found.append(value))
    monkeypatch.setattr(devices, "physical_cores", lambda: 6)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    return found


def test_one_device_a_physical_core_unless_told(asked):
    devices.use(None)
    devices.use(3)
    devices.use(0)
    assert asked == [6, 3]


def test_as_many_as_share_a_batch_evenly(asked):
    devices.use(None, multiple_of=64)
    assert asked == [4]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_NUM_CPU_DEVICES", "5"),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=5"),
    ],
)
def test_the_users_environment_stands(asked, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    devices.use(None)
    assert asked == []


def test_devices_wait_for_one_another_unless_the_user_says_how_long(asked, monkeypatch):
    devices.use(2)
    flags = os.environ["XLA_FLAGS"]
    assert flags == f"--{devices.PATIENCE}={devices.PATIENT_SECONDS}"
    devices.use(2)
    assert os.environ["XLA_FLAGS"] == flags
    monkeypatch.setenv("XLA_FLAGS", f"--{devices.PATIENCE}=7")
    devices.use(2)
    assert os.environ["XLA_FLAGS"] == f"--{devices.PATIENCE}=7"


def test_threads_of_a_core_count_once_and_a_quota_binds(monkeypatch, tmp_path):
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(devices, "TOPOLOGY", tmp_path)
    monkeypatch.setattr(devices, "QUOTA", tmp_path / "cpu.max")
    assert devices.physical_cores() == 4  # nothing is known of cores
    for cpu in range(4):
        place = tmp_path / f"cpu{cpu}" / "topology"
        place.mkdir(parents=True)
        (place / "physical_package_id").write_text("0\n")
        (place / "core_id").write_text(f"{cpu // 2}\n")
    assert devices.physical_cores() == 2
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert devices.physical_cores() == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert devices.physical_cores() == 2


@pytest.mark.parametrize(
    ("dtype", "set_by_user", "expected"),
    [
        ("float32", None, ["highest"]),
        ("bfloat16", None, []),  # libtpu fails on some of its products at "highest"
        ("float32", "high", []),
    ],
)
def test_products_of_float32_alone_are_asked_to_be_exact(
    dtype, set_by_user, expected, asked, monkeypatch
):
    values = {"jax_compilation_cache_dir": "somewhere"}
    values["jax_default_matmul_precision"] = set_by_user
    monkeypatch.setattr(type(jax.config), "values", values)
    program.prepare_jax(dtype)
    assert asked == expected
