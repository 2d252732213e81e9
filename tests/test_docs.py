"""The code of the README and of the guides runs as it stands."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["README.md", "docs/extend.md", "docs/running.md"])
def test_the_code_of_a_page_runs_in_its_order(page, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert blocks
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "worst of N" in done.stdout


def test_the_readme_is_short_and_begins_with_the_five_lines():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 130
    first = re.findall(r"```(\w+)\n(.*?)```", text, re.S)[0]
    assert first[0] == "python"
    assert "jp.evaluate(" in first[1]
