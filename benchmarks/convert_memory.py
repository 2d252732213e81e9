"""Seconds and peak memory of converting a checkpoint.

    python -m benchmarks.convert_memory SOURCE OUT.safetensors

Memory is the process's at its peak (resident, as the system counts it: the pages of a
memory-mapped source among them, which it gives back when others need them).
"""

import resource
import sys
import time

from checkpoints_convert import convert


def main() -> None:
    source, out = sys.argv[1:]
    started = time.monotonic()
    card = convert(source, out)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = card["source_bytes"] / 1e9
    print(f"{card['family']}, {size:.2f} GB: {seconds:.1f} s, peak {peak:.2f} GiB")


if __name__ == "__main__":
    main()
