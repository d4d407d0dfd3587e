"""Where a state comes from: the run, its data, and the machine; compared when it is resumed."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from data.fingerprint import Files, changes, digest
from utils.run.run import Run
from utils.system.distributed import Ranks
from utils.system.errors import UserError

ACCEPT = "--data_changed ok continues on the data as they are now"


def computation(ranks: Ranks, amp: bool, degraded_on: str) -> dict[str, Any]:
    """What the last bits of a training depend on, beside its options.

    Args:
        degraded_on: where --degrade is computed, see `data.training.TrainingData`.
    """
    cpu = ranks.device.type == "cpu"
    return {
        "device": torch.backends.cpu.get_cpu_capability() if cpu else ranks.note.split(",")[0],
        "threads": torch.get_num_threads() if cpu else 1,
        "processes": ranks.world,
        "precision": "bfloat16" if amp else "float32",
        "degradation": degraded_on,
        "torch": str(torch.__version__),
    }


class Origin:
    """A part of a run's state that can only be restored for the same run, on the same data.

    Args:
        run: the run to resume, if it is one.
        files: the fingerprint of the data.
        machine: as `computation` returns it.
        say: prints what differs and is allowed to.
        recipe: the options that make a new run what it is; with the data they give its id.
        moved: names of the flags that name another place of the data, if any.
        accept: continue on data that changed.

    Attributes:
        run_id: is saved with the options, and kept by a resumed run.
    """

    def __init__(
        self,
        run: Run,
        files: Files,
        machine: dict[str, Any],
        say: Callable[[str], None],
        recipe: Mapping[str, Any],
        moved: set[str],
        accept: bool,
    ):
        self.run, self.files, self.machine = run, files, machine
        self.moved, self.accept, self.say = moved, accept, say
        text = json.dumps([recipe, digest(files)], sort_keys=True)
        self.run_id = hashlib.sha256(text.encode()).hexdigest()[:16]

    def state_dict(self) -> dict[str, Any]:
        return {"run": self.run_id, **self.machine}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare with a state; {} is one of an older version.

        Raises:
            ValueError: it was saved by another run.
            UserError: the data changed since the run was last started.
        """
        self.run_id = self.run.options().get("run_id", self.run_id)
        if state.get("run", self.run_id) != self.run_id:
            raise ValueError("it was saved by another run, with other options or other data")
        self.compare_data()
        now = self.machine
        differ = [
            f"{key} {state[key]}, now {now[key]}" for key in now if state.get(key, now[key]) != now[key]
        ]
        if differ:
            how = "" if any(line.startswith("degradation") for line in differ) else " in the last bits"
            self.say(
                f"note    {'; '.join(differ)}: the results may differ{how} from those of an uninterrupted run"
            )

    def compare_data(self) -> None:
        """Compare the data with those of the run; UserError where they changed, unless that is accepted."""
        known = self.read_files()
        flag = f"--{min(self.moved)}" if self.moved else "--dataroot"
        found = "" if known is None else changes(known, self.files, bool(self.moved))
        if known is None and self.moved and not self.accept:
            what = f"{self.run.name} has no record of its data, so moved data cannot be compared [{flag}]"
            raise UserError(what, f"{self.run.data_file} is not there", ACCEPT)
        if found and not self.accept:
            what = f"the data of {self.run.name} changed [{flag}]"
            fix = (
                f"restore them{', name the place to which they were moved by --dataroot' * (not self.moved)}"
            )
            raise UserError(what, found, f"{fix}, or start another --name; {ACCEPT}")
        if found:
            self.say(f"note    the data changed: {found}")
        elif self.moved:
            self.say(f"note    the data were moved; names and sizes of all {len(self.files)} files fit")

    def read_files(self) -> Files | None:
        """The fingerprint that the run saved; None where there is none, or a damaged one that is accepted."""
        try:
            return self.run.files()
        except UserError as error:
            if not self.accept:
                raise UserError(error.what, error.why, f"{error.fix}; {ACCEPT}") from None
            return None
