"""The frame of all pages: one head, one style, and nothing that comes from elsewhere.

A page is a template that begins with `{% extends "frame.html" %}` and fills the block
`page`; `style` adds to the style that all share, and `shared` replaces it. `parts.html` has
what several of them show.
"""

from importlib import resources
from typing import Any

import jinja2

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FunctionLoader(
        lambda name: resources.files("jaxpure.report").joinpath(name).read_text("utf-8")
    ),
    autoescape=True,  # of every name that a stranger may have chosen
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(package: str, name: str, **values: Any) -> str:
    """A page from the template `name` beside the modules of `package`.

    Args:
      package: as it is imported.
      name: of the template's file.
      **values: what it shows, with `title` for its head.
    """
    text = resources.files(package).joinpath(name).read_text("utf-8")
    return _ENVIRONMENT.from_string(text).render(**values)
