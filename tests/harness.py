"""The fault harness: which risk a test belongs to, and a table of the risks that were tried.

A test names its risk by `@pytest.mark.risk(6)` and is left out of the default run. One that tries many inputs
takes the fixture `cases`, so that all of them are tried before it fails.
"""

from collections import Counter
from collections.abc import Iterator

import pytest

RISKS = {
    1: "a resumed run differs",
    2: "a file is half written",
    3: "the disk is full",
    4: "a checkpoint is damaged",
    5: "signals",
    6: "NaN and Inf",
    7: "loader processes die",
    8: "images are corrupt",
    9: "files that unpack to gigabytes",
    10: "pairs differ in size",
    11: "names do not pair",
    12: "hostile names",
    13: "links",
    14: "empty folders",
    15: "odd sizes",
    16: "out of memory",
    17: "one of several processes fails",
    18: "resumed by another number of processes",
    19: "files that want to run code",
    20: "names of foreign weights",
    21: "CPU and GPU",
    22: "the live page is down",
    23: "wrong options",
    24: "the run's folder",
    25: "locales",
    26: "no terminal, or one that goes away",
    27: "signals to a whole group, or ignored from the start",
    28: "something is missing on the machine",
    29: "saved files were edited",
    30: "a layout is taken without evidence",
    31: "files are left out in silence",
    32: "pixels are read otherwise than stored",
    33: "a file that is no regular file",
    34: "results of two tests mix",
    35: "a test is interrupted or cannot write",
    36: "resumed on other data, or from another state",
    37: "processes of a run disagree",
    38: "a page grows without limit",
    39: "a hint does not help",
    40: "minutes are not kept",
    41: "a photo loses what belongs to it",
    42: "a loss or a change is not said",
}
ON_GPU = (16, 21)  # need a GPU; imitated here


class Cases:
    """The inputs that one test tried."""

    def __init__(self) -> None:
        self.tried = 0
        self.lost: list[str] = []

    def check(self, survived: bool, what: str = "") -> None:
        """Note one input; `what` happened to it is printed if it was not survived."""
        self.tried += 1
        if not survived:
            self.lost.append(what)


@pytest.fixture
def cases() -> Iterator[Cases]:
    """Fails the test at its end if an input that it checked was not survived."""
    found = Cases()
    yield found
    if found.lost:
        pytest.fail(f"{len(found.lost)} of {found.tried} not survived: {'; '.join(found.lost[:8])}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "risk(number): a test of the fault harness, see tests/harness.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if marker := item.get_closest_marker("risk"):
            item.add_marker(pytest.mark.faults)
            item.user_properties.append(("risk", marker.args[0]))


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """Print how many tests of each risk passed, if any ran."""
    tests: dict[str, set[tuple[int, str]]] = {"passed": set(), "failed": set(), "error": set()}
    for outcome, found in tests.items():
        for report in terminalreporter.stats.get(outcome, []):
            if risk := dict(getattr(report, "user_properties", ())).get("risk"):
                found.add((risk, report.nodeid))
    lost = tests["failed"] | tests["error"]
    all_of, failed = (Counter(risk for risk, _ in found) for found in (tests["passed"] | lost, lost))
    if not all_of:
        return
    terminalreporter.section("risks")
    for risk, count in sorted(all_of.items()):
        note = "  (the GPU is imitated)" if risk in ON_GPU else ""
        terminalreporter.write_line(
            f"R{risk:<3} {RISKS[risk]:<42} {count:>4} tests {failed[risk]:>4} failed{note}"
        )
