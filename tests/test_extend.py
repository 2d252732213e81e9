"""Each kind of thing, added to a copy of the project as its guide says: the suite sees it.

The things are those of docs/extend.md where it has them. Each is one file and a line in its
registry. Without an example in the kind's cases the suite fails and names what is missing;
with one, the properties of its kind run on it.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "extend.md").read_text()
PREAMBLE = """
from typing import Any, ClassVar, NamedTuple
import jax
import jax.numpy as jnp
import numpy as np
from jaxpure.pytrees import Static, pytree
"""


def of_the_guide(start: str, end: str) -> str:
    """The lines of the guide from one to the line before another."""
    return re.search(rf"^{re.escape(start)}.*?(?=^{re.escape(end)})", GUIDE, re.S | re.M)[0]


class Addition(NamedTuple):
    """What is added, each place as `(file, text before which it goes, text)`.

    Attributes:
      file: the new file and its text; for a loss, which is a function, where it goes.
      registry: the import and the entry.
      case: its example in the cases of its kind.
      tests: the files of properties.
      name: part of the names of the tests that are its own.
      at_least: how many there are.
    """

    file: tuple[str, str, str]
    registry: list[tuple[str, str, str]]
    case: list[tuple[str, str, str]]
    tests: str
    name: str
    at_least: int


FAMILY = """
from checkpoints_convert.family import Family
from checkpoints_convert.rules import Layer
from jaxpure.models import ConvMixer

BLOCK, OURS = r"blocks\\.(\\d+)", r"blocks.\\1"
FAMILY = Family(
    name="mixer",
    about="ConvMixer by other names",
    recognise=lambda c: c.has("patches.weight", "blocks.0.spatial.weight"),
    architecture=lambda c: ConvMixer(
        features=c.shapes["patches.weight"][0],
        depth=c.count("blocks.{}."),
        kernel_size=c.shapes["blocks.0.spatial.weight"][-1],
    ),
    layers=lambda config: [
        Layer("conv", "patches", "patches"),
        Layer("batch_norm", "norm", "norm_in"),
        Layer("depthwise", rf"{BLOCK}\\.spatial", rf"{OURS}.spatial"),
        Layer("batch_norm", rf"{BLOCK}\\.norm(\\d)", rf"{OURS}.norm\\2"),
        Layer("dense", rf"{BLOCK}\\.channels", rf"{OURS}.channels"),
        Layer("dense", "head", "logits"),
    ],
)
"""
NORMS = ("weight", "bias", "running_mean", "running_var")
SHAPES = {
    "patches.weight": (8, 3, 2, 2),
    "patches.bias": (8,),
    "blocks.0.spatial.weight": (8, 1, 3, 3),
    "blocks.0.channels.weight": (8, 8),
    "blocks.0.channels.bias": (8,),
    "head.weight": (10, 8),
    "head.bias": (10,),
} | {
    f"{norm}.{name}": (8,)
    for norm in ("norm", "blocks.0.norm1", "blocks.0.norm2")
    for name in NORMS
}
TENSORS = "".join(f"{name}\t{shape}\tfloat32\n" for name, shape in SHAPES.items())
REGISTRY = "from jaxpure.specs import Registry\n"
ADDITIONS = {
    "purifier": Addition(
        (
            "jaxpure/purifiers/noisy_mean.py",
            "",
            PREAMBLE
            + of_the_guide("from jaxpure.keys import noise_at", "\n@pytree")
            + of_the_guide("@pytree\nclass NoisyMean", "defense = "),
        ),
        [
            (
                "jaxpure/purifiers/__init__.py",
                REGISTRY,
                "from jaxpure.purifiers.noisy_mean import NoisyMean\n",
            ),
            (
                "jaxpure/purifiers/__init__.py",
                '        "identity"',
                '        "noisy_mean": NoisyMean,\n',
            ),
        ],
        [
            (
                "tests/purifiers/cases.py",
                '    "identity"',
                '    "noisy_mean": Case("noisy_mean(copies=2)", 0, -1),\n',
            )
        ],
        "tests/purifiers/test_properties.py",
        "noisy_mean",
        5,
    ),
    "loss": Addition(
        (
            "jaxpure/losses.py",
            "LOSSES",
            of_the_guide("def second_gap", "\nattack = ") + "\n\n",
        ),
        [("jaxpure/losses.py", '    "cross_entropy"', '    "second_gap": second_gap,\n')],
        [("tests/attacks/cases.py", '    "cross_entropy"', '    "second_gap": 2,\n')],
        "tests/test_losses.py tests/attacks/test_properties.py",
        "second_gap",
        2,
    ),
    "ball": Addition(
        (
            "jaxpure/attacks/darker.py",
            "",
            PREAMBLE + of_the_guide("@pytree\nclass Darker", "```"),
        ),
        [
            (
                "jaxpure/attacks/balls.py",
                "BALLS",
                "from jaxpure.attacks.darker import Darker\n\n",
            ),
            ("jaxpure/attacks/balls.py", '        "linf"', '        "darker": Darker,\n'),
        ],
        [
            (
                "tests/attacks/cases.py",
                "assert set(BALL_CASES)",
                'BALL_CASES["darker"] = BALLS["darker"](0.1)\n',
            )
        ],
        "tests/attacks/test_balls.py tests/attacks/test_properties.py",
        "darker",
        7,
    ),
    "attack": Addition(
        (
            "jaxpure/attacks/noisy_fgsm.py",
            "",
            PREAMBLE
            + of_the_guide("from jaxpure.attacks.balls import ascend", "\n\nclass Noisy")
            + of_the_guide("class NoisyFgsmState", "digits = "),
        ),
        [
            (
                "jaxpure/attacks/__init__.py",
                REGISTRY,
                "from jaxpure.attacks.noisy_fgsm import NoisyFgsm\n",
            ),
            (
                "jaxpure/attacks/__init__.py",
                '        "apgd"',
                '        "noisy_fgsm": NoisyFgsm,\n',
            ),
        ],
        [
            (
                "tests/attacks/cases.py",
                '    "apgd"',
                '    "noisy_fgsm": Case(ATTACKS["noisy_fgsm"](num_steps=3), NORMS),\n',
            )
        ],
        "tests/attacks/test_properties.py",
        "noisy_fgsm",
        10,
    ),
    "data source": Addition(
        (
            "jaxpure/data/stripes.py",
            "",
            "import numpy as np\n"
            + of_the_guide("from dataclasses import dataclass", "\nprint("),
        ),
        [
            (
                "jaxpure/data/__init__.py",
                "from jaxpure.data.tfds",
                "from jaxpure.data.stripes import Stripes\n",
            ),
            (
                "jaxpure/data/__init__.py",
                '        "tfds"',
                '        "stripes": Stripes,\n',
            ),
        ],
        [
            (
                "tests/data/cases.py",
                '    "tfds"',
                '    "stripes": lambda root: data.SOURCES["stripes"](),\n',
            )
        ],
        "tests/data/test_sources.py",
        "stripes",
        10,
    ),
    "weight family": Addition(
        ("checkpoints_convert/families/mixer.py", "", FAMILY),
        [
            (
                "checkpoints_convert/families/__init__.py",
                "from checkpoints_convert.family import Family",
                "from checkpoints_convert.families import mixer\n",
            ),
            (
                "checkpoints_convert/families/__init__.py",
                "        diffusers_unet.FAMILY",
                "        mixer.FAMILY,\n",
            ),
        ],
        [
            ("tests/checkpoints_convert/keys/mixer.txt", "", TENSORS),
            (
                "tests/checkpoints_convert/test_rules.py",
                '    "pesser_ddpm_cifar10"',
                '    "mixer": ("mixer", models.ConvMixer(features=8, depth=1, '
                "kernel_size=3), 386),\n",
            ),
        ],
        "tests/checkpoints_convert/test_rules.py",
        "mixer",
        1,
    ),
}


def insert(root, place):
    """Puts a text before the first line that begins with another, or at a file's end."""
    name, before, text = place
    path = root / name
    old = path.read_text() if path.exists() else ""
    at = old.index("\n" + before) + 1 if before else len(old)
    path.write_text(old[:at] + text + old[at:])


def run_tests(root, addition):
    options = ["-q", "-m", "not slow and not long", "-p", "no:cacheprovider"]
    chosen = ["-k", f"{addition.name} or case or published_list", *addition.tests.split()]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *chosen],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.long
@pytest.mark.parametrize("kind", ADDITIONS)
def test_the_suite_tests_what_was_added(kind, tmp_path):
    addition = ADDITIONS[kind]
    for folder in ("jaxpure", "checkpoints_convert", "experiments", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for place in (addition.file, *addition.registry):
        insert(tmp_path, place)
    without = run_tests(tmp_path, addition)
    assert without.returncode != 0, without.stdout
    assert re.search(rf"case|{addition.name}", without.stdout), without.stdout
    for place in addition.case:
        insert(tmp_path, place)
    with_case = run_tests(tmp_path, addition)
    assert with_case.returncode == 0, with_case.stdout
    assert int(re.search(r"(\d+) passed", with_case.stdout)[1]) >= addition.at_least
