#!/usr/bin/env python3
"""Put visdom 0.2.4's browser assets in place from npm instead of CDNs.

usage: <python of the venv that has visdom> visdom_assets.py
needs: npm (only `npm pack`: no install scripts run, tarball hashes checked by npm)
After it, `visdom` starts without any download.
"""

import pathlib
import subprocess
import tarfile
import tempfile

import visdom

B, M = "bootstrap@3.3.7", "mathjax@2.7.5"
ICON = "glyphicons-halflings-regular"
MJ = "js/mathjax/2.7.5/"
FILES = [  # npm package, file in it, target under visdom/static
    ("jquery@3.1.1", "dist/jquery.min.js", "js/jquery.min.js"),
    (B, "dist/js/bootstrap.min.js", "js/bootstrap.min.js"),
    (B, "dist/css/bootstrap.min.css", "css/bootstrap.min.css"),
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
    *[(B, f"dist/fonts/{ICON}.{e}", f"fonts/{ICON}.{e}") for e in ("eot", "woff2", "woff", "ttf")],
    (B, f"dist/fonts/{ICON}.svg", f"fonts/{ICON}.svg#glyphicons_halflingsregular"),
    *[
        (M, f, MJ + f)
        for f in (
            "MathJax.js",
            "config/Safe.js",
            "config/TeX-AMS-MML_HTMLorMML.js",
            "extensions/Safe.js",
            "jax/output/SVG/config.js",
            "jax/output/SVG/jax.js",
            "jax/output/SVG/fonts/TeX/fontdata.js",
            "jax/output/SVG/fonts/TeX/Size1/Regular/Main.js",
        )
    ],
]


def main():
    static = pathlib.Path(visdom.__file__).parent / "static"
    if all((static / to).is_file() for *_, to in FILES) and (static / "version.built").is_file():
        return print("visdom assets already in", static)
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run(
            ["npm", "pack", "--silent", "--pack-destination", tmp, *dict.fromkeys(p for p, *_ in FILES)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for package, member, to in FILES:
            target = static / to
            target.parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(pathlib.Path(tmp) / (package.replace("@", "-") + ".tgz")) as tar:
                root = tar.next().name.split("/")[0]  # "package" in most, not in all
                target.write_bytes(tar.extractfile(f"{root}/{member}").read())
    (static / "version.built").write_text(visdom.__version__)  # download_scripts() then fetches nothing
    print(len(FILES), "visdom assets ->", static)


if __name__ == "__main__":
    main()
