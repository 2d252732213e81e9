"""One page over many runs: python -m experiments.view RUNS_DIR [DIR ...] [--out=FILE].

Shows every finished run in these folders and below them: a leaderboard that sorts and
filters, and pairs compared on the same images. The page needs no server.
"""

import os
import sys
from collections.abc import Iterator

from etils import epath

from experiments import program, runs
from experiments.arguments import ArgumentError, Arguments, Flag
from jaxpure.errors import UserError
from jaxpure.report import view

FLAGS = (Flag("out", "the page; RUNS_DIR/runs.html by default"),)
DEPTH = 4  # of folders in folders


def entries(folders: list[epath.Path]) -> tuple[list[view.Entry], list[str]]:
    """The finished runs in folders and below, and what was wrong with others."""
    found, problems = [], []
    for root in folders:
        for folder in finished(root):
            try:
                found.append(entry(folder, root))
            except UserError as error:
                problems.append(str(error))
    return found, problems


def entry(folder: epath.Path, root: epath.Path) -> view.Entry:
    """A finished run on the page.

    Raises:
      RunError: a file of it is damaged.
    """
    run = runs.read(folder)
    name = os.path.relpath(os.fspath(folder), os.fspath(root))
    page = folder / "report.html"
    parts = [run.config.get(key) for key in ("purifier", "denoiser", "classifier")]
    try:
        judged = runs.judged(run)
    except UserError:
        judged = None  # it can be shown, and not compared
    return view.Entry(
        name=folder.name if name == "." else name,
        report=page if page.exists() else None,
        summary=run.summary,
        judged=judged,
        defense=", ".join(str(part) for part in parts if part),
    )


def finished(folder: epath.Path, depth: int = DEPTH) -> Iterator[epath.Path]:
    """This folder if it holds a finished run, else those below it that do."""
    if runs.is_finished(folder):
        yield folder
    elif depth and folder.is_dir():
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from finished(child, depth - 1)


def main(arguments: Arguments, config: None) -> None:
    """Writes the page that the command line asks for."""
    del config
    if not arguments.rest:
        raise ArgumentError("usage: python -m experiments.view RUNS_DIR [--out=FILE]")
    folders = [program.folder(name) for name in arguments.rest]
    for folder in folders:
        if not folder.is_dir():
            raise runs.RunError(f"{folder} is no folder of runs")
    found, problems = entries(folders)
    if problems and not found:
        others = f" ({len(problems) - 1} others neither)" if problems[1:] else ""
        raise runs.RunError(f"no finished run can be shown: {problems[0]}{others}")
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    out = (
        folders[0] / "runs.html" if arguments.out is None else program.folder(arguments.out)
    )
    view.write(out, found)
    print(f"{len(found)} runs\n{out}")


def command(argv: list[str]) -> int:
    """The program; returns its exit code."""
    return program.launch(
        main, argv, name="view", doc=__doc__, flags=FLAGS, takes_rest=True
    )


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
