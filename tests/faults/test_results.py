"""Results of test.py: folders that do not mix, tests that are cut short, and the remarks beside a figure."""

import csv
import errno
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.builders import TINY, Outline, image, pixels, save, strict_json, tree, words, write_set
from tests.cli import Ended, InProcess
from tests.seams import wrap
from utils.eval.evaluator import MeanPSNR
from utils.eval.metrics import Protocol
from utils.eval.results import Results, read_csv
from utils.eval.summary import headline
from utils.options.resolve import train_parser
from utils.run.checkpoint import Best
from utils.run.run import Run
from utils.vis import report as report_module
from utils.vis.report import PAGE_LIMIT, Report

TRAIN = (*TINY, *words("--crop_size 16 --max_steps 2 --visdom off --gpu_ids -1 --amp off"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`checkpoints/` with one small run, trained on the demo."""
    folder, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    os.chdir(folder)
    try:
        InProcess().train(*TRAIN)
    finally:
        os.chdir(before)
    return folder / "checkpoints"


@pytest.fixture
def run(trained: Path, cli: InProcess) -> Path:
    """The run, in the working directory."""
    shutil.copytree(trained, "checkpoints")
    return Path("checkpoints/run")


def test_set(root: str, count: int = 3, **more: Any) -> str:
    write_set(Path(root), count=count, splits=[""], **more)
    return root


test_set.__test__ = False  # type: ignore[attr-defined]


def summary(folder: str) -> dict[str, Any]:
    return strict_json(Path("results/run", folder, "summary.json").read_text())


def fail_at(number: int, error: int | BaseException) -> Callable[..., Any]:
    """Let the call of this number fail: with an OSError of this errno, or as given."""
    calls = []

    def failing(honest: Callable[..., Any], *given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == number:
            raise OSError(error, os.strerror(error)) if isinstance(error, int) else error
        return honest(*given, **named)

    return failing


# ----------------------------------------------------------------------------------------- 34: results mix


@pytest.mark.risk(34)
@pytest.mark.parametrize(
    ("flags", "folder"),
    [
        ("", "set"),
        ("--psnr_channel y --crop_border 4 --no_quantize", "set-y-crop4-noquantize"),
        ("--x8 --tile 32 --tile_overlap 8", "set-x8-tile32-overlap8"),
        ("--load latest --metrics psnr", "set-latest"),
        ("--degrade noise:25 --layout clean --seed 3", "set-noise25-seed3"),
        ("--weights checkpoints/run/latest_net.pth", "set-weights_latest_net_"),
    ],
)
def test_other_settings_have_another_folder(run: Path, cli: InProcess, flags: str, folder: str) -> None:
    test_set("set")
    plain = cli.test("--dataroot", "set").results
    before = tree(plain)
    found = cli.test("--dataroot", "set", *words(flags)).results
    assert found.name.startswith(folder) and found.parent == plain.parent
    assert tree(plain).keys() == before.keys() and (not flags or tree(plain) == before)


@pytest.mark.risk(34)
def test_only_another_split_is_named(run: Path, cli: InProcess) -> None:
    write_set(Path("set"), splits=("train", "val", "test"))
    found = [
        cli.test("--dataroot", "set", "--split", split).results.name for split in ("test", "val", "train")
    ]
    assert found == ["set", "set-val", "set-train"]


@pytest.mark.risk(34)
@pytest.mark.parametrize(
    "roots", [("A/set", "B/set"), ("set", "x/set"), ("demo:2:48", "demo:2:32"), ("a/s s", "a/s_s")]
)
def test_two_data_sets_of_one_name_never_share_a_folder(
    run: Path, cli: InProcess, roots: tuple[str, str]
) -> None:
    for seed, root in enumerate(roots):
        if not root.startswith("demo"):
            test_set(root, seed=10 * seed)
    first, second = (cli.test("--dataroot", root) for root in roots)
    assert first.results != second.results and tree(first.results)
    assert {path.name for path in Path("results/run").iterdir()} == {first.results.name, second.results.name}
    again = cli.test("--dataroot", roots[0])
    assert again.results == first.results and again.summary["psnr"] == first.summary["psnr"]
    assert second.summary["psnr"]["mean"] != first.summary["psnr"]["mean"]
    assert cli.test("--dataroot", roots[1]).results == second.results


@pytest.mark.risk(34)
def test_two_files_of_weights_of_one_name(run: Path, cli: InProcess) -> None:
    test_set("set")
    net = words("--model resunet --width 8 --depth 1 --levels 2 --dataroot set")
    found = []
    for folder in ("a", "b"):
        Path(folder).mkdir()
        shutil.copy(run / "best_net.pth", f"{folder}/net.pth")
        found.append(cli.test(*net, "--weights", f"{folder}/net.pth", name="").results.name)
    assert {path.name for path in Path("results/net").iterdir()} == {*found} and len({*found}) == 2


@pytest.mark.risk(34)
@pytest.mark.parametrize("layout", ["pairs", "inputs"])
def test_a_repeated_test_replaces_its_folder(run: Path, cli: InProcess, layout: str) -> None:
    files = write_set(Path("set"), layout, count=5, splits=[""])
    cli.test("--dataroot", "set")
    for pair in files[3:]:
        pair.input.unlink()
        pair.target.unlink(missing_ok=True)
    found = cli.test("--dataroot", "set").results
    assert sorted(path.name for path in (found / "outputs").iterdir()) == ["0.png", "1.png", "2.png"]
    assert summary("set")["images"] == 3 and [path.name for path in Path("results/run").iterdir()] == ["set"]


@pytest.mark.risk(34)
@pytest.mark.parametrize("theirs", ["notes.txt", "outputs/mine.png", "deeper/paper.pdf"])
@pytest.mark.parametrize("tested", [False, True])
def test_what_no_test_wrote_is_never_deleted(run: Path, cli: InProcess, theirs: str, tested: bool) -> None:
    test_set("set")
    if tested:
        cli.test("--dataroot", "set")
    mine = Path("results/run/set", theirs)
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    before = tree(Path("results"))
    assert cli.test("--dataroot", "set", code=2).refused(
        "no test wrote", Path(theirs).parts[0], "--results_dir"
    )
    assert tree(Path("results")) == before


@pytest.mark.risk(34)
def test_what_a_killed_test_left_is_taken_away(run: Path, cli: InProcess) -> None:
    test_set("set")
    kept = cli.test("--dataroot", "set").results
    shutil.copytree(kept, kept.with_name(".set.part"))
    kept.rename(kept.with_name(".set.old"))  # killed between the two moves
    assert cli.test("--dataroot", "set").results == kept
    assert [path.name for path in kept.parent.iterdir()] == ["set"]


@pytest.mark.risk(34)
def test_unlike_results_get_no_star(run: Path, cli: InProcess) -> None:
    from utils.compare import figures, read_record

    shutil.copytree("checkpoints/run", "checkpoints/other")
    for place, names in (("A", "ab"), ("B", "cd")):
        test_set(f"{place}/set", names=[f"{name}.png" for name in names])
    test_set("C/set", names=["a.png", "b.png"], seed=7)
    test_set("D/set", names=["a.png", "b.png", "c.png"])
    for other, flags, reason in (
        ("B/set", "", "names of the images"),
        ("C/set", "", "input "),
        ("D/set", "", "images 2 (run), 3 (other)"),
        ("A/set", "--crop_border 4 --psnr_channel y", "protocol "),
        ("A/set", "--x8", "x8 false (run), true (other)"),
        ("A/set", "", ""),
    ):
        shutil.rmtree("results", ignore_errors=True)
        cli.test("--dataroot", "A/set")
        tested = cli.test("--dataroot", other, *words(flags), name="other").results
        tested.rename(tested.with_name("set"))  # as older versions called it
        said = figures([read_record(name, Path("results")) for name in ("run", "other")])
        refused = [line for line in said.splitlines() if "no star" in line and line.startswith("set")]
        assert len(refused) == bool(reason) and all(reason in line for line in refused)
        assert "per image, all channels" in said and "split test" in said and "(A/set/input" in said


# ------------------------------------------------------------------------------ 35: interrupted, cannot write


@pytest.mark.risk(35)
@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_leaves_what_was_measured(
    run: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch, number: str, code: int
) -> None:
    test_set("set", 4)

    def send(honest: Callable[..., Any], *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), getattr(signal, number))
        return honest(*given)

    calls: list[int] = []
    signal.signal(getattr(signal, number), signal.SIG_DFL)
    wrap("forward", send, monkeypatch)
    ended = cli.test("--dataroot", "set", code=code)
    assert f"stopped by {number} after 2 of 4 images" in ended.err and "--debug" not in ended.err
    assert ended.summary["complete"] is False and len(ended.rows) == 2
    assert any(line.startswith("incomplete: 2 of 4 images: PSNR") for line in ended.lines)
    assert ended.comment.startswith("# incomplete: 2 of 4 images;")
    assert "incomplete 2 of 4 images" in ended.facts.splitlines()
    assert [path.name for path in Path("results/run").iterdir()] == ["set"]


@pytest.mark.risk(35)
def test_ignored_signals_stay_ignored(run: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    test_set("set")

    def send(honest: Callable[..., Any], *given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGINT)
        return honest(*given)

    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        wrap("forward", send, monkeypatch)
        assert cli.test("--dataroot", "set").summary["complete"] is True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.risk(35)
def test_an_incomplete_test_spares_complete_results(
    run: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_set("set")
    before = tree(cli.test("--dataroot", "set").results)
    with monkeypatch.context() as patch:
        wrap("save_output", fail_at(2, errno.EIO), patch)
        assert cli.test("--dataroot", "set", code=1).err
    with monkeypatch.context() as patch:
        from utils.eval.folder import CannotWrite

        wrap("save_output", fail_at(2, CannotWrite("cannot write x", "why", "fix", 1)), patch)
        cli.test("--dataroot", "set", code=1)
    assert tree(Path("results/run/set")) == before
    assert (summary("set-incomplete")["complete"], summary("set-incomplete")["images"]) == (False, 1)
    cli.test("--dataroot", "set")
    assert [path.name for path in Path("results/run").iterdir()] == ["set"]


@pytest.mark.risk(35)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("seam", ["write_bytes", "page"])
def test_a_disk_that_fills(
    run: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch, error: int, seam: str
) -> None:
    test_set("set")
    if seam == "page":
        wrap("write_page", fail_at(1, error), monkeypatch)
    else:
        honest, failing = Path.write_bytes, fail_at(2, error)
        monkeypatch.setattr(Path, "write_bytes", lambda path, data: failing(honest, path, data))
    ended = cli.test("--dataroot", "set", code=1)
    file = "index.html" if seam == "page" else "outputs/1.png"
    assert ended.refused(file, "--results_dir", os.strerror(error), code=1) and "--debug" not in ended.err
    assert ("free disk space" in ended.fix) == (error in (errno.ENOSPC, errno.EDQUOT))
    assert summary("set")["complete"] is False and summary("set")["images"] == (3 if seam == "page" else 1)
    assert not list(Path("results/run/set").rglob(".*"))


@pytest.mark.risk(35)
def test_a_folder_that_is_removed(run: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    test_set("set")

    def remove(honest: Callable[..., Any], *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            shutil.rmtree("results")
        return honest(*given)

    calls: list[int] = []
    wrap("save_output", remove, monkeypatch)
    ended = cli.test("--dataroot", "set", code=1)
    assert ended.refused("outputs/2.png", "removed", "--results_dir", code=1)
    assert (summary("set")["complete"], summary("set")["images"]) == (False, 2)
    assert summary("set")["outputs"] == []


@pytest.mark.risk(35)
@pytest.mark.parametrize("obstacle", ["results", "results/run", "results/run/set"])
def test_a_place_that_cannot_be_written_is_named_before_the_work(
    run: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    test_set("set")
    Path(obstacle).parent.mkdir(parents=True, exist_ok=True)
    Path(obstacle).write_text("a file, no folder")
    wrap("predict", fail_at(1, AssertionError("work was done")), monkeypatch)
    ended = cli.test("--dataroot", "set", code=None)
    assert ended.code in (1, 2) and not ended.complaint("--results_dir", obstacle, code=ended.code)
    assert "--debug" not in ended.err and Path(obstacle).read_text() == "a file, no folder"


@pytest.mark.risk(35)
@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC])
def test_read_only_results_are_named_before_the_work(
    run: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Faked, since nothing is read-only to root."""
    test_set("set")

    def mkdir(honest: Callable[..., Any], path: Path, *given: Any, **named: Any) -> Any:
        if "results" in path.parts:
            raise OSError(error, os.strerror(error), str(path))
        return honest(path, *given, **named)

    wrap("mkdir", mkdir, monkeypatch)
    wrap("predict", fail_at(1, AssertionError("work was done")), monkeypatch)
    ended = cli.test("--dataroot", "set", code=1)
    assert ended.refused("results/run", os.strerror(error), "elsewhere with --results_dir", code=1)
    assert not Path("results").exists()


@pytest.mark.risk(35)
def test_two_tests_at_once_in_one_folder(run: Path, cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    test_set("set")
    inner: list[Ended] = []

    def again(honest: Callable[..., Any], *given: Any) -> Any:
        if not inner:
            inner.append(Ended(0, "", "", run))
            inner[0] = cli.test("--dataroot", "set", code=2)
        return honest(*given)

    wrap("predict", again, monkeypatch)
    assert cli.test("--dataroot", "set").summary["images"] == 3
    assert inner[0].refused("another test", "--results_dir")


# -------------------------------------------------------------------------------- the remarks beside a figure


@pytest.mark.risk(34)
@pytest.mark.parametrize(("split", "said"), [("train", "trained on"), ("val", "validated on"), ("test", "")])
def test_figures_on_images_of_the_training_say_so(cli: InProcess, split: str, said: str) -> None:
    write_set(Path("set"), splits=("train", "val", "test"))
    cli.train(*TRAIN, "--dataroot", "set")
    ended = cli.test("--split", split)
    for text in (ended.out, ended.comment, ended.facts):
        assert (f"the network was {said}" in text) == bool(said)
    assert ended.summary["seen"] == said


@pytest.mark.risk(34)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--size 32", "--size 32"),
        ("--size 16 --max_steps 1", "--size 16"),
        ("--size 56", "--size 56"),  # larger than the images
        ("--input_nc 1 --output_nc 1", "gray network on colour images"),
        ("", ""),
    ],
)
def test_figures_of_another_task_say_so(cli: InProcess, flags: str, said: str) -> None:
    write_set(Path("set"))
    cli.train(*TRAIN, "--dataroot", "set", *words(flags))
    ended = cli.test()
    for text in (ended.out, ended.comment, ended.facts):
        assert said in text and ("native size" in text) == ("size" in flags)
    assert ("gray network" in ended.out) == ("nc" in flags)


@pytest.mark.risk(42)
@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ([-3.1], "worse than the input by 3.10 dB"),
        ([-0.006], "worse than the input by 0.01 dB"),
        ([4.0, 3.0, -19.0], "worse than the input by 4.00 dB"),  # most images are better
        ([0.0], ""),
        ([-0.004], ""),  # shown as 0.00
        ([2.0, -1.0], ""),
    ],
)
def test_a_model_that_is_worse_than_its_input_is_called_so(gains: list[float], said: str) -> None:
    results, best = Results(), Best()
    for i, gain in enumerate(gains):
        results.add(str(i), {"psnr": 20 + gain, "psnr_input": 20.0}, 0.1)
    lines = [line for line in headline(results, Protocol()) if "worse" in line]
    assert [line.split(":")[0] for line in lines] == [said] * bool(said)
    mean = sum(gains) / len(gains)
    best.update(MeanPSNR(20 + mean, 20.0, []), 9)
    assert ("worse than its input" in best.describe()) == bool(said)


NAN = float("nan")


@pytest.mark.risk(6)
@pytest.mark.parametrize("scores", [{}, {"psnr": NAN, "psnr_input": NAN}, {"psnr": NAN, "psnr_single": 3.0}])
def test_nan_is_no_figure(scores: dict[str, float], tmp_path: Path) -> None:
    results = Results()
    results.add("a", scores, 0.1)
    results.write(tmp_path, {"protocol": "p", "degrade": None, "weights": "w"})
    assert not any("nan" in line.lower().replace("nan in", "") for line in headline(results, Protocol()))
    assert "nan" not in (tmp_path / "metrics.csv").read_text().lower()


# -------------------------------------------------------------------------------------------- names, commands

NAMES = [
    "=1+1",
    "+1",
    "-2",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "a\nb",
    "'quoted",
    "a,=1",
    "caf\udce9",
    "b\x1b[31m",
    "a\\x0a",
    "'=\\x41",
]


@pytest.mark.risk(12)
def test_no_name_is_a_formula_or_a_control_sequence(tmp_path: Path) -> None:
    results = Results()
    for name in NAMES:
        results.add(name, {"psnr": 1.0}, 0.1)
    facts = {"protocol": "p", "degrade": None, "weights": ",=1\n2\x1b.pth"}
    results.write(tmp_path, facts)
    assert [row["name"] for row in read_csv(tmp_path / "metrics.csv")] == NAMES
    text = (tmp_path / "metrics.csv").read_bytes().decode(errors="surrogateescape")
    assert all(letter.isprintable() or letter in "\n\udce9" for letter in text)
    cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
    assert len(text.splitlines()) == len(NAMES) + 2
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


@pytest.mark.risk(12)
@pytest.mark.parametrize("name", ["a b", "x=1;y", "plain", "-x"])
def test_a_printed_command_can_be_pasted(name: str) -> None:
    python, script, *flags = shlex.split(Run(Path("checkpoints") / name).resume_command())
    assert (python, script) == ("python", "train.py")
    assert train_parser().parse(flags) == {"resume": True, "name": name}


@pytest.mark.risk(39)
@pytest.mark.parametrize(
    ("degrade", "fix"),
    [
        ("sr:2", "test a run that upscales"),
        ("sr:2+noise:5", "--degrade noise:5"),
        ("blur:1+sr:4+noise:5", "--degrade blur:1+noise:5"),
    ],
)
def test_a_hint_about_the_scale_works(run: Path, cli: InProcess, degrade: str, fix: str) -> None:
    test_set("set", size=(40, 44))
    flags = ("--dataroot", "set", "--layout", "clean", "--degrade")
    refused = cli.test(*flags, degrade, code=2)
    assert refused.refused("scale", fix)
    if fix.startswith("--"):
        assert cli.test(*flags[:-1], *shlex.split(refused.fix)).summary["images"] == 6


@pytest.mark.risk(39)
@pytest.mark.parametrize(
    ("load", "left"), [("best", "latest"), ("latest", "best"), ("7", "best"), ("best", "epoch_0003")]
)
def test_a_missing_checkpoint_names_those_that_exist(run: Path, cli: InProcess, load: str, left: str) -> None:
    (run / "best_net.pth").rename(run / "kept")
    (run / "latest_net.pth").unlink()
    (run / "kept").rename(run / f"{left}_net.pth")
    refused = cli.test("--load", load, code=2)
    assert refused.fix == f"--load {'3' if left == 'epoch_0003' else left}"
    assert cli.test(*shlex.split(refused.fix)).summary["complete"]


@pytest.mark.risk(39)
@pytest.mark.parametrize(
    ("change", "said", "loss"),
    [(-3.689, "-3.69", True), (-0.006, "-0.01", True), (-0.004, "+0.00", False), (0.5, "+0.50", False)],
)
def test_an_ensemble_that_loses_is_not_called_a_gain(change: float, said: str, loss: bool) -> None:
    results = Results()
    results.add("a", {"psnr": 20 + change, "psnr_single": 20.0}, 0.1)
    (line,) = [line for line in headline(results, Protocol()) if "x8" in line]
    assert line.startswith(f"x8 changes PSNR by {said} dB") and "gain" not in line
    assert ("leave --x8 out" in line) == loss


# ------------------------------------------------------------------------------------------- page, photos


@pytest.mark.slow
@pytest.mark.risk(38)
def test_a_page_of_many_images_is_within_its_limit(tmp_path: Path) -> None:
    noise = [image(240, 320, seed=seed) for seed in range(3)]
    report, count = Report(700), 700
    rows = [{"name": f"{i}.png", "psnr": float(i)} for i in range(count)]
    for i, row in enumerate(rows):
        report.add(str(row["name"]), *noise, float(i), f"outputs/{i} #.png")
    report.write(tmp_path / "index.html", "t", [], rows)
    assert (tmp_path / "index.html").stat().st_size < PAGE_LIMIT
    data = strict_json(Outline((tmp_path / "index.html").read_text()).texts["data"])
    shown = {int(row["name"][:-4]) for row in data["rows"] if "thumbs" in row}
    assert {0, 1, 2, 3, 699} <= shown and len(shown) < 400  # the worst, and of the good ones a sample
    assert len(shown & set(range(400, 700))) >= 8
    assert all(row["link"] == f"./outputs/{i}%20%23.png" for i, row in enumerate(data["rows"]))
    assert len(report.thumbs.files) == len(shown) and "images have no pictures here" in data["notes"][0]


@pytest.mark.risk(38)
@pytest.mark.parametrize(
    ("count", "size", "budgets", "thumbs"),
    [
        (90, (60, 80), (2**20, 2**18), (30, 40)),  # as large as their thumbnails
        (40, (200, 200), (2**23, 2**20), (40, 40)),  # only the previews are too many
        (60, (20, 900), (2**17, 2**18), (24, 59)),
        (30, (300, 400), (2**10, 2**10), (24, 24)),  # room for none: the sample stays
    ],
    ids=["small", "square", "long", "no room"],
)
def test_pictures_of_a_page_stay_within_their_budgets(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    size: tuple[int, int],
    budgets: tuple[int, int],
    thumbs: tuple[int, int],
) -> None:
    """The worst images and an even sample have pictures; all of them have a row and a link."""
    monkeypatch.setattr(report_module, "THUMB_BUDGET", budgets[0])
    monkeypatch.setattr(report_module, "PREVIEW_BUDGET", budgets[1])
    noise, report = [image(*size, seed=seed) for seed in range(3)], Report(count)
    rows = [{"name": f"{i}.png", "psnr": float(i)} for i in range(count)]
    for i, row in enumerate(rows):
        report.add(str(row["name"]), *noise, float(i), f"outputs/{i}.png")
    report.write(tmp_path / "index.html", "t", [], rows)
    data = strict_json(Outline((tmp_path / "index.html").read_text()).texts["data"])
    shown = [i for i, row in enumerate(data["rows"]) if "thumbs" in row]
    assert thumbs[0] <= len(shown) <= thumbs[1] and report.sample <= {*shown}
    kept = [i for i in shown if i not in report.sample]
    assert kept == [i for i in range(len(kept) + len(report.sample)) if i not in report.sample][: len(kept)]
    for shelf, budget in zip((report.thumbs, report.large), budgets, strict=True):
        assert shelf.bytes <= budget or {*shelf.files} == {f"{i}.png" for i in report.sample}
    assert [row["link"] for row in data["rows"]] == [f"./outputs/{i}.png" for i in range(count)]
    assert len(data["notes"]) == 1


def photo(path: str, profile: bytes, orientation: int = 6) -> Path:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", orientation
    exif.get_ifd(0x8769)[0x9003] = "2026:11:01 10:00:00"
    exif.get_ifd(0x8769)[40962] = 48
    return save(
        image(40, 48, smooth=True), Path(path), icc_profile=profile, dpi=(300, 300), exif=exif.tobytes()
    )


@pytest.mark.risk(41)
@pytest.mark.parametrize("kind", ["jpg", "JPEG", "png", "tif", "webp"])
def test_a_photo_keeps_its_format_and_what_belongs_to_it(run: Path, cli: InProcess, kind: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    given = photo(f"photo.{kind}", profile)
    found = cli.test("--dataroot", str(given)).results / "outputs" / given.name
    with Image.open(found) as output, Image.open(given) as source:
        assert output.format == source.format
        assert output.size == (40, 48)  # upright
        exif = output.getexif()
        assert exif.get(0x0112, 1) == 1 and exif[0x010F] == "Maker"
        assert exif.get_ifd(0x8769)[0x9003] == "2026:11:01 10:00:00"
        assert exif.get_ifd(0x8769)[40962] == 40
        assert output.info["icc_profile"] == profile
        if kind != "webp":
            assert [round(float(each)) for each in output.info["dpi"]] == [300, 300]
        if source.format == "JPEG":
            assert output.layer[0][1:3] == (1, 1)  # 4:4:4


@pytest.mark.risk(41)
@pytest.mark.parametrize(
    ("output", "file", "kind"),
    [
        ("clear.jpg", "clear.jpg", "JPEG"),
        ("new/place/clear.PNG", "new/place/clear.PNG", "PNG"),
        ("clear.webp", "clear.webp", "WEBP"),
        ("folder/", "folder/a.bmp", "BMP"),
        ("there", "there/a.bmp", "BMP"),
        ("no suffix", "no suffix/a.bmp", "BMP"),
    ],
)
def test_output_of_one_photo(run: Path, cli: InProcess, output: str, file: str, kind: str) -> None:
    save(image(20, 24), Path("in/a.bmp"))
    Path("there").mkdir()
    cli.test("--dataroot", "in/a.bmp", "--output", output)
    with Image.open(file) as found:
        assert (found.format, found.size) == (kind, (24, 20))
    assert [path for path in tree(Path("results")) if path.endswith(Path(file).name)] == []


@pytest.mark.risk(41)
@pytest.mark.parametrize("suffix", [".heic", ".avif", ".JXL", ".pdf", ".mp4"])
def test_an_output_in_a_format_that_is_not_written_is_refused(run: Path, cli: InProcess, suffix: str) -> None:
    save(image(20, 24), Path("in/a.png"))
    ended = cli.test("--dataroot", "in/a.png", "--output", f"out/a{suffix}", code=2)
    assert ended.refused(f"{suffix.lower()} files are not written", "end the name with /")
    assert not Path("out").exists()
    done = cli.test("--dataroot", "in/a.png", "--output", f"out/a{suffix}/")
    assert Path(f"out/a{suffix}/a.png").is_file() and f"images  out/a{suffix}/a.png" in done.out


@pytest.mark.risk(41)
def test_output_of_a_folder(run: Path, cli: InProcess) -> None:
    save(image(20, 24), Path("in/a.png"))
    save(image(20, 24), Path("in/sub/b.jpg"))
    ended = cli.test("--dataroot", "in", "--output", "out")
    assert {*tree(Path("out"))} == {"a.png", "sub", "sub/b.jpg"}
    assert "images  out/\n" in ended.out
    assert ended.data["rows"][0]["link"] == "./../../../out/a.png"
    assert not list((ended.results / "outputs").iterdir())


@pytest.mark.risk(41)
@pytest.mark.parametrize(
    ("output", "word"),
    [
        ("in", "is an input"),
        ("in/a.png", "is an input"),
        ("one.png", "into one file"),
        ("loop", "is an input"),
    ],
)
def test_an_output_never_replaces_an_input(run: Path, cli: InProcess, output: str, word: str) -> None:
    save(image(20, 24), Path("in/a.png"))
    Path("loop").symlink_to("in")
    before = tree(Path("in"))
    root = "in/a.png" if "a.png" in output else "in"
    if word == "into one file":
        save(image(20, 24), Path("in/b.png"))
        before = tree(Path("in"))
    assert cli.test("--dataroot", root, "--output", output, code=2).refused(word, "--output")
    assert tree(Path("in")) == before and not Path("results/run/in").exists()


@pytest.mark.risk(41)
def test_a_measured_output_is_lossless(run: Path, cli: InProcess) -> None:
    test_set("set", 1, names=["a.jpg"])
    assert cli.test("--dataroot", "set", "--output", "x.jpg", code=2).refused("not lossless")
    ended = cli.test("--dataroot", "set", "--output", "x.png")
    output, target = pixels(Path("x.png")), pixels(Path("set/target/a.jpg"))
    mse = np.mean((output / 255 - target / 255) ** 2)
    assert ended.numbers("psnr")[0] == pytest.approx(-10 * np.log10(mse), abs=1e-4)
