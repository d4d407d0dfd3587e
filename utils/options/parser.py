"""argparse for tables of flags: defaults apart from the parse, help on two levels, errors that name a fix."""

import argparse
import difflib
import importlib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from models.terms import CYCLE_LOSS
from utils.system.errors import UserError, bad_path

MAX_UNKNOWN = 4  # flags that one error names
SWITCH, ON_OFF = "switch", "on_off"  # kinds of flags without a value: --x, and --x or --no-x

SYNONYMS = {  # what other tools call it -> our flag
    "epochs": "n_epochs",
    "num_epochs": "n_epochs",
    "max_epochs": "n_epochs",
    "niter": "n_epochs",
    "steps": "max_steps",
    "iterations": "max_steps",
    "total_iter": "max_steps",
    "bs": "batchSize",
    "batch": "batchSize",
    "learning_rate": "lr",
    "data": "dataroot",
    "dataset": "dataroot",
    "data_dir": "dataroot",
    "gpu": "gpu_ids",
    "gpus": "gpu_ids",
    "device": "gpu_ids",
    "workers": "num_workers",
    "patch_size": "crop_size",
    "fine_size": "crop_size",
    "load_size": "size",
    "net": "model",
    "network": "model",
    "netG": "model",
    "wd": "weight_decay",
    "pretrained": "weights",
    "checkpoint": "weights",
    "ckpt": "weights",
    "continue_train": "resume",
    "output_dir": "results_dir",
    "out": "results_dir",
    "phase": "split",
    "upscale": "scale",
    "time": "minutes",
    "port": "visdom_port",
    "display_port": "visdom_port",
    "val_split": "val_share",
    "scheduler": "schedule",
    "lr_policy": "schedule",
    "criterion": "loss",
    "gan_mode": "gan mode=lsgan",
    "netD": "gan netD=patch",
    "norm_D": "gan norm=instance",
    "ndf": "gan ndf=64",
    "n_layers_D": "gan n_layers=3",
    "lr_D": "gan lr=0.0002",
    "pool_size": "gan pool=50",
    "lambda_L1": "loss l1:100+gan:1",
    "lambda_A": f"loss {CYCLE_LOSS}",
    "lambda_B": f"loss {CYCLE_LOSS}",
    "lambda_cycle": f"loss {CYCLE_LOSS}",
    "lambda_identity": f"loss {CYCLE_LOSS}",
}


@dataclass(frozen=True)
class Flag:
    """One row of a table of flags.

    Args:
        names: of one flag, the first one is the key of its value.
        kind: `SWITCH`, `ON_OFF`, a list of choices, or a function from text to a value.
        common: whether plain `--help` shows it.
    """

    names: tuple[str, ...]
    default: Any
    kind: Any
    help: str
    common: bool = False

    def accepts(self, value: object) -> bool:
        """Whether a value, such as a saved one, is of the flag's kind; None is where it is the default."""
        if value is None:
            return self.default is None
        if self.kind in (SWITCH, ON_OFF):
            return isinstance(value, bool)
        if isinstance(self.kind, (list, tuple)):
            return value in self.kind and not isinstance(value, bool)
        if isinstance(value, list):
            return isinstance(self.default, list)
        text = isinstance(value, str)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        try:
            return (text or number) and self.kind(str(value)) == value
        except (ValueError, argparse.ArgumentTypeError):
            return False

    @property
    def dest(self) -> str:
        return self.names[0].removeprefix("--")

    def add_to(self, group: Any) -> None:
        """Add the flag to a group of an argparse parser, without its default."""
        default = ",".join(map(str, self.default)) if isinstance(self.default, list) else self.default
        text = f"{self.help} (default: {default})" if default else self.help
        how: dict[str, Any] = {"help": text, "dest": self.dest, "default": argparse.SUPPRESS}
        if self.kind == SWITCH:
            how["action"] = "store_true"
        elif self.kind == ON_OFF:
            how["action"] = argparse.BooleanOptionalAction
        elif isinstance(self.kind, (list, tuple)):
            how |= {"choices": self.kind, "type": type(self.kind[0])}
            how |= {"metavar": getattr(self.kind, "metavar", None)}
        else:
            how |= {"type": self.kind, "metavar": getattr(self.kind, "metavar", None)}
        group.add_argument(*self.names, **how)


def flag(names: str, default: Any, kind: Any, help: str) -> Flag:
    """A flag that `--help all` shows."""
    return Flag(tuple(names.split()), default, kind, help)


def common(names: str, default: Any, kind: Any, help: str) -> Flag:
    """A flag that plain `--help` shows, too."""
    return Flag(tuple(names.split()), default, kind, help, common=True)


Table = dict[str, list[Flag]]  # title of a group -> its flags


class Parser(argparse.ArgumentParser):
    """Parses one command line once: what was typed comes back apart from the defaults.

    Args:
        table: the flags by group.
        usage: the line after "usage:".
        examples: lines at the end of the help; without them there is one level of help.
    """

    def __init__(self, prog: str, description: str, table: Table, usage: str = "", examples: str = ""):
        super().__init__(
            prog=prog,
            description=description,
            usage=usage or f"{prog} [flags]",
            epilog=examples,
            allow_abbrev=False,
            add_help=False,
            fromfile_prefix_chars="@",
            formatter_class=_Help,
        )
        self.table, self.two_levels = table, bool(examples)
        self.defaults = {each.dest: each.default for flags in table.values() for each in flags}
        for title, flags in table.items():
            group = self.add_argument_group(title)
            for each in flags:
                each.add_to(group)
        how: dict[str, Any] = {
            "nargs": "?",
            "metavar": "all",
            "action": _ShowHelp,
            "default": argparse.SUPPRESS,
        }
        self.add_argument("-h", "--help", help="this, or every flag", **how)

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """The words of a line of an @FILE, as a shell splits them; # begins a comment."""
        return shlex.split(arg_line, comments=True)

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """The options on a command line by name, and no others.

        Raises:
            UserError: an unknown flag (names the nearest one), a bad or an empty value.
        """
        complete(self)
        found, extra = self.parse_known_args(argv)
        if extra:
            raise self._unknown(extra, argv)
        typed = vars(found)
        if empty := [name for name, value in typed.items() if value == ""]:
            raise UserError(f"--{empty[0]} is empty", fix="give it a value, or leave it out")
        return typed

    def options(self, argv: Sequence[str]) -> argparse.Namespace:
        """The options on a command line over the defaults; UserError as in `parse`."""
        return argparse.Namespace(**(self.defaults | self.parse(argv)))

    def group_names(self, *titles: str) -> set[str]:
        """Names of the options in the groups of these titles."""
        return {each.dest for title in titles for each in self.table[title]}

    def help_text(self, everything: bool) -> str:
        """The help: all flags, or those marked as common."""
        if everything or not self.two_levels:
            return self.format_help()
        kept = {
            title: [replace(each, names=each.names[:1]) for each in flags if each.common]
            for title, flags in self.table.items()
        }
        count = len(self.defaults)
        short = Parser(
            self.prog,
            f"{self.description}\nThe most used flags; --help all shows all {count}.",
            {title: flags for title, flags in kept.items() if flags},
            self.usage or "",
            self.epilog or "",
        )
        return short.format_help()

    def error(self, message: str) -> NoReturn:
        raise UserError(message, fix=f"{self.prog} --help lists the flags")

    def _unknown(self, extra: Sequence[str], argv: Sequence[str]) -> UserError:
        """The error for arguments that nothing takes: every flag among them, else the first word."""
        flags = [word for word in dict.fromkeys(extra) if word.lstrip("-")[:1].isalpha() and word[0] == "-"]
        flags = flags[:MAX_UNKNOWN] or [extra[0]]
        fixes = {word: self._suggestion(word, argv) for word in flags}
        if len(flags) == 1:
            return UserError(f"unknown argument {flags[0]}", fix=fixes[flags[0]])
        general = f"{self.prog} --help lists the flags"
        near = [f"{word}: {fix}" for word, fix in fixes.items() if fix != general]
        return UserError(f"unknown arguments {', '.join(flags)}", fix="; ".join(near) or general)

    def _suggestion(self, word: str, argv: Sequence[str]) -> str:
        """A fix for an unknown argument."""
        actions = {name: action for action in self._actions for name in action.option_strings}
        before = argv[argv.index(word) - 1] if word in argv[1:] else ""
        if before in actions and actions[before].nargs == 0 and not word.startswith("-"):
            return f"{before} takes no value: remove {word!r}"
        word = word.split("=")[0]
        synonym = f"--{SYNONYMS.get(word.lstrip('-').replace('-', '_'), '')}"
        if synonym.split()[0] in actions:
            return f"did you mean {synonym}?"
        begun = [name for name in actions if word.startswith("--") and name.startswith(word)]
        near = begun or difflib.get_close_matches(word, actions, n=1, cutoff=0.5)
        if word.startswith("-") and near:
            return f"did you mean {actions[near[0]].option_strings[0]}?"
        return f"{self.prog} --help lists the flags"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = [str(choice) for choice in action.choices or ()]
        near = difflib.get_close_matches(str(value), choices, n=1)
        if near and value not in (action.choices or ()):
            names = "/".join(action.option_strings)
            what = f"argument {names}: invalid choice: {value!r} (choose from {', '.join(choices)})"
            raise UserError(what, fix=f"did you mean {near[0]}?")
        super()._check_value(action, value)


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26, width=80)


class _ShowHelp(argparse.Action):
    def __call__(self, parser: Any, namespace: object, values: Any, option: str | None = None) -> NoReturn:
        if values not in (None, "all"):
            parser.error(f"argument --help: {values!r} is unknown; --help all shows every flag")
        sys.stdout.write(parser.help_text(everything=values == "all"))
        sys.exit()


def complete(parser: Parser) -> None:
    """Answer a shell that asks for completions, where argcomplete is installed, and end the process."""
    if "_ARGCOMPLETE" in os.environ:  # set by the shell's function
        with suppress(ImportError):
            importlib.import_module("argcomplete").autocomplete(parser, always_complete_options="long")


def parse_or_exit(parse: Callable[[Sequence[str]], Any], in_group: bool = False) -> Any:
    """Parse the command line of this process; a UserError ends it with its message and exit code.

    Args:
        in_group: whether other processes may wait for this one, and have to hear of the error.
    """
    try:
        return parse(sys.argv[1:])
    except UserError as error:
        failure = error
    except OSError as error:  # such as a file name of 300 letters
        failure = bad_path(error)
    print(failure, file=sys.stderr, flush=True)
    if in_group and "WORLD_SIZE" in os.environ:
        from utils.system.distributed import report_refusal  # imports torch

        report_refusal(failure)
    sys.exit(failure.code)
