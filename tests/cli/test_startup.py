"""The command line starts fast because nothing heavy is imported before work begins."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "scipy", "numpy", "jinja2", "accelerate", "peft")
PROBE = """
import json, sys
sys.argv = ["expunge", *{words!r}]
from expunge.cli import main
try:
    main()
except SystemExit as leaving:
    code = leaving.code or 0
print(json.dumps([code, [m for m in {heavy!r} if m in sys.modules]]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["bench", "--help"], ["list"], ["list", "--json"], ["show", "npo"]]
)
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    probe = PROBE.format(words=words, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr.splitlines()[-1]) == [0, []]


def test_a_recipe_is_checked_without_torch() -> None:
    probe = PROBE.format(words=["run", "demo", "sed=1"], heavy=("torch", "transformers", "numpy"))
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr.splitlines()[-1]) == [2, []]


def test_importing_the_package_imports_nothing_of_it() -> None:
    code = "import sys, expunge; print(sorted(m for m in sys.modules if m.startswith('expunge')), dir(expunge))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['expunge'] ['Recipe', '__version__', 'audit', 'audit_recipe', 'run', 'unlearn']"


def test_module_form() -> None:
    done = subprocess.run([sys.executable, "-m", "expunge", "bogus"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No such command 'bogus'" in done.stderr
