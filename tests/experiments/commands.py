"""Runs the project's programs as a user would: in a process of their own."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]

TINY = (
    "--config.data.num_examples=11",
    "--config.batch_size=4",
    "--config.purifier.t_star=3",
    "--config.attack.num_steps=3",
    "--config.judging_keys=3",
)


def start(module: str, *arguments: object, devices: int = 1) -> subprocess.Popen:
    return start_python("-m", f"experiments.{module}", *arguments, devices=devices)


def start_python(*arguments: object, devices: int = 1) -> subprocess.Popen:
    environment = dict(os.environ)
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(module: str, *arguments: object, devices: int = 1) -> tuple[int, str]:
    """The exit code and all output of a program."""
    process = start(module, *arguments, devices=devices)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def error_line(output: str) -> str:
    """The one line that a refused program prints."""
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in output, output
    return lines[0]
