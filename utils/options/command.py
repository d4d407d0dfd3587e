"""The command line of a run, from its saved options."""

import shlex
from collections.abc import Mapping
from typing import Any

from models import network_defaults
from models.zoo import is_zoo
from utils.options.parser import ON_OFF, SWITCH, Flag
from utils.options.presets import preset_options
from utils.options.resolve import NOT_SAVED, OF_ONE_PROCESS, PLACES, train_parser


def command_of(options: Mapping[str, Any]) -> str:
    """The shortest command of train.py that gives these options on another machine.

    >>> command_of({"dataroot": "demo", "model": "resunet", "width": 16, "depth": 2, "name": "a"})
    'python train.py --dataroot demo --model resunet --width 16'
    """
    parser, model = train_parser(), str(options.get("model"))
    usual = parser.defaults | preset_options(str(options.get("preset")), options.get("minutes"))
    derived = network_defaults(model) | {"scale": 1, "repeat": 1}
    derived |= {"mean": 0.0, "std": 1.0} if is_zoo(model) else {"mean": 0.5, "std": 0.5}
    left_out = (OF_ONE_PROCESS | NOT_SAVED) - PLACES | {*(options.get("from_files") or ())}
    left_out |= {"repeat"} if options.get("minutes") else set()
    words = ["python", "train.py"]
    for each in (each for flags in parser.table.values() for each in flags):
        value, known = options.get(each.dest), usual[each.dest]
        same = value in (None, known) or (known is None and value == derived.get(each.dest))
        if each.dest not in left_out and not same:
            words += typed(each, value)
    return shlex.join(words)


def typed(flag: Flag, value: Any) -> list[str]:
    """A flag and its value, as words of a command line."""
    name = flag.names[0]
    if flag.kind == SWITCH:
        return [name]
    if flag.kind == ON_OFF:
        return [name if value else f"--no-{flag.dest}"]
    return [name, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
