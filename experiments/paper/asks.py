"""A measurement with its options: what sections ask for, and what is kept."""

from typing import Any, NamedTuple


class Ask(NamedTuple):
    """One measurement on all examples of a study, or on the first `batches` of them.

    Attributes:
      measure: a name of `measures.MEASURES`.
      purifier: the spec that it is about.
      denoiser: name or path of the purifier's weights.
      options: the measure's own, by name, sorted.
    """

    measure: str
    purifier: str
    denoiser: str
    options: tuple[tuple[str, Any], ...] = ()

    def other(self, measure: str, **options: Any) -> "Ask":
        """Another measurement of the same purifier."""
        return ask(measure, self.purifier, self.denoiser, **options)


def ask(measure: str, purifier: str, denoiser: str, **options: Any) -> Ask:
    """Asks for a measurement."""
    return Ask(measure, purifier, denoiser, tuple(sorted(options.items())))
