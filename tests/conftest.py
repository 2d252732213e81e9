"""Strict JAX for every test: 8 simulated devices, no silent promotion, no key reuse."""

import gc
import pathlib
import re
import tempfile

import jax
import pytest
from slow import SLOW

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update(
    "jax_compilation_cache_dir",
    str(pathlib.Path(tempfile.gettempdir()) / "jaxpure-test-cache"),
)
# Most programs of the tests compile in less than the second above which JAX keeps them.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

MAPPINGS = pathlib.Path("/proc/self/maps")
TESTS = pathlib.Path(__file__).parent
GOLDEN = TESTS / "golden"


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    """Marks the tests that `slow.py` lists."""
    for item in items:
        patterns = SLOW.get(item.path.relative_to(TESTS).as_posix(), ())
        listed = any(re.search(pattern, item.name) for pattern in patterns)
        if listed and not item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def few_compiled_programs():
    """Programs of earlier files go before a process has as many mappings as Linux allows.

    Each compiled program of a CPU is mapped in pieces, and at 65,530 mappings (the usual
    vm.max_map_count) LLVM ends the process with a segmentation fault.
    """
    yield
    if MAPPINGS.exists() and len(MAPPINGS.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def golden():
    """Loads a fixture of tests/golden by its name."""
    import numpy as np

    return lambda name: np.load(GOLDEN / f"{name}.npz")
