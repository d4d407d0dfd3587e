"""From a command line to options: defaults, then the preset, then the saved run, then what was typed."""

import importlib.util
import os
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.augment import parse_augment
from data.degrade import parse_degradation
from data.settings import CHANNELS, DataSettings
from models.fetch import check_weights, weights_name
from models.terms import parse_gan
from utils.options.flags import (
    EXPORT,
    EXPORT_HELP,
    EXPORT_USAGE,
    TEST,
    TEST_EXAMPLES,
    TRAIN,
    TRAIN_EXAMPLES,
)
from utils.options.kinds import NATURAL
from utils.options.network import complete, default_name, resolve_network
from utils.options.objective import another_objective, check_perceptual, network_of_weights, resolve_objective
from utils.options.parser import Parser
from utils.options.presets import preset_options
from utils.options.sources import data_settings
from utils.run.run import ROOT, Run, runs_present
from utils.system.errors import UserError

FIXED_GROUPS = ("data", "network")  # a resumed run keeps these, and
FIXED = {"batchSize", "seed", "preset", "objective"}
CHANGEABLE = {"max_pixels", "crop_size"}  # what an image that stopped the run may need
COARSE_SHARE = 0.5  # between noise, rain, blur (measured: 0.00 to 0.27) and haze, colour (0.69 to 0.96)
PLACES = {"dataroot", "input_dir", "target_dir"}  # the data may be moved: their fingerprint is compared
NOT_SAVED = {"epoch", "resume", "dry_run", "check_data", "data_changed"}  # asked of one command, not of a run
NO_CHOICE = {
    "preset",
    "model",
    "objective",
    "resume",
    "epoch",
    "check_data",
}  # typed, --minutes chooses no preset
OF_ONE_PROCESS = {  # may differ between machines
    *PLACES,
    *("name", "gpu_ids", "num_workers", "cache", "timeout", "debug"),
    *("visdom", "visdom_server", "visdom_port", "tensorboard"),
}


class Options(Namespace):
    """Options by the names of their flags.

    Attributes:
        changed: names of those that differ from the defaults, or of a resumed run from what it had.
        from_files: names of those of a resumed run that its files decided, not a flag.
        reason: why a preset was chosen, where it was not typed.
        notes: lines about what was chosen otherwise than asked or expected.
    """

    __slots__ = ("changed", "from_files", "notes", "reason")

    def __init__(self, values: Mapping[str, Any], changed: set[str], from_files: Sequence[str] = ()):
        super().__init__(**values)
        self.changed, self.from_files = changed, from_files
        self.reason = ""
        self.notes: list[str] = []

    def shared_flags(self) -> dict[str, str]:
        """The flags that all processes of a run must agree on, as texts."""
        return {f"--{key}": f"{value}" for key, value in vars(self).items() if key not in OF_ONE_PROCESS}

    def identity(self) -> dict[str, Any]:
        """What they say about the run that a state belongs to; see `utils.run.origin.Origin`."""
        names = train_parser().group_names("data", "network", "optimisation") - PLACES | {"seed"}
        return {
            "recipe": {key: value for key, value in vars(self).items() if key in names},
            "moved": self.changed & PLACES,
            "accept": self.data_changed == "ok",
        }


def train_parser() -> Parser:
    return Parser("train.py", "Train an image-to-image network.", TRAIN, examples=TRAIN_EXAMPLES)


def test_parser() -> Parser:
    return Parser("test.py", "Measure a trained network on whole images.", TEST, examples=TEST_EXAMPLES)


def parse_train(argv: Sequence[str]) -> Options:
    """The options of train.py; a resumed run has its saved options, overridden by those typed.

    With --minutes, and without --preset and --model, the preset is chosen by the data.

    Raises:
        UserError: a wrong flag or value, a run that exists or does not, a change that would make a resumed
            run another one.
    """
    parser = train_parser()
    typed = parser.parse(argv)
    if "minutes" not in typed or typed.keys() & NO_CHOICE:
        return resolve_train(parser, typed)
    opt = resolve_train(parser, typed | {"preset": "fine"})
    preset, reason = choose_preset(data_settings(opt))
    opt = resolve_train(parser, typed | {"preset": preset})
    opt.reason = reason
    return opt


def choose_preset(settings: DataSettings) -> tuple[str, str]:
    """The preset that suits the data, and the reason in words; UserError where there are no pairs."""
    from data.structure import BOX, coarse_share  # imports torch

    share = coarse_share(settings)
    left = f"averaging over {BOX} x {BOX} boxes leaves {share:.1%} of the inputs' squared error"
    return ("coarse" if share > COARSE_SHARE else "fine"), left


def resolve_train(parser: Parser, typed: dict[str, Any]) -> Options:
    """The options of train.py by what was typed; raises as `parse_train`."""
    base = parser.defaults | preset_options(typed.get("preset", ""), typed.get("minutes"))
    of_weights = {} if typed.keys() & {"resume", "epoch"} else network_of_weights(typed)
    base |= of_weights
    asked = base | typed
    run = Run.named(asked["name"] or default_name(asked["dataroot"], asked["model"]))
    resumes = asked["resume"] or asked["epoch"] > 0
    before, from_files = base, []
    if resumes:
        if not (run.exists() or typed.keys() & {"name", "dataroot", "model"}):
            why = f"{ROOT}/ holds {runs_present() or 'none'}"
            raise UserError("which run? [--resume]", why, "name it by --name")
        saved = upgrade(run.options())
        check_saved(saved, parser, run)
        kept = parser.defaults.keys() - NOT_SAVED | {"held_out"}
        before = {key: value for key, value in saved.items() if key in kept}
        from_files = [key for key in CHANNELS if key in str(saved.get("from_files"))]
    elif asked["weights"]:
        check_weights(asked["weights"])
    typed = complete(typed, before)
    if "gan" in typed:  # over the settings of the preset, or of the run
        typed = typed | {"gan": str(parse_gan(typed["gan"], parse_gan(before.get("gan") or ""))) or None}
    changed = {key for key in typed.keys() & before.keys() if not _same_value(key, typed[key], before[key])}
    changed |= {"minutes"} & typed.keys()  # of a resumed run the same number means that much more time
    if resumes:
        rendered = any(each["dataroot"].startswith("demo") for each in (before, asked))
        fixed = parser.group_names(*FIXED_GROUPS) - CHANGEABLE | FIXED
        fixed = fixed if rendered else fixed - PLACES
        _refuse_another_run(run, changed & fixed | another_objective(typed, before), before)
    elif typed.get("data_changed"):
        raise UserError("--data_changed is for a run that continues", fix="add --resume, or leave it out")
    elif run.taken() and not (asked["dry_run"] or asked["check_data"]):
        raise UserError(f"{run.folder} exists", fix="continue with --resume, or choose another --name")
    length = _other_length(typed, before, resumes)
    opt = Options(base | before | length | typed | {"name": run.name}, changed, from_files)
    resolve_network(opt, changed)
    resolve_objective(opt, typed)
    _check_train(opt)
    if of_weights:
        opt.notes.append(f"network as in {Path(typed['weights']).parent}")
    return opt


def parse_test(argv: Sequence[str]) -> Options:
    """The options of test.py.

    Raises:
        UserError: a wrong flag or value, or network flags beside a run that has its own.
    """
    parser = test_parser()
    typed = parser.parse(argv)
    opt = Options(parser.defaults | typed, set(typed))
    if opt.model and not (opt.weights and opt.dataroot):
        raise UserError("--model needs --weights and --dataroot", fix="or name a run by --name")
    _resolve_run(opt, parser)
    check_perceptual({"lite0", "kid"} & set(opt.metrics), "metrics")
    if opt.tile and opt.tile_overlap >= opt.tile:
        raise UserError(
            f"--tile_overlap {opt.tile_overlap} is not smaller than --tile {opt.tile}", fix="lower it"
        )
    return opt


def parse_export(argv: Sequence[str]) -> Options:
    """The options of `python -m utils.export`.

    Raises:
        UserError: a wrong flag or value, or flags that contradict each other.
    """
    parser = Parser(*EXPORT_HELP, EXPORT, EXPORT_USAGE)
    parser.add_argument("name", nargs="?", metavar="RUN", help="run in checkpoints/")
    parser.add_argument("--size", nargs=2, type=NATURAL, metavar=("H", "W"), help="export for one size")
    typed = {key: value for key, value in parser.parse(argv).items() if value is not None}
    opt = Options({"name": None, "size": None} | parser.defaults | typed, set(typed))
    if opt.model and not opt.weights:
        raise UserError("--model needs --weights", fix="or name a run")
    if opt.card and opt.model:
        raise UserError("--card describes a run", fix="name a run")
    _resolve_run(opt, parser)
    if opt.target and opt.to != "onnx":
        raise UserError(f"--target {opt.target} takes --to onnx", fix="drop one of them")
    if opt.to == "safetensors" and (wrong := sorted({"size", "half"} & opt.changed)):
        raise UserError(f"--{wrong[0]} has no effect on --to safetensors", fix="drop it")
    return opt


def _resolve_run(opt: Options, parser: Parser) -> None:
    """Take the network from the run, or from --model and its flags; name what has only --weights."""
    if not re.fullmatch(r"best(_psnr)?(_step_\w+)?|latest|\d+", opt.load):
        raise UserError(f"bad checkpoint [--load {opt.load}]", fix="best, latest, or the number of an epoch")
    titles = [title for title in parser.table if title.startswith("network")]
    if opt.model:
        opt.input_nc = opt.input_nc or 3
        opt.output_nc = opt.output_nc or opt.input_nc
        resolve_network(opt, opt.changed)
        opt.name = opt.name or re.sub(r"[^\w.\-=+]", "_", weights_name(opt.weights))
    elif flags := sorted((parser.group_names(*titles) - {"weights"}) & opt.changed):
        raise UserError(f"--{flags[0]} comes from the run", fix="leave it out, or give --model and --weights")
    elif not opt.name:
        raise UserError("which run?", fix="--name RUN, or --weights FILE with --model")
    if opt.weights:
        check_weights(opt.weights)


def saved_options(run: Run) -> Options:
    """The options of a run, older ones included; what an older run did not know has its default.

    Raises:
        UserError: no such run.
    """
    parser, saved = train_parser(), upgrade(run.options())
    check_saved(saved, parser, run)
    return Options(parser.defaults | saved, set())


def network_to_test(opt: Namespace, saved: Namespace) -> tuple[Namespace, str]:
    """(the options of the network to test, the name of its weights): "netBA" for the way back of a run
    without pairs, whose inputs are the targets of the run."""
    if getattr(saved, "objective", None) != "cycle" or opt.direction in (None, saved.direction):
        return saved, "net"
    back = Options(vars(saved), set())
    back.input_nc, back.output_nc, back.direction = saved.output_nc, saved.input_nc, opt.direction
    back.max_value = saved.max_value and ",".join(saved.max_value.split(",")[::-1])
    return back, "netBA"


def check_saved(saved: Mapping[str, Any], parser: Parser, run: Run) -> None:
    """Raise UserError where a saved option has a value that its flag does not accept."""
    for each in (each for flags in parser.table.values() for each in flags):
        if each.dest in saved and not each.accepts(saved[each.dest]):
            what = f"{run.options_file} has a bad value of '{each.dest}'"
            raise UserError(
                what, f"{saved[each.dest]!r}"[:80], "restore a copy of the file, or correct the value"
            )


def upgrade(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Options of any older version as this one has them."""
    options = dict(saved)
    if (
        "val_from" in options
    ):  # until November 2026: which split validates, and the share held out if none does
        held_out = "held out" in str(options.get("data", ["", ""])[-1]) or options["val_from"] == "train"
        options["val_share"] = options.get("val_share") if held_out else None
        del options["val_from"]
    listed = re.search(r" targets?, (aligned|suffix) \(", str(options.get("data")))
    if listed and options.get("layout") == "auto":  # until November 2026 these two were detected more freely
        options["layout"] = listed[1]
    if "dist_timeout" in options:
        options["timeout"] = max(options.pop("dist_timeout"), options.pop("worker_timeout", 0))
    return options


# ---------------------------------------------------------------------------------------------------- checks


def _same_value(key: str, one: Any, other: Any) -> bool:
    """Whether two values of an option mean the same; a place may be spelled in several ways."""
    if key in PLACES and one and other:
        return os.path.realpath(one) == os.path.realpath(other)
    return bool(one == other)


def _other_length(typed: Mapping[str, Any], before: Mapping[str, Any], resumes: bool) -> dict[str, Any]:
    """The default, or saved, length that gives way where only the other one is typed.

    >>> _other_length({"max_steps": 50}, {"n_epochs": 40}, False)  # an epoch has at least one step
    {'n_epochs': 50}
    >>> _other_length({"n_epochs": 8}, {"n_epochs": 4, "max_steps": 20}, True)
    {'max_steps': None}
    """
    kinds = typed.keys() & {"n_epochs", "max_steps"}
    if kinds == {"max_steps"} and typed["max_steps"]:
        return {"n_epochs": max(before["n_epochs"], typed["max_steps"])}
    return {"max_steps": None} if resumes and kinds == {"n_epochs"} else {}


def _refuse_another_run(run: Run, changed: set[str], before: Mapping[str, Any]) -> None:
    if changed:
        key = min(changed)
        raise UserError(
            f"--{key} cannot change within a run",
            f"{run.name} was started with {before[key]}",
            "leave it out, or start another --name (with --weights to begin from this run's weights)",
        )


def _check_train(opt: Options) -> None:
    if opt.minutes and (other := sorted({"n_epochs", "max_steps"} & opt.changed)):
        raise UserError(f"--minutes and --{other[0]} both set the length", fix="leave one out")
    if opt.epoch >= opt.n_epochs and not opt.minutes:
        raise UserError(
            f"nothing to train from --epoch {opt.epoch} to --n_epochs {opt.n_epochs}", fix="raise --n_epochs"
        )
    if (opt.val_share or 0) + (opt.test_share or 0) >= 1:
        what = f"--val_share {opt.val_share} and --test_share {opt.test_share} leave nothing to train on"
        raise UserError(what, fix="lower them")
    if opt.size and opt.crop_size and opt.crop_size > opt.size:
        raise UserError(f"--crop_size {opt.crop_size} does not fit into --size {opt.size}", fix="lower it")
    if parse_augment(opt.augment).windows > 1 and not opt.crop_size:
        what = f"--augment {opt.augment} chooses among random crops, and there is no --crop_size"
        raise UserError(what, fix="give --crop_size 64, or leave texture out")
    if opt.accum > opt.batchSize:
        raise UserError(
            f"--accum {opt.accum} splits --batchSize {opt.batchSize} into more parts than it has images",
            fix="lower --accum or raise --batchSize",
        )
    if opt.cache == "device":
        off_device = opt.degrade and not parse_degradation(opt.degrade).on_device
        wrong = [f"--degrade {opt.degrade} is computed on the CPU"] * bool(off_device)
        wrong += [f"--num_workers {opt.num_workers} cuts batches in other processes"] * bool(opt.num_workers)
        if wrong:
            raise UserError(f"{wrong[0]}: it cannot be used with --cache device", fix="use --cache ram")
    if opt.tensorboard and importlib.util.find_spec("tensorboard") is None:  # before a run is made
        raise UserError("tensorboard is not installed [--tensorboard]", fix="pip install tensorboard")
    if not opt.dataroot.startswith("demo") and not Path(opt.dataroot).exists():
        moved = "if the data were moved, name their new place by --dataroot"
        fix = moved if opt.resume or opt.epoch else "name a folder, or demo"
        raise UserError(f"no such folder [--dataroot {opt.dataroot}]", fix=fix)
