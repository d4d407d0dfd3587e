"""The fault harness: which risk a test belongs to, how many bad inputs it tried, how many were survived.

A test says its risk by `@pytest.mark.risk(6)` and is left out of the default run. One that tries many inputs
takes the fixture `cases` and reports each; any other test is one input. The table at the end counts what
was executed in it, nothing else.
"""

from collections.abc import Iterator

import pytest

RISKS = {
    1: "a resumed run differs",
    2: "a file is half written",
    3: "the disk is full",
    4: "a checkpoint is damaged",
    5: "signals",
    6: "numbers gone wrong",
    7: "loader processes die",
    8: "images are corrupt",
    9: "images are bombs",
    10: "pairs differ in size",
    11: "names do not pair",
    12: "hostile names",
    13: "links",
    14: "empty folders",
    15: "odd sizes",
    16: "memory is full",
    17: "a process of several fails",
    18: "resumed by another number of processes",
    19: "files that want to run code",
    20: "foreign names of weights",
    21: "CPU and GPU",
    22: "the live page is down",
    23: "wrong options",
    24: "the run's folder",
    25: "locales",
    26: "no terminal, or one that goes away",
}
ON_GPU = (16, 21)  # would be tried on a GPU, too
NOT_APPLICABLE = "a loss scaler, a plateau schedule, two optimizers (clearpair has none)"


class Cases:
    """Counts the inputs that one test tried."""

    def __init__(self) -> None:
        self.tried = self.survived = 0
        self.lost: list[str] = []

    def check(self, survived: bool, what: str = "") -> None:
        """Note one input; what happened to it is told if it was not survived."""
        self.tried += 1
        self.survived += survived
        if not survived:
            self.lost.append(what)


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> Iterator[Cases]:
    """Fails the test at its end where an input that it checked was not survived."""
    counted = Cases()
    request.node.user_properties.append(("cases", None))  # not known before the end
    yield counted
    request.node.user_properties.append(("cases", (counted.tried, counted.survived)))
    if counted.lost:
        pytest.fail(f"{len(counted.lost)} of {counted.tried} not survived: {'; '.join(counted.lost[:8])}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "risk(number): a test of the fault harness, see tests/harness.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("risk"):
            item.add_marker(pytest.mark.faults)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Iterator[None]:
    outcome = yield
    if marker := item.get_closest_marker("risk"):
        outcome.get_result().user_properties.append(("risk", marker.args[0]))  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """Print the tables, if any test of the harness ran: by risk, and what each risk consists of."""
    counts: dict[tuple[int, str], tuple[int, int]] = {}
    for kind in ("passed", "failed", "error", ""):  # "": teardowns that passed
        for report in terminalreporter.stats.get(kind, []):
            found = dict(getattr(report, "user_properties", ()))
            if "risk" not in found:
                continue
            new = (0, 0)
            if "cases" in found:  # known at the teardown
                new = found["cases"] or new if report.when == "teardown" else new
                if report.when == "call" and kind == "failed":  # it broke off: one more input, not survived
                    new = 1, 0
            elif report.when == "call":
                new = 1, int(kind == "passed")
            test = report.nodeid.rpartition("::")[2].partition("[")[0].removeprefix("test_").replace("_", " ")
            key = found["risk"], test
            counts[key] = tuple(map(sum, zip(counts.get(key, (0, 0)), new, strict=True)))  # type: ignore[assignment]
    if not counts:
        return
    terminalreporter.section("risks: inputs tried and survived")
    for (risk, test), (tried, survived) in sorted(counts.items()):
        terminalreporter.write_line(f"R{risk:<3} {test[:86]:<86} {tried:>5} {survived:>5}")
    terminalreporter.section("risks")
    for risk in sorted({risk for risk, _ in counts}):
        mine = [count for (number, _), count in counts.items() if number == risk]
        line = (
            f"{sum(tried for tried, _ in mine):>5} tried {sum(survived for _, survived in mine):>5} survived"
        )
        note = "" if risk not in ON_GPU else "  (the GPU is imitated)"
        terminalreporter.write_line(f"R{risk:<3} {RISKS[risk]:<42} {line}{note}")
    tried, survived = (sum(column) for column in zip(*counts.values(), strict=True))
    terminalreporter.write_line(f"     {'all':<42} {tried:>5} tried {survived:>5} survived")
    terminalreporter.write_line(f"     not applicable: {NOT_APPLICABLE}")
