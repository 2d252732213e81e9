"""Everything that goes by name in a config: python -m experiments.listing [KIND].

Without a kind, the configs of runs, of training and of pages, and the names of each kind;
with one, its things with all their options and defaults.
"""

import inspect
import sys

from experiments import config as configs
from experiments import program, things
from experiments.arguments import Arguments
from jaxpure import specs
from jaxpure.errors import unknown

KINDS = {
    "run": configs.RunConfig,
    "train": configs.TrainConfig,
    "paper": configs.PaperConfig,
}


def names() -> str:
    """The configs with a line each, and the names of every kind."""
    lines = []
    for title, kind in KINDS.items():
        found = configs.names(kind)
        width = max(map(len, found))
        lines += [
            f"configs of {title}:",
            *(f"  {n:{width}}  {t}" for n, t in found.items()),
        ]
    width = max(map(len, things.REGISTRIES))
    lines.append("names in configs (a kind's options: list KIND):")
    lines += [
        f"  {what:{width}}  {', '.join(things.registry(what))}"
        for what in things.REGISTRIES
    ]
    return "\n".join(lines)


def options(what: str) -> str:
    """Every thing of a kind as a spec of its defaults, with what it is."""
    lines = []
    for name, constructor in things.registry(what).items():
        shown = []
        for option in specs.options_of(constructor).values():
            if option.name == "denoiser":
                continue
            shown.append(option.name if option.required else _with_default(what, option))
        about = (inspect.getdoc(constructor) or "").partition("\n")[0]
        lines += [f"{name}({', '.join(shown)})", f"    {about}"]
    return "\n".join(lines)


def _with_default(what: str, option: specs.Option) -> str:
    try:
        return f"{option.name}={specs.write(option.default, option.type)}"
    except TypeError:
        return option.name


def main(arguments: Arguments, config: None) -> None:
    """What the command line asks for."""
    del config
    if not arguments.rest:
        print(names())
    for what in arguments.rest:
        if what not in things.REGISTRIES:
            raise configs.ConfigError(unknown("kind", what, things.REGISTRIES))
        print(options(what))


def command(argv: list[str]) -> int:
    """The program; returns its exit code."""
    return program.launch(main, argv, name="list", doc=__doc__, takes_rest=True)


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
