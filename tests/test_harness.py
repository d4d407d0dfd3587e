"""The harness counts what was executed, and can fail."""

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

TESTS = """
import pytest

@pytest.mark.risk(4)
@pytest.mark.parametrize("i", range(3))
def test_one(i):
    assert i != 1

@pytest.mark.risk(8)
def test_many(cases):
    for i in range(10):
        cases.check(i < 7, f"input {i}")

@pytest.mark.risk(9)
def test_breaks_off(cases):
    cases.check(True)
    raise RuntimeError("half way")

def test_no_risk():
    pass
"""


def test_the_table_tells_what_was_tried_and_what_was_survived(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.harness",
        "-p",
        "no:cacheprovider",
        "test_it.py",
    ]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout
    table = {
        m[1]: (int(m[2]), int(m[3]))
        for m in re.finditer(r"(R\d+|all) .* (\d+) tried +(\d+) survived", done.stdout)
    }
    assert table == {"R4": (3, 2), "R8": (10, 7), "R9": (2, 1), "all": (15, 10)}
    assert "3 of 10 not survived: input 7; input 8; input 9" in done.stdout
    assert re.search(r"R8 +many +10 +7", done.stdout)


def test_the_default_run_leaves_the_harness_out(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.harness",
        "-p",
        "no:cacheprovider",
        "-m",
        "not faults",
    ]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert "1 passed, 5 deselected" in done.stdout and "survived" not in done.stdout
