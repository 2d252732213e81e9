"""Evaluation: the engine, the records, and the statistics read from them."""

from jaxpure.evaluation.engine import local_mesh
from jaxpure.evaluation.evaluate import (
    Result,
    UnfinishedError,
    evaluate,
    judge_again,
    load,
    share_of_process,
)

__all__ = [
    "Result",
    "UnfinishedError",
    "evaluate",
    "judge_again",
    "load",
    "local_mesh",
    "share_of_process",
]
