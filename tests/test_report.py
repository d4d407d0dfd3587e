"""The HTML report: what it keeps of each image, what it writes, and how it behaves in a real Chromium."""

import base64
import io
import re
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.builders import Outline, facts_of, image, strict_json
from tests.cli import wait_until
from utils.vis import report as module
from utils.vis.report import Report
from utils.vis.thumbnails import block_mean, thumbnail

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "\"'`&amp;&#60;b&#62;",
    "\u202egnp.\u05d0\u2028\u2029",
    "caf\udce9.png",  # a file name that is not UTF-8, as os.fsdecode gives it
)
Visit = Callable[..., Any]


def report_of(*images: np.ndarray | None, names: Any = "a") -> Report:
    """A report with the same (input, output, target) under each name."""
    report = Report()
    for name in names:
        report.add(name, *images)  # type: ignore[arg-type]
    return report


def written(report: Report, folder: Path, rows: Any = (), title: str = "title", facts: Any = ()) -> Any:
    """The data of the page that `report` writes."""
    folder.mkdir(exist_ok=True)
    report.write(folder / "index.html", title, facts, rows)
    return strict_json(Outline((folder / "index.html").read_text("utf-8")).texts["data"])


def picture(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as file:
        assert file.format == "JPEG"
        return np.asarray(file.convert("RGB")).astype(int)


def flat(value: float, height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> np.ndarray:
    return np.full((height, width, channels), value, dtype)


# ---------------------------------------------------------------------------------------------- the pictures


def test_shrinking_is_the_mean_of_blocks() -> None:
    noise = image(1302, 1955)
    small = block_mean(noise, 3)  # the last ones narrower
    assert small.shape == (434, 652, 3) and small.dtype == np.float32
    assert np.allclose(small[7, 9], noise[21:24, 27:30].mean((0, 1)) / 255, atol=1e-6)
    assert np.allclose(small[-1, -1], noise[1299:1302, 1953:].mean((0, 1)) / 255, atol=1e-6)
    outside = np.tile(np.float32([[[-1.0], [1.0]]]), (1280, 640, 1))
    assert np.allclose(thumbnail(outside, (640, 640)), 0.5)  # each pixel is clamped before the mean


@pytest.mark.parametrize(
    ("dtype", "shown"),
    [
        (np.uint8, {51: 0.2}),
        (np.uint16, {13107: 0.2}),
        (np.float32, {0.2: 0.2, 1.7: 1.0, -3: 0.0, np.inf: 1.0, np.nan: 0.0}),
    ],
)
def test_every_type_has_its_full_scale(dtype: Any, shown: dict[float, float]) -> None:
    for value, expected in shown.items():
        assert np.allclose(thumbnail(flat(value, 4, 4, dtype=dtype), (4, 4)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "size", "large"),
    [
        (1, 1, [1, 1], None),
        (10, 3000, [160, 1], [640, 2]),
        (3000, 10, [1, 160], [2, 640]),
        (160, 100, [100, 160], None),
        (161, 100, [99, 160], [100, 161]),
        (481, 1281, [160, 60], [640, 240]),
    ],
)
def test_sizes(tmp_path: Path, height: int, width: int, size: Any, large: Any) -> None:
    report = report_of(*[flat(90, height, width)] * 3)
    thumbs, previews = report.thumbs.files["a"], report.large.files.get("a")
    assert {picture(data).shape for data in thumbs.values()} == {(size[1], size[0], 3)}
    if large:
        assert previews is not None and set(previews) == {"input", "output", "target"}
        assert {picture(data).shape for data in previews.values()} == {(large[1], large[0], 3)}
    row = written(report, tmp_path)["rows"][0]
    assert (row["size"], row.get("largeSize")) == (size, large)
    assert "small" not in row  # nothing is missing: the thumbnail is the whole picture


def test_the_pictures_of_gray_and_of_no_target() -> None:
    thumbs = report_of(flat(200, 60, 60, 1), flat(100, 60, 60, 1), flat(100, 60, 60)).thumbs.files["a"]
    assert list(thumbs) == ["input", "output", "target", "error"]
    assert abs(picture(thumbs["input"]) - 200).max() <= 1
    assert picture(thumbs["error"]).max() <= 1  # not colored yet
    kept = report_of(flat(1, 300, 300), flat(2, 300, 300), None)
    assert list(kept.thumbs.files["a"]) == ["input", "output"] == list(kept.large.files["a"])


CHECKER = np.where(np.indices((640, 640)).sum(0) % 2, 1, -1).astype(np.float32)[..., None]
ORANGE, WHITE = (255, 128, 0), (255,) * 3
COLORS = {0: (0, 0, 0), 1 / 60: (128, 0, 0), 1 / 20: ORANGE, 0.1: WHITE}  # of errors, on a scale of 0.1


def error_shown(data: Any, row: int = 0) -> np.ndarray:
    return picture(base64.b64decode(data["rows"][row]["thumbs"]["error"]))


@pytest.mark.parametrize(
    ("error", "color"),
    [
        *[(flat(off, side, side, dtype=np.float32), COLORS[off]) for side in (50, 2000) for off in COLORS],
        (0.05 * CHECKER, ORANGE),  # errors of both signs do not cancel in the smaller thumbnail
    ],
)
def test_all_errors_have_one_scale(tmp_path: Path, error: np.ndarray, color: tuple[int, int, int]) -> None:
    report, target = Report(), np.full_like(error, 0.5)
    report.add("a", target, target - error, target)
    for name in ("b", "c"):  # these decide the scale
        report.add(name, target, target - 0.1, target)
    data = written(report, tmp_path, [{"name": name} for name in "abc"])
    assert data["scale"] == 0.1
    assert abs(error_shown(data) - color).max() <= 4
    assert abs(error_shown(data, 1) - WHITE).max() <= 4


@pytest.mark.parametrize(
    ("errors", "scale"),
    [((0.004,), 0.01), ((0.03,), 0.05), ((0.7,), 1.0), ((0.0,), 0.01), ((0.03,) * 19 + (0.9,), 0.05)],
)
def test_the_scale_of_errors_adapts_and_one_failure_does_not_decide_it(
    tmp_path: Path, errors: tuple[float, ...], scale: float
) -> None:
    report, target = Report(), np.full((40, 40, 1), 0.95, np.float32)
    for i, error in enumerate(errors):
        report.add(f"{i}", target, target - error, target)
    assert written(report, tmp_path, [{"name": "0"}])["scale"] == scale


def test_a_smaller_input_is_enlarged_by_repeating_pixels() -> None:
    given = np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((8, 8), np.uint8))[..., None]
    seen = picture(report_of(given, flat(9, 64, 64), flat(9, 64, 64)).thumbs.files["a"]["input"])
    assert seen.shape == (64, 64, 3)
    assert abs(seen - np.kron(given, np.ones((4, 4, 1)))).max() <= 2  # 16 -> 64, blocks whole in JPEG's 8 x 8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_huge_image_is_not_copied(dtype: Any) -> None:
    huge = np.zeros((6000, 9000, 3), dtype)
    tracemalloc.start()
    try:
        report_of(huge, huge, huge)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60 * 2**20  # a copy in bytes alone were 154 MB


def test_views_are_not_changed_and_not_kept() -> None:
    view = image(700, 500, dtype=np.float32).transpose(1, 0, 2) * 3 - 1
    before = view.copy()
    report = report_of(view, view, view)
    assert np.array_equal(view, before)
    assert all(isinstance(data, bytes) for data in report.thumbs.files["a"].values())


def test_the_budget_of_previews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = image(300, 300)
    one = report_of(noise, noise, noise)
    monkeypatch.setattr(module, "PREVIEW_BUDGET", 2 * one.large.bytes)
    report = report_of(noise, noise, noise, names="abcde")
    report.add("tiny", noise[:20, :20], noise[:20, :20], None)
    data = written(report, tmp_path)
    kinds = [("large" in row, row.get("small", False)) for row in data["rows"]]
    assert kinds == [(True, False)] * 2 + [(False, True)] * 3 + [(False, False)]
    assert data["notes"][0].startswith("3 of 6 images have no large preview")
    assert written(one, tmp_path)["notes"] == []


# --------------------------------------------------------------------------------------------------- the page


def test_the_data_is_strict_json(tmp_path: Path) -> None:
    rows = [
        {"name": "a", "psnr": float("inf"), "ssim": np.float32(0.5), "extra": 3},
        {"name": "b", "psnr": float("nan"), "gain": float("-inf"), "lpips": None, "extra": 4.0},
        {"name": "c", "psnr": np.float64(20.25), "seconds": 1},
    ]
    data = written(Report(), tmp_path, rows, facts=[("PSNR", "20 dB")])
    # lpips has no value at all
    assert [(c["key"], c["label"], c["digits"]) for c in data["columns"]] == [
        ("psnr", "PSNR (dB)", 2),
        ("ssim", "SSIM", 4),
        ("extra", "extra", 0),
        ("gain", "gain (dB)", 2),
        ("seconds", "time (s)", 3),
    ]
    assert [row["values"] for row in data["rows"]] == [
        ["inf", 0.5, 3, None, None],
        [None, None, 4, "-inf", None],
        [20.25, None, None, None, 1],
    ]
    assert data["sort"] == "psnr"
    assert facts_of((tmp_path / "index.html").read_text("utf-8")) == [("PSNR", "20 dB")]
    data = written(Report(), tmp_path, [{"name": "b", "psnr": None, "seconds": 2}])
    assert data["sort"] is None and [column["key"] for column in data["columns"]] == ["seconds"]


def test_an_image_without_a_row_is_shown(tmp_path: Path) -> None:
    report = report_of(flat(1, 9, 9), flat(1, 9, 9), None, names=["alone"])
    rows = written(report, tmp_path, [{"name": "other", "psnr": 1}])["rows"]
    assert [row["name"] for row in rows] == ["other", "alone"]
    assert "thumbs" not in rows[0] and set(rows[1]["thumbs"]) == {"input", "output"}
    assert base64.b64decode(rows[1]["thumbs"]["input"]).startswith(b"\xff\xd8")


def test_hostile_text_is_data(tmp_path: Path) -> None:
    title = "".join(HOSTILE)
    facts = [(text, text) for text in HOSTILE]
    data = written(Report(), tmp_path, [{"name": text, text: 1.5} for text in HOSTILE], title, facts)
    assert [row["name"] for row in data["rows"]] == list(HOSTILE)
    assert [column["label"] for column in data["columns"]] == list(HOSTILE)
    text = (tmp_path / "index.html").read_text("ascii")
    assert not set("<>&") & set(re.findall(r'id="data">(.*)</script>', text)[0])
    written(Report(), tmp_path / "plain", facts=[("label", "text")] * len(HOSTILE))
    harmless = Outline((tmp_path / "plain" / "index.html").read_text("utf-8"))
    assert Outline(text).tags == harmless.tags


def test_nothing_outside_the_file_is_named(tmp_path: Path) -> None:
    written(Report(), tmp_path)
    text = (tmp_path / "index.html").read_text("utf-8")
    tags = Outline(text).tags
    assert not {"link", "base", "iframe"} & {tag for tag, _ in tags}
    assert not {"src", "href"} & {key for _, given in tags for key in given}
    assert not re.search(r"https?:|@import|url\(|//\w+\.|innerHTML|\beval\b", text)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert next(given["content"] for _, given in tags if "http-equiv" in given) == policy


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    written(Report(), tmp_path, title="first")
    with pytest.raises((TypeError, ValueError)):
        Report().write(tmp_path / "index.html", "second", [], [{"name": "a", "psnr": "text"}])
    assert "first" in (tmp_path / "index.html").read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


# -------------------------------------------------------------------------------------------- in the browser

PSNR = {"mid": 25.0, "none": None, "best": float("inf"), "worst": 11.5, "good": 31.0}


def five(folder: Path) -> Path:
    """A page of five images: input red, output green, target blue, so that what is seen is known."""
    colors = [np.broadcast_to(np.uint8(row), (300, 400, 3)) for row in 255 * np.eye(3)]
    report = report_of(*colors, names=PSNR)
    rows = [{"name": name, "psnr": psnr, "seconds": 1 + i} for i, (name, psnr) in enumerate(PSNR.items())]
    written(report, folder, rows, "five & more", [("protocol", "five colors")])
    return folder / "index.html"


def names(page: Any) -> Any:
    return page.locator("tbody td.name").all_text_contents()


def pixel(page: Any, fraction: float) -> tuple[int, ...]:
    """The color seen on the slider's stage, at a share of its width."""
    page.evaluate("Promise.all(['left', 'right'].map((id) => document.getElementById(id).decode()))")
    with Image.open(io.BytesIO(page.locator("#stage").screenshot())) as shot:
        seen = shot.convert("RGB").getpixel((int(shot.width * fraction), shot.height // 4))
    return tuple(int(value > 127) for value in seen)  # type: ignore[union-attr]


RED, GREEN, BLUE = (1, 0, 0), (0, 1, 0), (0, 0, 1)


@pytest.mark.browser
def test_sorting(tmp_path: Path, visit: Visit) -> None:
    page = visit(five(tmp_path))
    assert (page.title(), page.locator("h1").text_content()) == ("five & more", "five & more")
    assert page.locator("dd").text_content() == "five colors"
    psnr, seconds = page.locator("th", has_text="PSNR"), page.locator("th", has_text="time")
    assert names(page) == ["worst", "mid", "good", "best", "none"]
    assert psnr.get_attribute("aria-sort") == "ascending"
    cells = page.locator("tbody tr td:nth-child(2)").all_text_contents()
    assert cells == ["11.50", "25.00", "31.00", "inf (identical)", ""]
    psnr.locator("button").click()
    assert names(page) == ["best", "good", "mid", "worst", "none"]  # what is missing stays last
    assert psnr.get_attribute("aria-sort") == "descending"
    seconds.locator("button").click()
    assert names(page) == list(PSNR)
    assert (psnr.get_attribute("aria-sort"), seconds.get_attribute("aria-sort")) == (None, "ascending")
    page.locator("th.name button").focus()
    page.keyboard.press("Enter")
    assert names(page) == sorted(PSNR)


@pytest.mark.browser
def test_the_slider(tmp_path: Path, visit: Visit) -> None:
    page = visit(five(tmp_path))
    dialog, divider = page.locator("dialog"), page.locator("#divider")
    assert not dialog.is_visible()
    page.locator("tbody tr").nth(1).locator(".shot").first.click()
    assert dialog.is_visible() and page.locator("#shown").text_content() == "mid"
    box = page.locator("#stage").bounding_box()
    assert (round(box["width"]), round(box["height"])) == (400, 300)  # the preview at its own size
    assert divider.get_attribute("aria-valuenow") == "50"
    assert [pixel(page, at) for at in (0.1, 0.45, 0.55, 0.9)] == [RED, RED, GREEN, GREEN]

    keys = {"ArrowRight": 52, "Shift+ArrowLeft": 42, "End": 100, "Shift+ArrowRight": 100, "Home": 0}
    for key, now in keys.items():
        page.keyboard.press(key)
        assert divider.get_attribute("aria-valuenow") == str(now)
    assert pixel(page, 0.02) == GREEN
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], y, steps=3)
    assert divider.get_attribute("aria-valuenow") == "60"
    page.mouse.move(box["x"] + box["width"] + 300, y)  # held beyond the edge
    assert divider.get_attribute("aria-valuenow") == "100"
    page.mouse.move(box["x"] + 0.8 * box["width"], y)
    page.mouse.up()
    page.mouse.move(box["x"], y)  # let go
    assert divider.get_attribute("aria-valuenow") == "80"
    assert [pixel(page, at) for at in (0.75, 0.85)] == [RED, GREEN]

    page.locator("#targets").click()
    assert [pixel(page, at) for at in (0.75, 0.85)] == [GREEN, BLUE]
    left, right = page.locator("#leftname").text_content(), page.locator("#rightname").text_content()
    assert (left, right) == ("output", "target")
    assert page.locator("#native").text_content() == "native pixels"
    assert not page.locator("#small").is_visible()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.locator("tbody tr").first.locator(".shot").nth(3).click()  # the error belongs to output and target
    assert page.locator("#targets").get_attribute("aria-pressed") == "true"
    assert page.locator("#shown").text_content() == "worst"
    page.locator("#close").click()
    assert not dialog.is_visible()


@pytest.mark.browser
def test_the_slider_leads_to_the_next_image_and_zooms(tmp_path: Path, visit: Visit) -> None:
    page = visit(five(tmp_path))
    page.locator("tbody tr").first.locator(".shot").first.click()
    shown, buttons = (
        page.locator("#shown"),
        {key: page.locator(f"#{key}") for key in ("previous", "next")},
    )
    assert shown.text_content() == "worst" and buttons["previous"].is_disabled()
    page.locator("#targets").click()
    for expected in ("mid", "good"):
        buttons["next"].click()
        assert shown.text_content() == expected
        assert page.locator("#targets").get_attribute("aria-pressed") == "true"  # as before
    page.keyboard.press("p")
    assert shown.text_content() == "mid"
    widths = []
    for _ in range(3):
        page.keyboard.press("z")
        widths.append(round(page.locator("#stage").bounding_box()["width"]))
    assert widths == [400, 1600, 400]  # a pixel of the image is 1 and 4 of the screen, then what fits
    page.keyboard.press("n")
    page.keyboard.press("n")
    page.keyboard.press("n")
    assert shown.text_content() == "none" and buttons["next"].is_disabled()


@pytest.mark.browser
def test_the_slider_links_to_the_output(tmp_path: Path, visit: Visit) -> None:
    report = Report()
    report.add("a", flat(1, 1000, 800), flat(2, 1000, 800), flat(3, 1000, 800), 20.0, "outputs/a b.png")
    written(report, tmp_path, [{"name": "a"}])
    page = visit(tmp_path / "index.html")
    page.locator(".shot").first.click()
    assert page.locator("#file").get_attribute("href") == "./outputs/a%20b.png"
    assert page.locator("#native").text_content() == "preview of 512 \u00d7 640 of 800 \u00d7 1000 pixels"


def test_previews_are_larger_without_a_target(tmp_path: Path) -> None:
    report = report_of(flat(1, 1500, 1000), flat(2, 1500, 1000), None)
    assert written(report, tmp_path)["rows"][0]["largeSize"] == [853, 1280]


@pytest.mark.browser
def test_without_targets(tmp_path: Path, visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PREVIEW_BUDGET", 0)
    report = report_of(flat(50, 2000, 5, 1), flat(60, 2000, 5), None, names="ba")
    written(report, tmp_path, [{"name": "b"}, {"name": "a"}])
    page = visit(tmp_path / "index.html")
    assert names(page) == ["b", "a"]
    assert page.locator("th").all_text_contents() == ["image", "input", "output"]
    assert not page.locator("#legend").is_visible()
    assert "2 of 2 images have no large preview" in page.locator("#notes").text_content()
    page.locator(".shot").first.click()
    assert page.locator("#small").is_visible() and not page.locator("#targets").is_visible()
    assert page.locator("#stage").bounding_box()["width"] >= 160  # a thin picture leaves room to drag


@pytest.mark.browser
def test_without_javascript_the_summary_is_shown(tmp_path: Path, visit: Visit) -> None:
    facts = [("PSNR", "20.50 dB (input 12.25, +8.25)"), ("data", HOSTILE[0])]
    report = report_of(flat(1, 20, 20), flat(2, 20, 20), flat(2, 20, 20))
    written(report, tmp_path, [{"name": "a", "psnr": 20.5}], facts=facts)
    for enabled in (True, False):
        page = visit(tmp_path / "index.html", java_script_enabled=enabled)
        assert page.locator("dt:visible").all_text_contents() == ["PSNR", "data"]
        assert page.locator("dd:visible").all_text_contents() == [text for _, text in facts]
        assert page.locator("noscript p").is_visible() == (not enabled)


@pytest.mark.browser
def test_hostile_names_do_nothing(tmp_path: Path, visit: Visit) -> None:
    counts = []
    for kind, texts in (("plain", [f"n{i}" for i in range(len(HOSTILE))]), ("hostile", HOSTILE)):
        report = report_of(flat(1, 20, 20), flat(2, 20, 20), flat(2, 20, 20), names=texts)
        rows = [{"name": text, text: 1.5} for text in texts]
        written(report, tmp_path / kind, rows, "".join(texts), [(text, text) for text in texts])
        page = visit(tmp_path / kind / "index.html")
        assert names(page) == list(texts)
        page.locator("tbody tr").first.locator(".shot").first.click()
        assert page.locator("#shown").text_content() == texts[0]
        page.wait_for_timeout(200)
        counts.append(Counter(page.evaluate("[...document.querySelectorAll('*')].map((e) => e.tagName)")))
    assert counts[0] == counts[1]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 500])
def test_it_fits_the_window(tmp_path: Path, visit: Visit, width: int, scheme: str) -> None:
    long = [f"{i}" * 80 for i in range(3)]
    values = dict.fromkeys(("psnr_input", "psnr", "gain", "ssim", "seconds"), 12.3456)
    report = report_of(*[image(200, 900)] * 3, names=long)
    written(report, tmp_path, [{"name": name, **values} for name in long])
    page = visit(tmp_path / "index.html", viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    styles = page.evaluate(
        "(({ color, backgroundColor }) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    ink, paper = (int(re.findall(r"\d+", style)[0]) for style in styles)
    assert (ink < 60 and paper > 200) if scheme == "light" else (ink > 200 and paper < 60)
    page.locator(".shot").first.click()
    box = page.locator("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width


@pytest.mark.browser
def test_a_thousand_rows(tmp_path: Path, visit: Visit) -> None:
    """Only pictures near the window are decoded, and the header stays in sight."""
    rows = [{"name": f"{i}", "psnr": float(i * 7 % 1000)} for i in range(1000)]
    report = report_of(*[image(12, 16)] * 3, names=[row["name"] for row in rows])
    written(report, tmp_path, rows)
    page = visit(tmp_path / "index.html")
    page.wait_for_timeout(300)
    loaded = "document.querySelectorAll('tbody img[src]').length"
    few = page.evaluate(loaded)
    assert 4 <= few <= 200
    page.locator("tbody tr").last.scroll_into_view_if_needed()
    # not wait_for_function, which the page's policy forbids: it evaluates a text in the page
    last = "[...document.querySelectorAll('tbody tr:last-child img')].every((i) => i.naturalWidth)"
    wait_until(lambda: page.evaluate(last))
    assert page.evaluate(loaded) <= 2 * few + 200
    assert page.locator("th.name").bounding_box()["y"] >= 0
