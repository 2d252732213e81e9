"""The console script: `jaxpure COMMAND ...` does what the modules do.

Each command is imported when it is called, so that help is there at once.
"""

import difflib
import importlib
import sys

from experiments import interrupts

USAGE = "usage: jaxpure COMMAND [options]; jaxpure COMMAND --help says more"

# Command: its module (with a `command(argv)`), and what it does.
COMMANDS = {
    "run": ("experiments.run", "evaluate a defense: --config=NAME [--config.field=value]"),
    "train": ("experiments.train", "train a classifier or a denoiser: --config=NAME"),
    "compare": ("experiments.compare", "two finished runs, paired: DIR DIR"),
    "table": (
        "experiments.table",
        "one table of finished runs: DIR [DIR ...] [--out=FILE]",
    ),
    "judge": (
        "experiments.judge",
        "a finished run under other keys: DIR [--seed] [--keys]",
    ),
    "verify": (
        "experiments.verify",
        "a finished run's records, rule by rule: DIR [--against=DIR] [--rejudge=N]",
    ),
    "paper": (
        "experiments.paper.__main__",
        "the papers' figures and claims on one page: --data=digits [--quick]",
    ),
    "tables": (
        "experiments.tables.__main__",
        "the papers' tables, a run for each cell: --data=digits [--only=1]",
    ),
    "view": ("experiments.view", "one page over many runs: RUNS_DIR [--out=FILE]"),
    "check-gradient": (
        "experiments.check_gradient",
        "a config's gradient against finite differences: --config=NAME",
    ),
    "convert": (
        "checkpoints_convert.__main__",
        "published weights into a network: SOURCE OUT",
    ),
    "list": (
        "experiments.listing",
        "the configs, and everything that goes by name in them",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command that `argv` (by default the process's) begins with."""
    interrupts.install()
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {about}" for name, (_, about) in COMMANDS.items()]
        print("\n".join([USAGE, "", *lines]))
        return 0
    if name == "--version":
        from importlib import metadata

        print(metadata.version("jaxpure"))
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        known = ", ".join(COMMANDS)
        print(f"error: unknown command {name!r}; known: {known}.{hint}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[name][0])
    return module.command(rest)


if __name__ == "__main__":
    sys.exit(main())
