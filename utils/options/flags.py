"""Every flag, once. The two scripts share blocks; a run's own options are the defaults when it is resumed."""

import argparse
import difflib
import importlib.util
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from data.augment import AUGMENTATIONS
from data.degrade import DEGRADATIONS
from data.images import MAX_PIXELS
from data.layouts import LAYOUTS
from data.pairs import Source
from models import ACTIVATIONS, INITS, LOSSES, NETWORKS, NORMS, UNIT_RANGE, UPSAMPLES, network_defaults
from utils.optim.optimizers import OPTIMIZERS
from utils.optim.schedules import SCHEDULES
from utils.run.run import Run
from utils.system.errors import UserError

LARGEST = 2**31 - 1  # of whole numbers: what torch's seeds and sizes take
METRICS = ("psnr", "ssim", "mae", "lpips")
NETWORK_FLAGS = ("width", "depth", "levels", "stem", "norm", "act", "init", "upsample")


# Most dB a minute of what was tried on two cores: on BSD400 with noise 25, judged on 20 of its images. They
# differ in how far the network looks: fine structure is seen close by, haze and light from afar.
RECIPE: dict[str, Any] = {
    "model": "resunet",
    "batchSize": 8,
    "beta1": 0.9,
    "weight_decay": 0.01,
    "loss": "charbonnier",
    "schedule": "cosine",
    "warmup": 0.2,
    "ema": 0.999,
    "clip": 1.0,
    "channels_last": True,
}
PRESETS: dict[str, dict[str, Any]] = {
    "fine": {
        **RECIPE,
        **{"stem": 2, "levels": 1, "depth": 14, "width": 48, "crop_size": 64},
        **{"optimizer": "muon", "momentum": 0.95, "lr": 2e-3},
    },
    "coarse": {
        **RECIPE,
        **{"stem": 4, "levels": 4, "depth": 2, "width": 32, "crop_size": 128},
        **{"optimizer": "adamw", "lr": 1.5e-3},  # muon's products cost more than they gain at 256 channels
    },
}


class Parser(argparse.ArgumentParser):
    """argparse with messages that say what to do, and without abbreviations."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, formatter_class=_Help, usage="%(prog)s [flags]", **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(message, fix=f"{self.prog} --help lists every flag")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse everything; an unknown flag is answered with the nearest known one."""
        opt, extra = self.parse_known_args(argv)
        if extra:
            raise UserError(f"unknown argument {extra[0]}", fix=self._meant(extra[0], argv))
        if empty := [name for name, value in vars(opt).items() if value == ""]:
            raise UserError(f"--{empty[0]} is empty", fix="give it a value, or leave it out")
        return opt

    def _meant(self, word: str, argv: Sequence[str]) -> str:
        """What may mend an argument that is not known."""
        flags = {flag: action for action in self._actions for flag in action.option_strings}
        before = argv[argv.index(word) - 1] if word in argv[1:] else ""
        if before in flags and flags[before].nargs == 0 and not word.startswith("-"):
            return f"{before} takes no value: it stands alone, or is left out"
        word = word.split("=")[0]
        begun = [flag for flag in flags if word.startswith("--") and flag.startswith(word)]
        near = begun or difflib.get_close_matches(word, flags, n=1, cutoff=0.5)
        said = word.startswith("-") and near
        return f"did you mean {near[0]}?" if said else f"{self.prog} --help lists every flag"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = [str(choice) for choice in action.choices or ()]
        near = difflib.get_close_matches(str(value), choices, n=1)
        if near and value not in (action.choices or ()):
            flag = "/".join(action.option_strings)
            what = f"argument {flag}: invalid choice: {value!r} (choose from {', '.join(choices)})"
            raise UserError(what, fix=f"did you mean {near[0]}?")
        super()._check_value(action, value)

    def given(self, argv: Sequence[str]) -> set[str]:
        """Names of the options that stand on the command line."""
        unset = object()
        blank = argparse.Namespace(**{action.dest: unset for action in self._actions})
        opt, _ = self.parse_known_args(argv, blank)
        return {name for name, value in vars(opt).items() if value is not unset}

    def group_names(self, *titles: str) -> set[str]:
        """Names of the options in the groups of these titles."""
        return {
            a.dest for group in self._action_groups if group.title in titles for a in group._group_actions
        }


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28, width=80)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def number(kind: Callable[[str], Any], low: float = 0.0, high: float = math.inf, above: bool = False) -> Any:
    """An argparse type: a finite number of at least `low` (or above it) and at most `high`."""
    largest = LARGEST if kind is int else sys.float_info.max
    told, high = high < largest, min(high, largest)

    def convert(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high or (above and value == low):  # NaN is not within either
            bounds = f"above {low:g}" if above else f"at least {low:g}"
            most = f", at most {high if kind is int else format(high, 'g')}"
            raise argparse.ArgumentTypeError(f"{text[:40]} must be {bounds}" + most * (told or value > high))
        return value

    convert.__name__ = kind.__name__
    return convert


def gpu_list(text: str) -> str:
    """`0`, `0,1`, `-1` or `cpu`, `mps`; blanks and doubles are forgiven."""
    compact = text.replace(" ", "")
    if compact in ("cpu", "-1"):
        return "-1"
    if compact == "mps" or re.fullmatch(r"\d+(,\d+)*", compact):
        return ",".join(dict.fromkeys(compact.split(",")))
    raise argparse.ArgumentTypeError(f"{text!r} is no list of ids such as 0 or 0,1 (-1: CPU)")


def milestones(text: str) -> list[float]:
    try:
        found = [number(float)(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of epochs such as 20,30")
    return found


def server(text: str) -> str:
    """`http://localhost`, or without `http://`."""
    parts = urlsplit(text if "://" in text else f"//{text}")
    if parts.scheme not in ("", "http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is no address such as http://localhost")
    if parts.port is not None:
        raise argparse.ArgumentTypeError(f"{text!r} has a port, which --visdom_port says")
    return text


def metric_list(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names or set(names) - set(METRICS):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of {', '.join(METRICS)}")
    return names


def pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    return text


# --------------------------------------------------------------------------------------------- shared blocks

COUNT, NATURAL = number(int, 0), number(int, 1)
POSITIVE, FRACTION = number(float, 0, above=True), number(float, 0, 1)


def add_source(parser: Parser, dataroot: str | None) -> Any:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataroot", default=dataroot, help="folder of the images, one image, or demo[:SCENES:SIZE]"
    )
    group.add_argument(
        "--manifest",
        dest="dataroot",
        default=argparse.SUPPRESS,
        help="instead: a CSV file of pairs, with columns input,target and perhaps split",
    )
    group.add_argument(
        "--layout", default="auto", choices=["auto", *LAYOUTS], help="how the pairs lie on disk"
    )
    group.add_argument("--input_dir", help="folder of the inputs, within --dataroot or a path of its own")
    group.add_argument("--target_dir", help="folder of the targets, likewise")
    group.add_argument(
        "--pair_by", type=pattern, help="what the names of a pair share (regex; its groups, if any)"
    )
    group.add_argument(
        "--degrade",
        help=f"make inputs from clean images: {', '.join(DEGRADATIONS)}; with values as noise:25, noise:0-55 "
        "(of 255), poisson:100, blur:1.6, jpeg:10, sr:4; joined by +",
    )
    group.add_argument(
        "--max_pixels", default=MAX_PIXELS, type=NATURAL, help="larger images are refused, by their headers"
    )
    return group


def add_network(parser: Parser, model: str | None) -> Any:
    group = parser.add_argument_group("network")
    group.add_argument("--model", default=model, choices=[*NETWORKS], help="network")
    group.add_argument("--width", type=number(int, 1, 4096), help=_own("width"))
    group.add_argument("--depth", type=number(int, 1, 1000), help=_own("depth"))
    group.add_argument("--levels", type=number(int, 1, 8), help=_own("levels"))
    group.add_argument(
        "--stem", type=int, choices=[1, 2, 4, 8], help="pixel-unshuffle of the input; " + _own("stem")
    )
    group.add_argument("--norm", choices=NORMS, help=_own("norm"))
    group.add_argument("--act", choices=ACTIVATIONS, help=_own("act"))
    group.add_argument("--init", choices=INITS, help=_own("init"))
    group.add_argument(
        "--upsample", choices=UPSAMPLES, help="transposed or resize-convolution; " + _own("upsample")
    )
    group.add_argument("--input_nc", type=int, choices=[1, 3], help="channels of inputs")
    group.add_argument("--output_nc", type=int, choices=[1, 3], help="channels of targets")
    group.add_argument("--scale", type=number(int, 1, 16), help="size of targets over that of inputs")
    group.add_argument("--mean", type=number(float, -10, 10), help="of Normalize; 0.5, spandrel: 0")
    group.add_argument("--std", type=POSITIVE, help="of Normalize; 0.5, spandrel: 1")
    group.add_argument(
        "--residual",
        action="store_true",
        help="the network gives what to subtract from its input (dncnn and resunet do so themselves)",
    )
    group.add_argument("--weights", help="take the weights in this file, of any origin")
    return group


def add_device(parser: Parser, amp: str, amp_help: str) -> Any:
    group = parser.add_argument_group("device")
    group.add_argument("--gpu_ids", default="0", type=gpu_list, help="0, or 0,1 (one process each), -1: CPU")
    group.add_argument("--amp", default=amp, choices=["auto", "on", "off"], help=amp_help)
    group.add_argument(
        "--seed", default=0, type=COUNT, help="of weights, order, augmentation and degradation"
    )
    return group


def add_seeing(parser: Parser) -> Any:
    group = add_server(parser)
    visdom = "auto: use a server that answers; start: start one on 127.0.0.1"
    group.add_argument("--visdom", default="auto", choices=["auto", "start", "off"], help=visdom)
    return group


def add_server(parser: Parser) -> Any:
    group = parser.add_argument_group("seeing")
    group.add_argument("--visdom_server", default="http://localhost", type=server, help="without port")
    group.add_argument("--visdom_port", default=8097, type=number(int, 1, 65535), help="port of the server")
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    return group


# -------------------------------------------------------------------------------------------------- train.py


def train_parser() -> Parser:
    parser = Parser(
        prog="train.py", description="Train a paired image-to-image network.", epilog=TRAIN_EXAMPLES
    )

    group = add_source(parser, "datasets/")
    group.add_argument(
        "--direction", default="AtoB", choices=["AtoB", "BtoA"], help="which half or folder is the input"
    )
    group.add_argument("--size", type=NATURAL, help="resize both images to this square, bicubic")
    group.add_argument(
        "--crop_size", type=NATURAL, help="train on random squares of this size (of the target)"
    )
    group.add_argument("--augment", default="flip", choices=[*AUGMENTATIONS], help="random turns of a pair")
    group.add_argument(
        "--repeat",
        type=NATURAL,
        help="passes over the set that make one epoch (default: 1; with --minutes: 500 steps or more)",
    )
    group.add_argument(
        "--val_share", default=0.1, type=number(float, 0, 0.9), help="of the targets, where there is no val"
    )
    group.add_argument(
        "--val_from", default="auto", choices=["auto", "train"], help="train: leave a val folder alone"
    )

    group = add_network(parser, "resnet")
    group.add_argument("--freeze", type=pattern, help="do not train parameters whose name this finds (regex)")
    group.add_argument(
        "--ema", default=0.0, type=number(float, 0, 0.99999), help="decay of averaged weights; 0: none"
    )

    group = parser.add_argument_group("optimisation")
    group.add_argument(
        "--epoch", default=0, type=COUNT, help="first epoch; above 0 it goes on from that checkpoint"
    )
    group.add_argument("--n_epochs", default=40, type=NATURAL, help="epochs of the whole run")
    group.add_argument(
        "--minutes",
        type=POSITIVE,
        help="length of the run instead, from the command to its end; fixed as a number of steps once "
        "a tenth of them (25 to 1000) have been timed",
    )
    group.add_argument(
        "--max_steps", type=NATURAL, help="end the run, and its schedule, after this many steps"
    )
    group.add_argument(
        "--batchSize", "--batch_size", default=1, type=NATURAL, help="images in a step, over all GPUs"
    )
    group.add_argument("--lr", default=0.0002, type=POSITIVE, help="learning rate")
    group.add_argument("--optimizer", default="adam", choices=[*OPTIMIZERS], help="optimizer")
    group.add_argument("--beta1", default=0.5, type=number(float, 0, 0.9999), help="of adam, adamw, muon")
    group.add_argument("--beta2", default=0.999, type=number(float, 0, 0.99999), help="of adam, adamw, muon")
    group.add_argument(
        "--momentum", default=0.9, type=number(float, 0, 0.9999), help="of sgd, rmsprop and muon"
    )
    group.add_argument("--weight_decay", default=0.0, type=number(float, 0), help="weight decay")
    group.add_argument("--loss", default="l1", choices=[*LOSSES], help="loss between output and target")
    group.add_argument("--reduction", default="mean", choices=["mean", "sum"], help="of the loss")
    group.add_argument(
        "--accum", default=1, type=NATURAL, help="parts that a batch is split into, to save memory"
    )
    group.add_argument(
        "--nan_policy",
        default="stop",
        choices=["stop", "skip"],
        help="at a loss or gradient that is no number: stop before it does harm, or skip the step",
    )
    group.add_argument("--clip", default=0.0, type=number(float, 0), help="largest gradient norm; 0: any")
    group.add_argument(
        "--schedule", default="lambda", choices=[*SCHEDULES], help="of the learning rate; lambda: linear"
    )
    group.add_argument("--warmup", default=0.0, type=number(float, 0), help="epochs of linear warm-up")
    group.add_argument(
        "--decay_epoch",
        type=number(float, 0),
        help="where lambda begins to fall (default: halfway; from the end on: never)",
    )
    group.add_argument(
        "--step_size", default=10.0, type=POSITIVE, help="epochs between cuts: step, multiplicative"
    )
    group.add_argument(
        "--milestones",
        default=[20.0, 30.0],
        type=milestones,
        help="epochs of cuts: multistep, as 20,30; those beyond the end are never reached",
    )
    group.add_argument("--gamma", default=0.5, type=number(float, 0, 1, above=True), help="factor of a cut")

    group = add_device(parser, "auto", "bfloat16: auto: where the hardware has it")
    group.add_argument(
        "--channels_last",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="memory layout that convolutions often prefer",
    )
    group.add_argument("--compile", action="store_true", help="torch.compile the network")
    group.add_argument("--deterministic", action="store_true", help="refuse operations that are not")
    group.add_argument(
        "--num_workers", "--num_threads", type=COUNT, help="loader processes (default: 0 on CPU)"
    )
    group.add_argument(
        "--worker_timeout",
        default=300.0,
        type=POSITIVE,
        help="seconds after which a loader process is given up",
    )
    group.add_argument(
        "--dist_timeout",
        default=600.0,
        type=POSITIVE,
        help="seconds after which another process of the run is given up",
    )
    group.add_argument(
        "--on_bad_image",
        default="stop",
        choices=["stop", "skip"],
        help="at an image that cannot be read: stop, or let the next pair stand in for it",
    )
    group.add_argument(
        "--cache",
        default="auto",
        choices=["auto", "ram", "device", "none"],
        help="keep decoded images in memory; auto: where all take at most a quarter of what is free; ram: as "
        "many as half of it holds; device: on the GPU, which then cuts and turns the batches, too",
    )

    group = parser.add_argument_group("events")
    group.add_argument("--log_freq", default=20, type=NATURAL, help="steps between logged values")
    group.add_argument("--val_freq", default=1, type=NATURAL, help="epochs between validations")
    group.add_argument(
        "--save_freq", default=0, type=COUNT, help="epochs between kept checkpoints; 0: latest and best only"
    )
    group.add_argument(
        "--save_minutes", default=5.0, type=POSITIVE, help="minutes between saves within an epoch"
    )
    group.add_argument("--keep", default=0, type=COUNT, help="newest epoch states that stay; 0: all")
    group.add_argument(
        "--check_data", action="store_true", help="look at every file of every split, report, and end"
    )
    group.add_argument(
        "--dry_run", action="store_true", help="2 steps, a save, a load, an estimate; nothing is kept"
    )

    group = add_seeing(parser)
    group.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too")

    group = parser.add_argument_group("run")
    group.add_argument(
        "--preset",
        choices=[*PRESETS],
        help="other defaults, for most dB a minute; fine: noise, rain, blur, JPEG; coarse: haze, light, "
        "colour; the start of the run prints them",
    )
    group.add_argument("--name", help="folder under checkpoints/ (default: <dataroot's folder>_<model>)")
    group.add_argument(
        "--resume", action="store_true", help="go on where the run stopped, with its own options"
    )
    return parser


TRAIN_EXAMPLES = """examples:
  train.py --dataroot demo --model resunet --crop_size 96 --batchSize 8
  train.py --dataroot datasets/mine --crop_size 128 --batchSize 8 --gpu_ids 0
  train.py --resume --name mine_resnet"""


def _own(flag: str) -> str:
    """The networks that have a flag, with their defaults."""
    defaults = ((model, network_defaults(model)) for model in NETWORKS)
    return "; ".join(f"{model}: {own[flag]}" for model, own in defaults if flag in own)


def parse_train(argv: Sequence[str]) -> argparse.Namespace:
    """The options of train.py, resolved; of a run that goes on, its own options with the given ones on top.

    `opt.changed` lists what differs from the defaults, or from the run that goes on.

    Raises:
        UserError: a wrong flag or value, a run that exists or does not, a change that a run cannot survive.
    """
    parser = train_parser()
    parser.set_defaults(**PRESETS.get(parser.parse(argv).preset, {}))
    opt, given = parser.parse(argv), parser.given(argv)
    run = Run.named(opt.name or default_name(opt.dataroot, opt.model))
    going_on = opt.resume or opt.epoch > 0
    if opt.weights and not going_on:
        _check_weights(opt.weights)
    if going_on:
        known = {action.dest for action in parser._actions}
        before = {
            key: value
            for key, value in run.options().items()
            if key in known - {"epoch", "resume", "dry_run", "check_data"}
        }
        parser.set_defaults(**before)
        opt = parser.parse(argv)
        changed = {key for key in given if key in before and getattr(opt, key) != before[key]}
        fixed = parser.group_names("data", "network") - {"max_pixels"} | {"batchSize", "seed", "preset"}
        fixed &= changed
        if fixed:
            key = min(fixed)
            raise UserError(
                f"--{key} cannot change within a run",
                f"{run.name} was started with {before[key]}",
                "leave it out, or start another --name (with --weights to begin from this run's weights)",
            )
    else:
        changed = {key for key in given if getattr(opt, key) != parser.get_default(key)}
        if run.taken() and not (opt.dry_run or opt.check_data):
            raise UserError(f"{run.folder} exists", fix="go on with --resume, or choose another --name")
    opt.name, opt.changed = run.name, changed
    _resolve_network(opt, changed)
    _check_train(opt)
    return opt


def default_name(dataroot: str, model: str) -> str:
    folder = Path(os.path.realpath(dataroot.split(":")[0])).name.removesuffix(".csv")  # links may loop
    return re.sub(r"[^\w.\-=+]", "_", f"{folder}_{model}")


def _resolve_network(opt: argparse.Namespace, given: set[str]) -> None:
    """Fill in the network's own defaults, and refuse flags that it does not have."""
    own = network_defaults(opt.model)
    for flag in NETWORK_FLAGS:
        if flag not in own and flag in given:
            raise UserError(f"--{flag} means nothing for --model {opt.model}", fix=f"it has {', '.join(own)}")
        if flag in own and getattr(opt, flag) is None:
            setattr(opt, flag, own[flag])
    if "weights" in own and not opt.weights:
        raise UserError(f"--model {opt.model} needs --weights", fix="name the file of the network")
    for flag, value in zip(
        ("mean", "std"), (0.0, 1.0) if opt.model in UNIT_RANGE else (0.5, 0.5), strict=True
    ):
        if getattr(opt, flag) is None:
            setattr(opt, flag, value)


def _check_weights(file: str) -> None:
    if not Path(file).is_file():
        raise UserError(f"no such file [--weights {file}]", fix="such as checkpoints/RUN/best_net.pth")


def _check_train(opt: argparse.Namespace) -> None:
    if opt.minutes and (other := sorted({"n_epochs", "max_steps"} & opt.changed)):
        raise UserError(f"--minutes and --{other[0]} both set the length", fix="leave one out")
    if opt.epoch >= opt.n_epochs and not opt.minutes:
        raise UserError(
            f"nothing to train from --epoch {opt.epoch} to --n_epochs {opt.n_epochs}", fix="raise --n_epochs"
        )
    if opt.size and opt.crop_size and opt.crop_size > opt.size:
        raise UserError(f"--crop_size {opt.crop_size} does not fit into --size {opt.size}", fix="lower it")
    if opt.accum > opt.batchSize:
        raise UserError(
            f"--accum {opt.accum} splits --batchSize {opt.batchSize} into more parts than it has images",
            fix="lower --accum or raise --batchSize",
        )
    for flag in ("degrade", "num_workers"):
        if opt.cache == "device" and getattr(opt, flag):
            why = "makes every input anew" if flag == "degrade" else "cut batches elsewhere"
            raise UserError(f"--{flag} {getattr(opt, flag)} {why}: no --cache device", fix="take --cache ram")
    if opt.tensorboard and importlib.util.find_spec("tensorboard") is None:  # before there is a run
        raise UserError("tensorboard is not installed [--tensorboard]", fix="pip install tensorboard")
    if not opt.dataroot.startswith("demo") and not Path(opt.dataroot).exists():
        raise UserError(f"no such folder [--dataroot {opt.dataroot}]", fix="name a folder, or demo")


def source_of(options: Mapping[str, Any]) -> Source:
    """Where the pairs of a run come from, out of its options by the flags' names."""
    degraded = options["degrade"] is not None
    return Source(
        root=options["dataroot"],
        layout=options["layout"],
        direction=options["direction"],
        degraded=degraded,
        input_dir=options.get("input_dir"),
        target_dir=options.get("target_dir"),
        pair_by=options.get("pair_by"),
        scale=1 if degraded else options.get("scale") or 1,
        max_pixels=options.get("max_pixels", MAX_PIXELS),
    )


# --------------------------------------------------------------------------------------------------- test.py


def test_parser() -> Parser:
    parser = Parser(
        prog="test.py", description="PSNR of a trained run on whole images.", epilog=TEST_EXAMPLES
    )

    group = parser.add_argument_group("run")
    group.add_argument("--name", help="the run, under checkpoints/ (default with --model: the weights' name)")
    group.add_argument("--load", default="best", help="best, latest, or N: after epoch N")

    group = add_source(parser, None)
    group.add_argument("--direction", choices=["AtoB", "BtoA"], help="default: the run's")
    group.add_argument(
        "--split", default="test", choices=["train", "val", "test"], help="split of --dataroot"
    )
    group.add_argument("--num_workers", "--num_threads", default=0, type=COUNT, help="loader processes")

    group = parser.add_argument_group("measuring")
    group.add_argument(
        "--metrics", default="psnr,ssim", type=metric_list, help="psnr, ssim, lpips; mae always"
    )
    group.add_argument("--psnr_channel", default="rgb", choices=["rgb", "y"], help="y: luma of BT.601")
    group.add_argument("--crop_border", default=0, type=COUNT, help="rows and columns left out on each side")
    group.add_argument("--no_quantize", action="store_true", help="clamp the outputs, but do not round them")
    group.add_argument(
        "--results_dir", default="results", help="where outputs go: <results_dir>/<name>/<dataset>/"
    )

    group = parser.add_argument_group("predicting")
    group.add_argument("--x8", action="store_true", help="self-ensemble: mean over eight flips and turns")
    group.add_argument(
        "--tile", type=NATURAL, help="side of tiles (default: the whole image where it fits into memory)"
    )
    group.add_argument(
        "--tile_overlap",
        default=64,
        type=COUNT,
        help="pixels that tiles share; exact from the receptive field + 16 on, but never with instance or "
        "group norm, whose statistics are of the whole image",
    )

    group = add_network(parser, None)
    group.description = "for --weights of other origin, with --model; a run brings its own"

    group = add_device(parser, "off", "bfloat16; off: the figure does not depend on the machine")
    group.add_argument(
        "--channels_last", action="store_true", help="memory layout that convolutions often prefer"
    )
    add_seeing(parser)
    return parser


TEST_EXAMPLES = """examples:
  test.py --name demo_resunet
  test.py --name denoise --dataroot datasets/set12 --degrade noise:25
  test.py --name dehaze --dataroot my_photos
  test.py --weights net.pth --model dncnn --input_nc 1 --mean 0 --std 1 \\
          --dataroot datasets/set12 --degrade noise:25"""


def parse_test(argv: Sequence[str]) -> argparse.Namespace:
    """The options of test.py.

    Raises:
        UserError: a wrong flag or value, or flags of a network beside a run that has one.
    """
    parser = test_parser()
    opt, given = parser.parse(argv), parser.given(argv)
    if not re.fullmatch(r"best|latest|\d+", opt.load):
        raise UserError(f"bad checkpoint [--load {opt.load}]", fix="best, latest, or the number of an epoch")
    if opt.model:
        if not (opt.weights and opt.dataroot):
            raise UserError("--model needs --weights and --dataroot", fix="or name a run by --name")
        opt.input_nc = opt.input_nc or 3
        opt.output_nc = opt.output_nc or opt.input_nc
        _resolve_network(opt, given)
        opt.name = opt.name or re.sub(r"[^\w.\-=+]", "_", Path(opt.weights).stem)
    elif flags := sorted((parser.group_names("network") - {"weights"}) & given):
        raise UserError(f"--{flags[0]} comes from the run", fix="leave it out, or give --model and --weights")
    elif not opt.name:
        raise UserError("which run?", fix="--name RUN, or --weights FILE with --model")
    if opt.tile and opt.tile_overlap >= opt.tile:
        raise UserError(
            f"--tile_overlap {opt.tile_overlap} leaves nothing of --tile {opt.tile}", fix="lower it"
        )
    if opt.weights:
        _check_weights(opt.weights)
    return opt


def parse_redraw(argv: Sequence[str]) -> argparse.Namespace:
    """The options of utils/replay.py."""
    parser = Parser(prog="redraw", description="Send a finished run to visdom again.")
    parser.usage = "python -m utils.replay NAME [flags]"
    parser.add_argument("name", help="the run, under checkpoints/")
    parser.add_argument("--results_dir", default="results", help="where test.py left its results")
    add_server(parser)
    return parser.parse(argv)


def parse_compare(argv: Sequence[str]) -> argparse.Namespace:
    """The options of utils/compare.py."""
    parser = Parser(prog="python -m utils.compare", description="Runs side by side: a table and a curve.")
    parser.usage = "%(prog)s RUN [RUN ...] [flags]"
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs, under checkpoints/")
    parser.add_argument("--results_dir", default="results", help="where test.py left its results")
    parser.add_argument("--curve", default="compare.png", help="PNG of validation PSNR over steps")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    opt = parser.parse(argv)
    curve = Path(opt.curve)
    if curve.suffix.lower() != ".png" or curve.is_dir() or not curve.parent.is_dir():
        raise UserError(f"bad file [--curve {opt.curve}]", fix="name a .png in a folder that exists")
    return opt


def describe(opt: argparse.Namespace) -> str:
    """The options in a few lines, those that differ from their defaults marked by a star."""
    shown = [
        f"{'*' if key in opt.changed else ''}{key}={value}"
        for key, value in sorted(vars(opt).items())
        if key != "changed" and value is not None
    ]
    lines, line = [], "options "
    for item in shown:
        if len(line) + len(item) > 98:
            lines.append(line.rstrip())
            line = "        "
        line += item + " "
    return "\n".join([*lines, line.rstrip()])


def parse_or_exit(parse: Callable[[Sequence[str]], argparse.Namespace]) -> argparse.Namespace:
    """Parse the command line; a refusal ends the process with its message and code."""
    try:
        return parse(sys.argv[1:])
    except UserError as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(refusal.code)
