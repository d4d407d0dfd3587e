"""A real Chromium for tests of pages; a test that has none is skipped (see visdom_server.missing)."""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.visdom_server import missing

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost , EXCLUDE 127.0.0.1",  # nothing else is asked
)


def chromium() -> str:
    """Path of the browser."""
    if importlib.util.find_spec("playwright") is None:
        missing("playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return path or missing("there is no chromium on the PATH")


@contextmanager
def visiting() -> Iterator[Callable[..., Any]]:
    """`visit(file, **options of the page)` opens a file; at the end there were no errors and no requests."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    troubles: list[str] = []
    asked: set[str] = set()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)

        def visit(file: Path, **options: Any) -> Any:
            page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **options})
            page.on("pageerror", lambda error: troubles.append(f"page error: {error}"))
            page.on("console", lambda line: troubles.append(f"console: {line.text}"))
            page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url[:80]}"))
            page.on("dialog", lambda dialog: (troubles.append("a dialog"), dialog.dismiss()))
            page.on("request", lambda request: asked.add(request.url.split(":")[0]))
            page.goto(file.as_uri())
            return page

        try:
            yield visit
            assert troubles == []
            assert asked <= {"file", "data"} and "file" in asked
        finally:
            browser.close()
