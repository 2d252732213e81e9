"""What a section is: what it asks for, and what it makes of the answers."""

from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.config import PaperConfig
from experiments.paper.asks import Ask
from experiments.paper.relations import Finding
from jaxpure.defenses import noise_parts
from jaxpure.diffusion import Chain


class Figure(NamedTuple):
    """A figure of the page.

    Attributes:
      name: of its files.
      title: one line.
      caption: what is drawn, with the definition of the measure.
      draw: given a path, writes the drawing there and its CSV beside it.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Any], None]


class Report(NamedTuple):
    """What a section found.

    Attributes:
      findings: one for each of its relations.
      figures: in order.
      notes: sentences beside them: what was left out, and why.
    """

    findings: list[Finding]
    figures: list[Figure] = []
    notes: list[str] = []


class Section(NamedTuple):
    """A section of the page.

    Attributes:
      title: what it is about.
      relations: the numbers that it answers.
      asks: the measurements that it needs, each after those that it rests on.
      report: what it makes of a study's measurements. A ValueError that it raises is
        what the page says in its place.
      refuses: why it has no meaning for a purifier, or "".
    """

    title: str
    relations: tuple[int, ...]
    asks: Callable[[PaperConfig], list[Ask]]
    report: Callable[[Any], Report]
    refuses: Callable[[Any], str] = lambda purifier: ""


def needs_noise(purifier: Any) -> str:
    """Refuses a purifier that draws no noise."""
    if noise_parts(purifier):
        return ""
    return "the purifier draws no noise, so that no key is hidden from anyone"


def needs_path(purifier: Any) -> str:
    """Refuses a purifier without one chain of states that a noise level belongs to."""
    chain = getattr(purifier, "chain", None)
    if isinstance(chain, Chain) and getattr(purifier, "rounds", 1) == 1:
        return ""
    return "the purifier has no single reverse chain whose states could be followed"
