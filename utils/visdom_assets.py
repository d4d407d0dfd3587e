"""Put the files of visdom 0.2.4's page in place from npm, since its own start would fetch them from CDNs.

`python -m utils.visdom_assets` needs npm, which checks the hashes and here only packs: no script of a package
runs. After it, `visdom` starts without any download. For a machine without internet: `--save FILE.tar.gz` on
another one, then `--load FILE.tar.gz`.
"""

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from utils.options import parse_or_exit
from utils.options.flags import DEBUG
from utils.options.kinds import path
from utils.options.parser import Parser, flag
from utils.system.errors import UserError, run_script
from utils.system.streams import fix_streams

BOOTSTRAP, MATHJAX = "bootstrap@3.3.7", "mathjax@2.7.5"
ICONS = "glyphicons-halflings-regular"
FILES = (  # npm package, file in it, target under visdom/static
    ("jquery@3.1.1", "dist/jquery.min.js", "js/jquery.min.js"),
    (BOOTSTRAP, "dist/js/bootstrap.min.js", "js/bootstrap.min.js"),
    (BOOTSTRAP, "dist/css/bootstrap.min.css", "css/bootstrap.min.css"),
    ("react@16.2.0", "umd/react.production.min.js", "js/react-react.min.js"),
    ("react-dom@16.2.0", "umd/react-dom.production.min.js", "js/react-dom.min.js"),
    ("react-modal@3.1.10", "dist/react-modal.min.js", "js/react-modal.min.js"),
    ("plotly.js-dist-min@2.11.1", "plotly.min.js", "js/plotly-plotly.min.js"),
    ("sjcl@1.0.7", "sjcl.js", "js/sjcl.js"),
    ("layout-bin-packer@1.4.0", "dist/layout-bin-packer.js", "js/layout_bin_packer.js"),
    ("layout-bin-packer@1.4.0", "dist/layout-bin-packer.js.map", "js/layout-bin-packer.js.map"),
    ("d3@3.5.17", "d3.min.js", "js/d3.v3.min.js"),
    ("d3-selection-multi@1.0.1", "build/d3-selection-multi.js", "js/d3-selection-multi.v1.js"),
    ("save-svg-as-png@1.4.17", "lib/saveSvgAsPng.js", "js/saveSvgAsPng.js"),
    ("react-resizable@1.4.6", "css/styles.css", "css/react-resizable-styles.css"),
    ("react-grid-layout@0.16.3", "css/styles.css", "css/react-grid-layout-styles.css"),
    ("classnames@2.2.5", "index.js", "fonts/classnames"),
    *(
        (BOOTSTRAP, f"dist/fonts/{ICONS}.{kind}", f"fonts/{ICONS}.{kind}")
        for kind in ("eot", "woff2", "woff", "ttf")
    ),
    (BOOTSTRAP, f"dist/fonts/{ICONS}.svg", f"fonts/{ICONS}.svg#glyphicons_halflingsregular"),
    *(
        (MATHJAX, name, f"js/mathjax/2.7.5/{name}")
        for name in (
            "MathJax.js",
            "config/Safe.js",
            "config/TeX-AMS-MML_HTMLorMML.js",
            "extensions/Safe.js",
            "jax/output/SVG/config.js",
            "jax/output/SVG/jax.js",
            "jax/output/SVG/fonts/TeX/fontdata.js",
            "jax/output/SVG/fonts/TeX/Size1/Regular/Main.js",
        )
    ),
)


def parse(argv: Sequence[str]) -> Namespace:
    """Parse the command line; UserError for a wrong flag."""
    save = flag("--save", None, path, "write the page's files to this .tar.gz")
    load = flag("--load", None, path, "take them from this .tar.gz instead of npm")
    what = "Put the files of visdom's page in place, for a machine without internet."
    opt = Parser("python -m utils.visdom_assets", what, {"flags": [save, load, DEBUG]}).options(argv)
    if opt.save and opt.load:
        raise UserError("--save and --load exclude each other", fix="leave one out")
    return opt


def static_folder() -> Path:
    """Where visdom serves its files from; UserError without visdom."""
    spec = importlib.util.find_spec("visdom")
    if spec is None or spec.origin is None:
        raise UserError("visdom is not installed", fix='pip install -e ".[visdom]", as in the README')
    return Path(spec.origin).parent / "static"


def in_place(static: Path) -> bool:
    """Whether all files are there; visdom downloads nothing where `version.built` names its version."""
    return (static / "version.built").is_file() and all((static / target).is_file() for *_, target in FILES)


def put_in_place() -> str:
    """Fetch the files from npm unless all are there; returns what was done.

    Raises:
        UserError: visdom or npm is missing, or npm fails.
    """
    static = static_folder()
    if in_place(static):
        return f"visdom's page files are in {static}"
    if shutil.which("npm") is None:
        raise UserError("npm is not installed", fix="install Node.js, or use --load with a file of --save")
    with tempfile.TemporaryDirectory() as folder:
        packages = dict.fromkeys(package for package, *_ in FILES)
        command = ["npm", "pack", "--silent", "--pack-destination", folder, *packages]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            why = done.stderr.strip().partition("\n")[0]
            raise UserError("npm could not fetch the files", why, "use --load with a file of --save", code=1)
        for package, member, target in FILES:
            archive = Path(folder, f"{package.replace('@', '-')}.tgz")
            write(static / target, read_member(archive, member))
    mark_complete(static)
    return f"{len(FILES)} page files of visdom put into {static}"


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def mark_complete(static: Path) -> None:
    (static / "version.built").write_text(importlib.metadata.version("visdom"))


def save_to(archive: Path) -> str:
    """Pack the files that are in place; returns what was done."""
    static = static_folder()
    put_in_place()
    with tarfile.open(archive, "w:gz") as tar:
        for *_, target in FILES:
            tar.add(static / target, f"static/{target}")
    return f"{len(FILES)} page files of visdom written to {archive}"


def load_from(archive: Path) -> str:
    """Unpack what `save_to` wrote, those files only; returns what was done.

    Raises:
        UserError: the archive cannot be read, or lacks a file.
    """
    static = static_folder()
    try:
        files = {target: read_member(archive, target) for *_, target in FILES}
    except (OSError, KeyError, tarfile.TarError) as error:
        why = str(error).strip("'\"")
        raise UserError(f"cannot read {archive} [--load]", why, "write it again by --save") from None
    for target, content in files.items():
        write(static / target, content)
    mark_complete(static)
    return f"{len(FILES)} page files of visdom put into {static}"


def read_member(archive: Path, member: str) -> bytes:
    """A file of an npm package; its top folder is `package` in most, not in all."""
    with tarfile.open(archive) as tar:
        top = tar.getnames()[0].split("/")[0]
        file = tar.extractfile(f"{top}/{member}")
        assert file is not None, f"{member} is no file in {archive.name}"
        return file.read()


def main(opt: Namespace, cleanup: ExitStack) -> int:
    if opt.load:
        print(load_from(Path(opt.load)))
    else:
        print(save_to(Path(opt.save)) if opt.save else put_in_place())
    return 0


if __name__ == "__main__":
    fix_streams()
    sys.exit(run_script(main, parse_or_exit(parse)))
