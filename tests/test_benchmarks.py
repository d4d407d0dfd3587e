"""The benchmarks can be asked for; what they print is measured by hand."""

import importlib
import re

import pytest

from tests.benchmarks import common
from tests.benchmarks.__main__ import TABLES


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_a_module_that_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"tests.benchmarks.{name}")
    assert module.__doc__ and callable(module.main)


def test_a_table_is_markdown_below_the_machine_and_the_date(capsys: pytest.CaptureFixture[str]) -> None:
    common.table("Title", ("what", "ms"), iter([("a", 1), ("b", 2.5)]))
    lines = capsys.readouterr().out.strip().splitlines()
    assert re.fullmatch(r"\d+ cores? of .+, torch [\d.]+\S*, \d{4}-\d\d-\d\d", lines[2])
    assert lines[-4:] == ["| what | ms |", "|---|---|", "| a | 1 |", "| b | 2.5 |"]
