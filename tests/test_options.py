"""The command line: help on two levels, one parse, presets under flags, hints."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import ROOT, TINY, error_of, words, write_run
from utils.options import describe, parse_test, parse_train, resolve
from utils.options.flags import TEST, TRAIN
from utils.options.parser import SYNONYMS, Parser
from utils.options.presets import PRESETS, short_run_options
from utils.options.resolve import Options
from utils.system.errors import UserError

PARSERS = {"train.py": resolve.train_parser, "test.py": resolve.test_parser}
OWNER = {"epoch": 0, "n_epochs": 40, "batchSize": 1, "dataroot": "datasets/", "lr": 0.0002, "gpu_ids": "0"}


def helped(script: str, *flags: str) -> list[str]:
    command = [sys.executable, str(ROOT / script), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("script", PARSERS)
def test_help_shows_what_is_used_most_and_help_all_everything(script: str) -> None:
    parser, short, full = PARSERS[script](), helped(script, "--help"), helped(script, "--help", "all")
    assert len(short) <= 70 and max(map(len, short)) <= 80
    for flags in (TRAIN if script == "train.py" else TEST).values():
        for flag in flags:
            shown = [any(line.lstrip().startswith(flag.names[0]) for line in text) for text in (short, full)]
            assert shown == [flag.common, True], flag.names
    assert f"--help all shows all {len(parser.defaults)}" in "\n".join(short)


@pytest.mark.parametrize(("script", "most"), [("train.py", 85), ("test.py", 45)])
def test_the_number_of_flags_is_bounded(script: str, most: int) -> None:
    assert len(PARSERS[script]().defaults) <= most


def test_the_flags_of_the_owner_keep_their_defaults() -> None:
    defaults = resolve.train_parser().defaults
    assert {name: defaults[name] for name in OWNER} == OWNER
    assert (defaults["model"], defaults["optimizer"], defaults["beta1"]) == ("resnet", "adam", 0.5)


@pytest.mark.parametrize("script", PARSERS)
def test_defaults_are_values_that_their_flags_accept(script: str) -> None:
    parser = PARSERS[script]()
    for flags in parser.table.values():
        for flag in flags:
            if flag.default in (None, False):
                continue
            value = flag.default if isinstance(flag.default, list) else [flag.default]
            typed = parser.parse(
                [flag.names[0], ",".join(f"{x:g}" if isinstance(x, float) else str(x) for x in value)]
            )
            assert typed == {flag.dest: flag.default}


# ---------------------------------------------------------------------------------------- what overrides what


def test_typed_flags_win_over_presets_and_presets_over_defaults(tmp_path: Path) -> None:
    opt = parse_train(["--dataroot", "demo", "--preset", "fine", "--lr", "0.5", "--name", "x"])
    assert opt.lr == 0.5 and opt.changed == {"lr", "dataroot", "preset", "name"}
    for key, value in PRESETS["fine"].items():
        assert key == "lr" or getattr(opt, key) == value
    assert opt.beta2 == 0.999


@pytest.mark.parametrize("minutes", [1, 3, 5, 20, 600])
def test_a_preset_may_depend_on_the_minutes(minutes: float) -> None:
    given = ["--dataroot", "demo", "--preset", "fine", "--minutes", str(minutes)]
    opt, changes = parse_train(given), short_run_options("fine", minutes)
    assert bool(changes) == (minutes <= 8)
    said = [line for line in describe(opt).splitlines() if "fine for short runs" in line]
    assert {key: getattr(opt, key) for key in changes} == changes and len(said) == bool(changes)
    assert all(f"{key}={value}" in said[0] for key, value in changes.items())
    assert opt.changed == {"dataroot", "preset", "minutes"}
    typed = parse_train([*given, "--lr", "0.5"])
    assert typed.lr == 0.5 and typed.schedule == changes.get("schedule", "cosine")
    assert "lr=0.5" in describe(typed) and f"lr={changes.get('lr')}" not in describe(typed)


@pytest.mark.parametrize(
    ("flags", "changed"),
    [((), {"dataroot"}), (("--lr", "0.0002"), {"dataroot"}), (("--lr", "0.1"), {"dataroot", "lr"})],
)
def test_changed_is_what_differs_from_the_defaults(flags: tuple[str, ...], changed: set[str]) -> None:
    assert parse_train(["--dataroot", "demo", *flags]).changed == changed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("--manifest", "demo:2:32"), ("--dataroot", "demo:2:32")),
        (("--worker_timeout", "20"), ("--timeout", "20")),
        (("--dist_timeout", "20"), ("--timeout", "20")),
        (("--batch_size", "3"), ("--batchSize", "3")),
    ],
)
def test_older_names_of_a_flag_are_the_same_flag(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert vars(parse_train([*TINY, *one])) == vars(parse_train([*TINY, *other]))


@pytest.mark.parametrize(
    ("flags", "hinted"),
    [((), True), (("--lr", "1e-3"), True), (("--minutes", "1"), False), (("--n_epochs", "3"), False)],
)
def test_the_bare_recipe_recommends_minutes(flags: tuple[str, ...], hinted: bool) -> None:
    lines = describe(parse_train(["--dataroot", "demo", *flags])).splitlines()
    assert [line.startswith("hint") and "--minutes" in line for line in lines].count(True) == hinted


@pytest.mark.risk(40)
@pytest.mark.parametrize(
    ("degrade", "preset", "share"),
    [
        ("", "coarse", (0.8, 1.0)),  # the demo's haze
        ("gray", "coarse", (0.5, 1.0)),
        ("noise:25", "fine", (0.002, 0.006)),  # independent noise: 1 / 256
        ("blur:2", "fine", (0.0, 0.1)),
        ("sr:2", "fine", (0.0, 0.1)),
    ],
)
def test_minutes_alone_choose_the_preset_by_the_data(
    degrade: str, preset: str, share: tuple[float, float]
) -> None:
    flags = ["--degrade", degrade] if degrade else []
    opt = parse_train(["--dataroot", "demo:8:96", "--minutes", "5", *flags])
    assert (opt.preset, opt.model) == (preset, "resunet") and opt.name == "demo_resunet"
    (said,) = (line for line in describe(opt).splitlines() if line.startswith("preset"))
    found = float(re.search(r"leaves ([\d.]+)%", said)[1]) / 100  # type: ignore[index]
    assert share[0] <= found <= share[1]


@pytest.mark.parametrize(
    ("flags", "preset", "model"),
    [
        (("--preset", "coarse"), "coarse", "resunet"),
        (("--model", "dncnn"), None, "dncnn"),
        (("--preset", "coarse", "--model", "unet"), "coarse", "unet"),
    ],
)
def test_a_preset_or_model_that_was_typed_is_kept(
    flags: tuple[str, ...], preset: str | None, model: str
) -> None:
    opt = parse_train(["--dataroot", "demo:8:96", "--degrade", "noise:25", "--minutes", "5", *flags])
    assert (opt.preset, opt.model, opt.reason) == (preset, model, "")


# ------------------------------------------------------------------------------------------- weights of a run


def test_weights_of_a_run_bring_their_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `--model` and the network's flags would have to repeat; a flag that was typed wins."""
    monkeypatch.chdir(tmp_path)
    first = parse_train(words("--dataroot demo --preset coarse --width 24 --mean 0 --name first"))
    saved = {key: value for key, value in vars(first).items() if key not in Options.__slots__}
    write_run(tmp_path / "checkpoints/first", saved | {"input_nc": 1, "output_nc": 3})
    file = tmp_path / "checkpoints/first/best_netBA.pth"
    for weights in (Path("checkpoints/first/best_net.pth"), file):
        weights.write_bytes(b"")
        opt = parse_train(["--dataroot", "demo", "--weights", str(weights), "--name", "other"])
        names = ("model", "stem", "levels", "depth", "width", "mean", "std")
        assert [getattr(opt, name) for name in names] == ["resunet", 4, 4, 2, 24, 0, 0.5]
        assert [opt.input_nc, opt.output_nc] == ([3, 1] if weights == file else [1, 3])
        assert (opt.crop_size, opt.optimizer) == (None, "adam"), "the recipe is not the network's"
        assert any("network as in" in note and "first" in note for note in opt.notes)
    typed = parse_train(["--dataroot", "demo", "--weights", str(file), "--width", "8", "--name", "other"])
    assert (typed.model, typed.width) == ("resunet", 8)
    other = parse_train(["--dataroot", "demo", "--weights", str(file), "--model", "unet", "--name", "other"])
    assert (other.model, other.depth, other.input_nc, other.notes) == ("unet", 5, None, [])
    (tmp_path / "alone.pth").write_bytes(b"")
    assert parse_train(["--dataroot", "demo", "--weights", "alone.pth"]).model == "resnet"


# ------------------------------------------------------------------------------------------------------ hints


@pytest.mark.parametrize(
    ("script", "typed", "meant"),
    [
        ("train.py", "--epochs", "--n_epochs"),
        ("train.py", "--steps", "--max_steps"),
        ("train.py", "--learning_rate", "--lr"),
        ("train.py", "--learning-rate", "--lr"),
        ("train.py", "--data", "--dataroot"),
        ("train.py", "--gpus=1", "--gpu_ids"),
        ("train.py", "--workers", "--num_workers"),
        ("train.py", "--batchsize", "--batchSize"),
        ("train.py", "--croop_size", "--crop_size"),
        ("train.py", "--n_epoch", "--n_epochs"),
        ("test.py", "--out", "--results_dir"),
        ("test.py", "--output_dir", "--results_dir"),
        ("test.py", "--phase", "--split"),
        ("test.py", "--tilesize", "--tile"),
    ],
)
def test_a_wrong_flag_is_answered_with_the_useful_one(script: str, typed: str, meant: str) -> None:
    parse = parse_train if script == "train.py" else parse_test
    with pytest.raises(UserError) as caught:
        parse([typed, "3"])
    assert caught.value.what == f"unknown argument {typed}" and caught.value.fix == f"did you mean {meant}?"


def test_an_error_names_every_unknown_flag() -> None:
    error = error_of(parse_train, ["--epochs", "3", "--bs", "-4", "--dataroot", "demo", "--xyzzyx"])
    assert error.what == "unknown arguments --epochs, --bs, --xyzzyx"
    assert error.fix == "--epochs: did you mean --n_epochs?; --bs: did you mean --batchSize?"
    error = error_of(parse_train, ["--xyzzyx", "--qqqqqq=1"])
    assert error.what == "unknown arguments --xyzzyx, --qqqqqq=1" and "--help" in error.fix
    assert error_of(parse_train, ["-4"]).what == "unknown argument -4"


@pytest.mark.parametrize(
    ("line", "begun", "wanted", "unwanted"),
    [
        ("python train.py --mod", 2, "--model", "--dataroot"),
        ("python train.py --model res", 2, "resunet", "unet"),
        ("python test.py --psnr_", 2, "--psnr_channel", "--model"),
        ("train.py --dataroot ta", 1, "tanks", "--model"),
    ],
)
def test_a_shell_completes_flags_choices_and_files(
    line: str, begun: int, wanted: str, unwanted: str, tmp_path: Path
) -> None:
    """As argcomplete's function for bash asks; `begun` is the word of the line that is the script, from 1."""
    pytest.importorskip("argcomplete")
    (tmp_path / "tanks").mkdir()
    script = next(word for word in line.split() if word.endswith(".py"))
    assert b"PYTHON_ARGCOMPLETE_OK" in (ROOT / script).read_bytes()[:1024]
    asked = {"_ARGCOMPLETE": str(begun), "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    asked |= {"_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_COMP_WORDBREAKS": " "}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer"), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    subprocess.run([sys.executable, ROOT / script], env=os.environ | asked, cwd=tmp_path, check=True)
    answer = [word.strip().rstrip("/") for word in (tmp_path / "answer").read_text().splitlines()]
    assert wanted in answer and unwanted not in answer, answer


def test_synonyms_name_flags_that_exist_and_none_is_a_flag_itself() -> None:
    known = resolve.train_parser().defaults.keys() | resolve.test_parser().defaults.keys()
    assert {value.split()[0] for value in SYNONYMS.values()} <= known
    assert not SYNONYMS.keys() & known


def test_flags_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train.py @FILE`: a line as a shell reads it; what stands later on the command line wins."""
    monkeypatch.chdir(tmp_path)
    Path("args").write_text("--dataroot 'my images'  # two words\n\n--lr 0.5 --crop_size 64\n")
    opt = resolve.train_parser().parse(["@args", "--lr", "0.25"])
    assert opt == {"dataroot": "my images", "lr": 0.25, "crop_size": 64}
    error = error_of(resolve.train_parser().parse, ["@absent"])
    assert "absent" in error.what
    Path("bad").write_text("--epochs 3")
    assert "--n_epochs" in error_of(resolve.train_parser().parse, ["@bad"]).fix


def test_resume_without_a_name_lists_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("dehaze", "denoise"):
        write_run(tmp_path / "checkpoints" / name, {})
    error = error_of(parse_train, ["--resume"])
    assert error.what == "which run? [--resume]"
    assert error.why == "checkpoints/ holds dehaze, denoise" and "--name" in error.fix
    (tmp_path / "mine").mkdir()  # a run that is named by its data and network
    named = error_of(parse_train, ["--resume", "--dataroot", "mine", "--model", "unet"])
    assert named.what == "no run 'mine_unet' [--name]" and named.why == error.why


@pytest.mark.parametrize("word", ["everything", "All", "3"])
def test_help_knows_one_word(word: str) -> None:
    with pytest.raises(UserError, match="--help all"):
        Parser("x.py", "X.", TRAIN, examples="e").parse(["--help", word])
