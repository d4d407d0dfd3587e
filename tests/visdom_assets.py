"""Put the files of visdom 0.2.4's page in place from npm, since its own start would fetch them from CDNs.

`python -m tests.visdom_assets` needs npm, which checks the hashes and here only packs: no script of a package
runs. After it, `visdom` starts without any download.
"""

import importlib.metadata
import subprocess
import tarfile
import tempfile
from pathlib import Path

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


def main() -> None:
    """Fetch the files unless all are there; print which."""
    import visdom

    static = Path(visdom.__file__).parent / "static"
    mark = static / "version.built"  # visdom downloads nothing where this names its version
    if mark.is_file() and all((static / target).is_file() for *_, target in FILES):
        print("visdom's page files are in", static)
        return
    with tempfile.TemporaryDirectory() as folder:
        packages = dict.fromkeys(package for package, *_ in FILES)
        command = ["npm", "pack", "--silent", "--pack-destination", folder, *packages]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for package, member, target in FILES:
            (static / target).parent.mkdir(parents=True, exist_ok=True)
            (static / target).write_bytes(
                read_member(Path(folder, f"{package.replace('@', '-')}.tgz"), member)
            )
    mark.write_text(importlib.metadata.version("visdom"))
    print(len(FILES), "page files of visdom put into", static)


def read_member(archive: Path, member: str) -> bytes:
    """A file of an npm package; its top folder is `package` in most, not in all."""
    with tarfile.open(archive) as tar:
        top = tar.getnames()[0].split("/")[0]
        file = tar.extractfile(f"{top}/{member}")
        assert file is not None, f"{member} is no file in {archive.name}"
        return file.read()


if __name__ == "__main__":
    main()
