"""The folder of a run, `checkpoints/<name>/`: its files, its lock, its options. Imports no torch."""

import errno
import fcntl
import json
import os
import platform
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from utils.system.atomic import disk_errors, write_text
from utils.system.errors import UserError
from utils.system.jsonfile import read_object
from utils.system.netfile import saved_net

ROOT = Path("checkpoints")
RESTORE = "restore a copy of it"
GIT_TIMEOUT_S = 10.0
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # of file systems without flock


class Run:
    """The files of one run.

    Args:
        folder: `checkpoints/<name>`, or a temporary folder of a dry run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = folder.name
        self.options_file = folder / "options.json"
        self.status_file = folder / "status.json"
        self.data_file = folder / "data.json"
        self.log = folder / "log.jsonl"
        self.tensorboard = folder / "tb"
        self.grid = folder / "val_grid.png"
        self.curve, self.report = folder / "curve.png", folder / "report.md"
        self.locked: os.stat_result | None = None  # the lock file that this process holds

    @classmethod
    def named(cls, name: str) -> "Run":
        """The run `name`.

        Raises:
            UserError: a name that is not one plain folder name.
        """
        if not re.fullmatch(r"[\w.\-=+ ]+", name) or name in (".", ".."):
            raise UserError(
                f"bad run name [--name {name[:80]}]",
                "it becomes a folder",
                "letters, digits and . _ - = + only",
            )
        return cls(ROOT / name)

    @classmethod
    def temporary(cls, cleanup: ExitStack) -> "Run":
        """A run in a temporary folder, which `cleanup` removes."""
        return cls(Path(cleanup.enter_context(tempfile.TemporaryDirectory())))

    # -------------------------------------------------------------------------------------------- its files

    def net(self, tag: str, name: str = "net") -> Path:
        """Weights of `latest`, `best` or `epoch_0010`; `name` is "netBA" for the way back, from B to A."""
        return self.folder / f"{tag}_{name}.pth"

    def saved_net(self, load: str, name: str = "net") -> Path:
        """The weights that `--load` names; raises UserError as `saved_net` does."""
        return saved_net(self.folder, load, name)

    def files(self) -> dict[str, list[int]] | None:
        """The fingerprint of its data (`data.fingerprint.Files`); None where an older version saved none.

        Raises:
            UserError: it cannot be read.
        """
        if not self.data_file.exists():
            return None
        found = read_object(self.data_file, RESTORE)
        for name, values in found.items():
            if not isinstance(values, list) or [type(value) for value in values] != [int, int]:
                raise UserError(f"{self.data_file} has a bad value of '{name}'", f"{values!r}"[:80], RESTORE)
        return found

    def state(self, tag: str) -> Path:
        """Everything that a resume needs, at `latest` or `epoch_0010`."""
        return self.folder / f"{tag}_state.pth"

    def exists(self) -> bool:
        return self.options_file.is_file()

    def taken(self) -> bool:
        """Whether another run in this folder would overwrite anything."""
        return any(self.folder.glob("*.pth"))

    def options(self) -> dict[str, Any]:
        """The saved options.

        Raises:
            UserError: no such run (lists those that exist), or no JSON object in the file.
        """
        if not self.exists():
            present = runs_present()
            fix = "train it first" + ", or name one of these by --name" * bool(present)
            raise UserError(f"no run '{self.name}' [--name]", f"{ROOT}/ holds {present or 'none'}", fix)
        return read_object(self.options_file, f"{RESTORE}, or start again under another --name")

    def states(self) -> list[Path]:
        """Every state on the disk, the latest first."""
        latest = self.state("latest")
        others = sorted(path for path in self.folder.glob("*_state.pth") if path != latest)
        return [latest] * latest.is_file() + others

    def epochs_saved(self) -> list[int]:
        return sorted(int(path.name[6:10]) for path in self.folder.glob("epoch_????_state.pth"))

    def name_flag(self) -> list[str]:
        """`--name NAME` as two words, as one where NAME would be taken for a flag."""
        return [f"--name={self.name}"] if self.name.startswith("-") else ["--name", self.name]

    def resume_command(self) -> str:
        return shlex.join(["python", "train.py", "--resume", *self.name_flag()])

    # ------------------------------------------------------------------------------------------- opening it

    def open(
        self,
        cleanup: ExitStack,
        options: Mapping[str, Any],
        files: Mapping[str, Any],
        resumed_from: Path | None,
    ) -> None:
        """Create and lock the folder (unless it is locked); write its options and its data's fingerprint.

        Args:
            resumed_from: the state that a resumed run continues from; a newer, damaged one is set aside.

        Raises:
            UserError: another process trains in the folder, or it cannot be written.
        """
        with self._creating():
            if self.locked is None:  # a new run
                self.acquire(cleanup)
                if resumed_from is None and self.taken():  # by a run that started and ended meanwhile
                    raise UserError(
                        f"{self.folder} exists", fix="continue with --resume, or choose another --name"
                    )
            for part in self.folder.glob(".*.part"):  # what a killed process was writing
                part.unlink(missing_ok=True)
            latest = self.state("latest")
            if resumed_from not in (None, latest) and latest.is_file():
                latest.replace(latest.with_name(f"{latest.name}.damaged"))
            write_text(json.dumps(options, indent=2), self.options_file)
            write_text(json.dumps(files), self.data_file)

    @contextmanager
    def _creating(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = f"{error.strerror or error}: {error.filename or self.folder}"
            fix = "fix the permissions or free disk space, or use another --name"
            raise UserError(f"cannot write the run's folder {self.folder} [--name]", why, fix) from None

    def acquire(self, cleanup: ExitStack) -> None:
        """Create the folder and hold its lock until `cleanup` is unwound; UserError as in `open`."""
        with self._creating():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.locked = os.fstat(cleanup.enter_context(self.lock()).fileno())

    def is_held(self) -> bool:
        """Whether the folder is still the one that was locked."""
        with suppress(OSError):
            return self.locked is not None and os.path.samestat((self.folder / ".lock").stat(), self.locked)
        return False

    def check_held(self) -> None:
        """Raise UserError if the folder was removed, or removed and made again, since it was locked."""
        if not self.is_held():
            what = f"the run's folder {self.folder} was removed or replaced during training"
            raise UserError(what, "nothing more was written into it", "train it again", code=1)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Errors of the disk in this block as UserErrors; also that of a folder that is gone."""
        with disk_errors(self.folder):
            try:
                yield
            except FileNotFoundError:
                if self.locked:
                    self.check_held()
                raise

    def lock(self) -> IO[str]:
        """Lock the run for this process, until the file is closed or the process ends in any way.

        On a file system without locks nothing is locked.

        Raises:
            UserError: another process holds the lock.
        """
        file = (self.folder / ".lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip()
            file.close()
            raise UserError(
                f"{self.folder} is in use",
                f"process {who} trains in it",
                "wait for it, or choose another --name",
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        return file

    # ------------------------------------------------------------------------------------------ its states

    def keep_previous(self) -> None:
        """Keep the latest state as `previous_state.pth` when a newer one takes its name.

        A second name of the same file: nothing is copied, and at no instant is there no state.
        """
        latest, previous = self.state("latest"), self.state("previous")
        if latest.is_file():
            part = previous.with_name(f".{previous.name}.part")
            part.unlink(missing_ok=True)
            try:
                os.link(latest, part)
                part.replace(previous)
            except OSError:  # a file system without hard links
                pass
            part.unlink(missing_ok=True)  # left over where both names are of one file: the last save failed

    def drop_old_states(self, keep: int) -> None:
        """Remove all but the newest `keep` epoch states (0 keeps all)."""
        for epoch in self.epochs_saved()[:-keep] if keep else []:
            self.state(f"epoch_{epoch:04d}").unlink()


def runs_present() -> str:
    names = sorted(path.parent.name for path in ROOT.glob("*/options.json"))
    return ", ".join(names[:6]) + f" and {len(names) - 6} more" * (len(names) > 6)


def versions() -> dict[str, str]:
    """Versions that a result depends on, and the git revision of this checkout."""
    import torch

    command, folder = ["git", "describe", "--always", "--dirty"], Path(__file__).parent
    revision = ""
    with suppress(OSError, subprocess.TimeoutExpired):  # git is not installed, or its disk does not answer
        asked = subprocess.run(command, capture_output=True, cwd=folder, timeout=GIT_TIMEOUT_S)
        revision = asked.stdout.decode(errors="replace").strip()
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "git": revision or "none",
    }
