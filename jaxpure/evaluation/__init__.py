"""Evaluation: the lanes, the records, the readings, and the statistics behind them."""

from jaxpure.evaluation.evaluate import (
    AttackError,
    evaluate,
    run,
    share_of_process,
)
from jaxpure.evaluation.lanes import local_mesh
from jaxpure.evaluation.readings import READINGS
from jaxpure.evaluation.result import Result
from jaxpure.evaluation.settle import UnfinishedError
from jaxpure.evaluation.setup import Setup, set_up

__all__ = [
    "READINGS",
    "AttackError",
    "Result",
    "Setup",
    "UnfinishedError",
    "evaluate",
    "local_mesh",
    "run",
    "set_up",
    "share_of_process",
]
