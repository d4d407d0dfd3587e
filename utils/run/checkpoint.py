"""Checkpoints: the named parts of a run are saved and restored by one list."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from utils.optim.horizon import Horizon
from utils.run.run import Run
from utils.run.status import Status
from utils.system import tensorfile
from utils.system.distributed import Ranks, check_same
from utils.system.errors import UserError

FORMAT = 2  # of a state file; older ones are upgraded when they are read


class Stateful(Protocol):
    """A part of a run."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class MeanPSNR(Protocol):
    """A validation: mean PSNR in dB of the outputs and of the inputs, and other figures by name."""

    @property
    def psnr(self) -> float: ...
    @property
    def psnr_input(self) -> float: ...
    @property
    def figures(self) -> Mapping[str, float]: ...


def beside_input(psnr: float, psnr_input: float) -> str:
    """A PSNR beside that of the input, both in dB; the input is left out where it has none.

    >>> beside_input(21.5, 12.25), beside_input(21.5, math.nan)
    ('21.50 dB (input 12.25, +9.25)', '21.50 dB')
    """
    if not math.isfinite(psnr_input):
        return f"{psnr:.2f} dB"
    return f"{psnr:.2f} dB (input {psnr_input:.2f}, {psnr - psnr_input:+.2f})"


FIGURES = {"psnr": 1, "ssim": 1, "lite0": -1, "kid": -1}  # by which a validation is the best; 1: higher is
LABELS = {"psnr": "PSNR", "ssim": "SSIM", "lite0": "Lite0 distance", "kid": "KID (Lite0)"}


class Best:
    """The best validation so far, by one of FIGURES.

    Attributes:
        psnr, psnr_input: of the outputs and of the inputs, in dB; None before the first validation, and in a
            run that does not validate. NaN without targets.
        value: of the figure, likewise.
        step: after how many optimizer steps.
        weights: the digest of the weights; None where it is not known.
        beside: the best by PSNR, kept beside one by another figure; else None.

    Args:
        images: a digest of the validation images; a best of other images is forgotten.
        figure: a key of FIGURES, or `last`: every validation is the best.
        keep_psnr: keep the best by PSNR, too.
        tag: names the file of the weights.
    """

    def __init__(
        self, images: str = "", figure: str = "psnr", keep_psnr: bool = False, tag: str = "best"
    ) -> None:
        self.images, self.figure, self.tag = images, figure, tag
        self.beside = Best(images, tag="best_psnr") if keep_psnr and figure != "psnr" else None
        self.forget()

    def forget(self) -> None:
        """Forget the best: the next validation is the best so far."""
        self.psnr: float | None = None
        self.psnr_input: float | None = None
        self.value: float | None = None
        self.weights: str | None = None
        self.step = 0

    def all(self) -> "list[Best]":
        return [self, *([self.beside] if self.beside else [])]

    def update(self, found: MeanPSNR | None, step: int) -> bool:
        """Take a validation if it is better (NaN never is); return whether it was.

        Without validation images (None) the latest step is the best.
        """
        if self.beside:
            self.beside.update(found, step)
        if found is None:
            self.psnr, self.psnr_input, self.value, self.step = None, None, None, step
            return True
        value = found.psnr if self.figure in ("psnr", "last") else found.figures[self.figure]
        if self.figure != "last" and not self._is_better(value, found):
            return False
        self.psnr, self.psnr_input, self.value, self.step = found.psnr, found.psnr_input, value, step
        return True

    def _is_better(self, value: float, found: MeanPSNR) -> bool:
        """Whether a value is better; never one of outputs that are NaN, whose PSNR alone shows it."""
        if math.isnan(found.psnr) and not math.isnan(found.psnr_input):
            return False
        sign = FIGURES[self.figure]
        return sign * value > (-math.inf if self.value is None else sign * self.value)

    @property
    def record(self) -> str:
        """The best value, for a line about another one."""
        digits = 2 if self.figure in ("psnr", "last") else 4
        return f"best {math.nan if self.value is None else self.value:.{digits}f}"

    def is_at(self, step: int) -> bool:
        """Whether the best weights are those after `step` steps."""
        return self.step == step > 0

    def describe(self) -> str:
        """Such as "val PSNR 21.56 dB (input 12.45, +9.11) at step 1200"."""
        if self.psnr is None or self.psnr_input is None:
            return "nothing validated"
        words = [] if math.isnan(self.psnr) else [f"val PSNR {beside_input(self.psnr, self.psnr_input)}"]
        if self.figure not in ("psnr", "last") and self.value is not None:
            words.insert(0, f"val {LABELS[self.figure]} {self.value:.4f}")
        worse = ", worse than its input" if self.psnr - self.psnr_input <= -0.005 else ""  # shown as -0.01
        return f"{', '.join(words) or 'the last'} at step {self.step}{worse}"

    def state_dict(self) -> dict[str, Any]:
        state = {
            "psnr": self.psnr,
            "psnr_input": self.psnr_input,
            "step": self.step,
            "weights": self.weights,
            "images": self.images,
        }
        if self.figure != "psnr":
            state |= {"figure": self.figure, "value": self.value}
        return state | ({"beside": self.beside.state_dict()} if self.beside else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a best of the same images by the same figure; older versions saved neither."""
        for each in [state, state.get("beside", {})] if self.beside else []:
            if each and each.get("figure", "psnr") == "psnr":
                self.beside.load_state_dict(each)  # type: ignore[union-attr]
        if self.figure == "psnr":
            state = state.get("beside", state)
        if state.get("figure", "psnr") != self.figure:
            return
        if state.get("images", self.images) == self.images:
            self.psnr, self.psnr_input, self.step = state["psnr"], state["psnr_input"], state["step"]
            self.value, self.weights = state.get("value", self.psnr), state.get("weights")


class Checkpoints:
    """Saves a run: weights of `net` to `<tag>_net.pth`, the state of all parts to `<tag>_state.pth`.

    Args:
        parts: by name; `restore` takes the same.
        nets: the networks to evaluate, whose weights are saved by themselves: "net", and perhaps "netBA".
        status: is kept up to date.
        every_minutes: between two saves within an epoch.
        keep: how many epoch states stay (0: all).
        ranks: the first process saves.

    Attributes:
        seconds: how long the last save took; 0 before the first.
    """

    def __init__(
        self,
        run: Run,
        parts: Mapping[str, Stateful],
        nets: Mapping[str, nn.Module],
        status: Status,
        every_minutes: float,
        keep: int,
        ranks: Ranks,
    ):
        self.run, self.parts, self.nets, self.status = run, parts, nets, status
        self.every_s, self.keep, self.ranks = 60 * every_minutes, keep, ranks
        self.seconds = 0.0
        self.saved_at, self.saved_step = time.monotonic(), -1

    def due(self, step: int) -> bool:
        """Whether the last save is too long ago, and of an earlier step."""
        return step > self.saved_step and time.monotonic() - self.saved_at > self.every_s

    def begin(self, step: int, best: Best, resumed: Path | None) -> str:
        """Save before the first step, also in a resumed run: what a later state wrote is dropped only now.

        Args:
            resumed: the state that the run continues from; None for a new run.

        Returns:
            A line where `best_net.pth` was not that of `best`, else "".

        Raises:
            OSError, UserError: as `save`; also where the processes continue from different steps.
        """
        notes = []
        if self.ranks.is_main and resumed:
            notes = [recover_best(self.run, each, step, resumed) for each in best.all()]
        self.save(step, best)
        check_same(self.ranks, {"the step to continue from": str(step)})
        return "\n".join(filter(None, notes))

    def save(self, step: int, best: Best, epoch: int = 0) -> None:
        """Save as `latest`, as `epoch_<epoch>` if not 0, and the weights as `best` if they are.

        Raises:
            OSError: the disk is full or read-only; older complete files are kept.
            UserError: the run's folder was removed or replaced.
        """
        began = time.monotonic()
        self.status.step = step
        if self.ranks.is_main:
            self.run.check_held()
            weights = {name: net.state_dict() for name, net in self.nets.items()}
            reached = [each for each in best.all() if each.is_at(step)]
            for each in reached:
                each.weights = tensorfile.digest(weights["net"])
            state: dict[str, Any] = {"format": FORMAT, "step": step}
            state |= {name: part.state_dict() for name, part in self.parts.items()}
            self.run.keep_previous()
            for tag in ["latest"] + ([f"epoch_{epoch:04d}"] if epoch else []):
                self.save_nets(weights, tag)
                tensorfile.save(state, self.run.state(tag))
            for each in reached:  # after the state: a run that is killed here writes it when it resumes
                self.save_nets(weights, each.tag)
            self.run.drop_old_states(self.keep)
            self.status.write("running")
        self.saved_at, self.saved_step = time.monotonic(), step
        self.seconds = self.saved_at - began

    def save_nets(self, weights: Mapping[str, Any], tag: str) -> None:
        for name, each in weights.items():
            tensorfile.save(each, self.run.net(tag, name))


def recover_best(run: Run, best: Best, step: int, resumed: Path) -> str:
    """Let `best_net.pth` and `best` agree before a run continues after `step` steps; returns what was done.

    Best weights of a later step are kept under another name. Those of `best` come back from any file that has
    them; where none has, `best` is forgotten.
    """
    file = run.net(best.tag)
    if resumed.parent != run.folder:  # a dry run has a folder of its own
        return ""
    held = digest_in(file)
    older = best.weights is None and best.step and resumed == run.state("latest")  # saved no digest
    if held == best.weights or older:
        return ""
    notes = []
    at = step_of_best(run, held, best.tag) if held else 0
    if at is None or at > best.step:
        aside = run.net(f"{best.tag}_step_{at or 'unknown'}")
        aside = run.net(f"{aside.stem.removesuffix('_net')}_{held}") if aside.exists() else aside
        file.replace(aside)
        if way_back(file).is_file():
            way_back(file).replace(way_back(aside))
        notes = [f"{file.name} of {f'step {at}' if at else 'another step'} is now {aside.name}"]
    if not best.is_at(step) and best.step:
        sources = (path for path in sorted(run.folder.glob("*_net.pth")) if digest_in(path) == best.weights)
        if source := next(sources, None) if best.weights else None:
            tensorfile.save(tensorfile.load(source), file)
            if way_back(source).is_file():
                tensorfile.save(tensorfile.load(way_back(source)), way_back(file))
            notes.append(f"that of step {best.step} comes from {source.name}")
        else:
            notes.append(f"that of step {best.step} is gone, so the next validation sets a new one")
            best.forget()
    return f"note    {'; '.join(notes)}" if notes else ""


def way_back(file: Path) -> Path:
    """The weights of the network from B to A that were saved with those in `file`."""
    return file.with_name(f"{file.stem}BA{file.suffix}")


def digest_in(path: Path) -> str | None:
    """The digest of the weights in a file; None for no file, or a damaged one."""
    with suppress(UserError):
        return tensorfile.digest(tensorfile.load(path))
    return None


def step_of_best(run: Run, weights: str, tag: str = "best") -> int | None:
    """The step whose best weights have this digest, by the states of the run; None if none knows it."""
    for path in run.states():
        with suppress(UserError):
            best = read_state(path)["best"]
            best = best.get("beside", {"weights": ""}) if tag == "best_psnr" else best
            if best.get("weights", weights) == weights:
                return int(best["step"])
    return None


def restore(state: dict[str, Any], parts: Mapping[str, Stateful]) -> None:
    """Load the state of every part.

    Raises:
        UserError: the state is of another network or optimizer.
    """
    for name, part in parts.items():
        try:
            part.load_state_dict(state[name])
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            lines = [line.strip() for line in str(error).splitlines()]
            raise UserError(
                f"{state.get('file', 'the state')} does not fit the run's {name}",
                f"{type(error).__name__}: {' '.join(lines)[:200]}",
                "continue from another --epoch, or start again under another --name",
            ) from None


def restore_newest(
    run: Run, parts: Mapping[str, Stateful], epoch: int, horizon: Horizon, say: Callable[[str], None]
) -> Path:
    """Restore all parts, the horizon among them, from the state that `find_state` finds; returns its file."""
    state = find_state(run, epoch, horizon.steps_per_epoch, say)
    restore(state, parts)
    if state["format"] < FORMAT:  # its order of an epoch and one of its samples shared a random stream
        say(
            "note    the state is of an older version: order and crops of the next epochs differ from its own"
        )
    return Path(state["file"])


def find_state(run: Run, epoch: int, epoch_steps: int, say: Callable[[str], None] = print) -> dict[str, Any]:
    """The state to continue from: that after `epoch` epochs, or for 0 the newest intact one.

    Args:
        say: prints which newer states were skipped, and why.

    Raises:
        UserError: no intact state, no state of that epoch (lists those that exist), or an unknown format.
    """
    if epoch:
        return state_after(run, epoch, epoch_steps)
    reasons, intact = [], []
    for path in run.states():
        try:
            intact.append(read_state(path))
        except UserError as error:
            reasons.append(f"{error.what} ({error.why})")
        if intact and path == run.state("latest"):
            break  # the others are older
    for reason in reasons if intact else ():
        say(f"skipped: {reason}")
    if intact:
        return max(intact, key=lambda state: state["step"])
    why = "; ".join(reasons) or f"{run.state('latest')} is not there"
    raise UserError(
        f"{run.name} has no intact state to continue from [--resume]", why, "start again under another --name"
    )


def state_after(run: Run, epoch: int, epoch_steps: int) -> dict[str, Any]:
    """The state after `epoch` epochs; `latest` if it stands exactly there."""
    own = run.state(f"epoch_{epoch:04d}")
    state = read_state(own if own.is_file() else run.state("latest"))
    if not own.is_file() and state["step"] != epoch * epoch_steps:
        saved = ", ".join(map(str, run.epochs_saved())) or "none"
        raise UserError(
            f"no state after epoch {epoch} [--epoch]", f"saved: {saved}", "one of these, or --resume"
        )
    return state


def read_state(path: Path) -> dict[str, Any]:
    """An intact state in the present format, with its path as `file`; UserError otherwise."""
    state = tensorfile.load(path)
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if found not in range(1, FORMAT + 1):
        raise UserError(f"{path} has an unknown checkpoint format", f"{found}, known are 1 to {FORMAT}")
    return upgrade(state) | {"file": str(path)}


def upgrade(state: dict[str, Any]) -> dict[str, Any]:
    """A state of any known format in the present one."""
    if state["format"] == 1:  # until November 2026: one optimizer; step and total beside it
        horizon = {"step": state["step"], "closed_at": state["closed"], "total": state["total"]}
        if horizon["total"] >= 10**9:  # a run with --minutes whose length was not measured yet
            horizon["total"] = None
        state = state | {"horizon": horizon, "objective": {}, "optimizer_G": state["optimizer"]}
    return {"origin": {}} | state  # older states do not tell where they come from
