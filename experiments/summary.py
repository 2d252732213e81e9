"""What a finished run says in numbers: all of summary.json."""

from typing import Any

import jax

from experiments import config as configs
from experiments import devices, versions
from experiments.build import Experiment
from jaxpure.evaluation import Result, processes
from jaxpure.evaluation.identity import matmul_precision
from jaxpure.evaluation.summary import summarize as summarize_result


def summarize(
    experiment: Experiment, name: str, undefended: Result, defended: Result, seconds: float
) -> dict[str, Any]:
    """All that summary.json holds: what the records say, of which config, and where."""
    found = summarize_result(defended, undefended)
    return {
        "version": found.pop("version"),
        "name": name,
        "config": configs.as_dict(experiment.config),
        "seed": experiment.config.seed,
        **found,
        "gradient": experiment.config.gradient,
        "seconds": round(seconds, 2),
        "images_per_second": len(experiment.dataset) / seconds if seconds else None,
        "num_devices": jax.local_device_count() * processes.ours().count,
        "device_kind": jax.devices()[0].device_kind,
        "hardware": devices.hardware(),
        "matmul_precision": matmul_precision(),
        "versions": versions.packages(),
        "git": versions.git_commit(),
    }
