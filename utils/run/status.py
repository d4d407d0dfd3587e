"""`status.json`: the state of a run, for scripts that watch it (torchrun turns every exit code into 1)."""

import json
import os
import time
from contextlib import suppress

from utils.run.run import Run
from utils.system.atomic import write_text


class Status:
    """Writes `status.json`; as a context, an exception that leaves it becomes state `failed`.

    Args:
        enabled: false on all processes but the first.
    """

    def __init__(self, run: Run, enabled: bool = True):
        self.run, self.enabled, self.step = run, enabled, 0
        self.started = False

    def write(self, state: str, code: int | None = None, reason: str = "") -> None:
        """Write `running`, `stopped`, `failed` or `done`, with the exit code and its reason."""
        if not self.enabled:
            return
        self.started = True
        record = {
            "state": state,
            "reason": reason,
            "code": code,
            "step": self.step,
            "checkpoint": str(self.run.state("latest")),
            "resume_command": self.run.resume_command(),
            "pid": os.getpid(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        write_text(json.dumps(record, indent=2), self.run.status_file)

    def __enter__(self) -> "Status":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and self.started and self.run.is_held():
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            with suppress(OSError):  # on a full disk the first error is the informative one
                self.write("failed", getattr(error, "code", 1), reason)
