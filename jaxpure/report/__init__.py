"""The report: one HTML page of an evaluation that needs nothing but itself.

What is read off the numbers (`verdict`, `chosen`, `ranges`, `ball`) is here for the runner
too; how the page looks is in page.html.
"""

from experiments.report.page import write
from experiments.report.pictures import chosen
from experiments.report.words import ball, ranges, verdict

__all__ = ["ball", "chosen", "ranges", "verdict", "write"]
