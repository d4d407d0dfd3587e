"""Output images of a test: where each is written, and in which format."""

import errno
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data.images import SUFFIXES
from data.pairs import PairList
from data.save import EIGHT_BIT, LOSSY, WRITTEN, encode, kept_suffix, metadata, output_suffix
from utils.eval.folder import write_errors
from utils.system.errors import UserError
from utils.system.pixels import from_full_range

Array = np.ndarray


class Outputs:
    """Writes the output of each image, below `outputs/` of the results or where `--output` says.

    Outputs with a target are lossless (PNG or TIFF), so that the figures can be recomputed from them. Others
    keep the format of their input with its colour profile, resolution and EXIF.

    Args:
        folder: `outputs/` of the results.
        output: of `--output`: a folder, or the file of a single image.
        max_value: of --max_value: outputs are written on this scale, as their targets are.

    Raises:
        UserError: two images would have one output, an output would replace an input, or `output` does not
            fit the images.
    """

    def __init__(
        self,
        folder: Path,
        pairs: PairList,
        measured: bool,
        output: str | None,
        max_value: float | None = None,
    ):
        self.max_value = max_value
        self.inputs = {pair.name: pair.input for pair in pairs.pairs}
        self.measured, self.names = measured, [*self.inputs]
        self.elsewhere, self.file = bool(output), self._single(output, pairs)
        self.root = Path(output) if output else folder
        self.written: list[Path] = []
        planned = Counter(self._relative(pair.name, np.uint8) for pair in pairs.pairs)
        if shared := [name for name, count in planned.items() if count > 1]:
            what = "several images would be written to one file"
            raise UserError(what, ", ".join(shared[:5]), "rename them")
        self.flag = "--output" if output else "--results_dir"
        if output:
            self._refuse_inputs(pairs)
            self._probe(self.file.parent if self.file else self.root)

    def _single(self, output: str | None, pairs: PairList) -> Path | None:
        """The file that `--output` names; None where it names a folder, or nothing."""
        if not output or output.endswith(os.sep) or Path(output).is_dir():
            return None
        suffix = Path(output).suffix.lower()
        if suffix not in SUFFIXES:
            if Path(output).exists():
                known = ", ".join(SUFFIXES)
                raise UserError(
                    f"{output} is neither a folder nor an image [--output]", fix=f"a folder, or {known}"
                )
            if re.fullmatch(r"\.[a-z]\w{1,3}", suffix):
                fix = f"name a file of {', '.join(WRITTEN)}; of a folder, end the name with {os.sep}"
                raise UserError(f"{suffix} files are not written [--output {output}]", fix=fix)
            return None
        if suffix not in WRITTEN:
            fix = f"name a file of {', '.join(WRITTEN)}"
            raise UserError(f"{suffix} files are read, but not written [--output {output}]", fix=fix)
        if len(pairs.pairs) != 1:
            fix = "name a folder, such as --output restored/"
            raise UserError(
                f"{len(pairs.pairs)} images do not fit into one file [--output {output}]", fix=fix
            )
        if self.measured and suffix in (*LOSSY, ".webp"):
            why = "an image with a target is written without loss, so that its figures can be recomputed"
            raise UserError(f"{suffix} is not lossless [--output {output}]", why, "name a .png or .tif")
        return Path(output)

    def _probe(self, folder: Path) -> None:
        """Raise CannotWrite where no file can be made in a folder; make the folder."""
        with write_errors(folder, self.flag):
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{os.getpid()}.part"
            probe.write_bytes(b"\0")
            probe.unlink()

    def _refuse_inputs(self, pairs: PairList) -> None:
        inputs = pairs.files()
        for name in self.names:
            path = self.path(name, np.uint8)
            if os.path.realpath(path) in inputs or (
                path.exists() and any(_same(path, each) for each in inputs)
            ):
                fix = "name another folder or file"
                raise UserError(f"{path} is an input, and would be replaced [--output]", fix=fix)

    def _relative(self, name: str, dtype: Any) -> str:
        suffix = output_suffix(name, dtype) if self.measured else kept_suffix(name, dtype)
        return str(Path(name).with_suffix(suffix))

    def path(self, name: str, dtype: Any) -> Path:
        """Return the path of the output of image `name`."""
        return self.file or self.root / self._relative(name, dtype)

    def save(self, name: str, image: Array) -> None:
        """Write the output of an image; no half-written file is left.

        Raises:
            UserError: another image has the same output, or it would lie outside the folder; CannotWrite.
        """
        path, source = self.path(name, image.dtype), self.inputs.get(name)
        if path in self.written:
            raise UserError(f"two images would be written to {path}", fix="give them different names", code=1)
        if not self.file and not path.resolve().is_relative_to(self.root.resolve()):
            raise UserError(f"{name} would be written outside {self.root}", fix="rename it", code=1)
        if image.dtype != np.uint8 and path.suffix.lower() in EIGHT_BIT:
            why = f"{path.suffix} has 8 bits a channel, the image {image.dtype.itemsize * 8}"
            raise UserError(f"{path} cannot hold the output [--output]", why, "name a .tif or .png", code=1)
        kept = {} if self.measured or not source else metadata(source, image)
        content = encode(from_full_range(image, self.max_value), path.suffix, kept)
        part = path.with_name(f".{short(path.name)}.part") if self.elsewhere else path
        with write_errors(path, self.flag):
            if not self.elsewhere and not self.root.is_dir():  # never make again what was removed
                raise FileNotFoundError(errno.ENOENT, "the folder was removed during the test", str(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_bytes(content)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        self.written.append(path)

    def shown(self) -> str:
        """Return the one file that was written, or the folder of several."""
        return str(self.written[0]) if len(self.written) == 1 else f"{self.root}{os.sep}"

    def listed(self) -> list[str]:
        """Paths of the outputs in the folder of the results."""
        return (
            []
            if self.elsewhere
            else [path.relative_to(self.root).as_posix() for path in self.written if path.exists()]
        )

    def link(self, name: str, dtype: Any, page: Path) -> str:
        """Return the path of an output relative to the page that links it."""
        return (
            os.path.relpath(self.path(name, dtype), page.parent)
            if self.elsewhere
            else f"outputs/{self._relative(name, dtype)}"
        )


def short(name: str) -> str:
    """A file name that leaves room for a longer ending."""
    return os.fsencode(name)[:200].decode(errors="ignore")


def _same(path: Path, other: str) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False
