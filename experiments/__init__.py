"""Programs: run, train, compare and others. The library knows nothing of them."""

import sys

from experiments import interrupts

if (
    sys.argv[0] == "-m"
):  # `python -m experiments.NAME` is being looked up: nothing is imported
    interrupts.install()
