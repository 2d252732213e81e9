"""The report: one HTML page of an evaluation that needs nothing but itself.

What is read off the numbers (`verdict`, `chosen`, `ball`) is here for programs too; how the
page looks is in page.html; `render` makes other pages that look like it.
"""

from jaxpure.report.frame import render
from jaxpure.report.page import of_result, write
from jaxpure.report.pictures import chosen
from jaxpure.report.words import ball, interval, norm_ball, verdict

__all__ = [
    "ball",
    "chosen",
    "interval",
    "norm_ball",
    "of_result",
    "render",
    "verdict",
    "write",
]
