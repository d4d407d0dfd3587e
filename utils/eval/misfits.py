"""Errors of a test whose images and network do not fit, with a way out that test.py accepts."""

import shlex
from collections.abc import Sequence

from utils.system.errors import UserError


def wrong_scale(targets: int, outputs: int, degrade: str | None) -> UserError:
    """The error of targets `targets` times as large as the inputs, and outputs `outputs` times."""
    why = f"the targets are {targets} times the size of the inputs, the network's outputs {outputs}"
    others = [step for step in (degrade or "").split("+") if step and not step.startswith("sr:")]
    steps = others if outputs == 1 else [f"sr:{outputs}", *others]
    fix = "test a run that upscales, or give inputs of the size of their targets without --degrade"
    if steps:
        fix = f"--degrade {shlex.quote('+'.join(steps))}"
    return UserError("inputs and network do not fit in scale", why, fix)


def nothing_read(failed: Sequence[UserError], scale: int) -> UserError:
    """The error of a test that could read no image; `scale` is the network's, which no flag changes."""
    first = failed[0]
    why = f"{len(failed)} failed, the first: {first.what}: {first.why}"
    fix = first.fix
    if "--scale" in fix:
        fix = f"give targets {scale} times the size of their inputs, as the outputs of this network are"
    return UserError("no image could be read", why, fix, code=3)
