"""`python -m utils.visdom_assets`: the page's files of visdom go from one machine to another."""

import tarfile
from pathlib import Path

import pytest

from tests.builders import error_of
from utils import visdom_assets
from utils.visdom_assets import FILES, in_place, load_from, parse, save_to


def fill(static: Path) -> None:
    for number, (*_, target) in enumerate(FILES):
        (static / target).parent.mkdir(parents=True, exist_ok=True)
        (static / target).write_text(f"file {number}")
    (static / "version.built").write_text("0")


def test_saved_files_are_loaded_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("visdom", reason="visdom is not installed")
    here, there, archive = tmp_path / "here", tmp_path / "there", tmp_path / "page.tar.gz"
    fill(here)
    monkeypatch.setattr(visdom_assets, "static_folder", lambda: here)
    assert str(archive) in save_to(archive)
    monkeypatch.setattr(visdom_assets, "static_folder", lambda: there)
    assert not in_place(there)
    load_from(archive)
    assert in_place(there)
    assert [(there / target).read_text() for *_, target in FILES] == [f"file {i}" for i in range(len(FILES))]


def test_an_archive_that_is_none_or_lacks_files_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visdom_assets, "static_folder", lambda: tmp_path / "static")
    (tmp_path / "text").write_text("no archive")
    (tmp_path / "static.js").write_text("one file")
    with tarfile.open(tmp_path / "short", "w:gz") as tar:
        tar.add(tmp_path / "static.js", "static/js/jquery.min.js")
    for name in ("text", "short", "absent"):
        assert "[--load]" in error_of(load_from, tmp_path / name).what
    assert not (tmp_path / "static").exists()


def test_without_npm_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visdom_assets, "static_folder", lambda: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "--load" in error_of(visdom_assets.put_in_place).fix
    assert error_of(parse, ["--save", "a", "--load", "b"]).fix == "leave one out"
