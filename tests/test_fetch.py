"""Weights by address: `--weights https://...#sha256=...`, against a server on this machine."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from models.fetch import local_weights
from tests.builders import (
    CPU,
    FAST,
    TINY,
    TINY_NET,
    error_of,
    flags,
    network,
    tiny_flags,
    write_set,
    write_weights,
)
from tests.cli import InProcess, free_port, weights
from tests.published import published_nets


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]


class Site:
    """A folder that is served; `asked` lists the paths of all requests."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        self.asked: list[str] = []
        self.server.asked = self.asked  # type: ignore[attr-defined]
        self.thread = Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def address(self, name: str, digest: str = "") -> str:
        found = digest or hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
        return f"http://127.0.0.1:{self.server.server_port}/{name}#sha256={found}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server, and an empty cache of torch.hub."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    found = Site(tmp_path / "site")
    yield found
    found.close()


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.glob("hub/**/*") if path.is_file())


def test_weights_are_downloaded_once(cli: InProcess, site: Site, tmp_path: Path) -> None:
    net = network("resunet", **{"width": 8, "depth": 1, "levels": 2})
    write_weights(net, site.folder / "net.pth")
    address = site.address("net.pth")
    given = (*TINY, *FAST, *CPU, *flags(weights=address, max_steps=1, lr=1e-12))
    first = cli.train(*given)
    assert f"download http://127.0.0.1:{site.server.server_port}/net.pth to" in first.err
    for key, value in weights(first.run).items():
        assert torch.allclose(value, net.state_dict()[key], atol=1e-6)
    assert "download" not in cli.train(*given, name="again").err
    assert site.asked == ["/net.pth"] and len(cached(tmp_path)) == 1
    Path(tmp_path, "hub/hub/checkpoints", cached(tmp_path)[0]).write_bytes(b"damaged")
    assert local_weights(address).read_bytes() == (site.folder / "net.pth").read_bytes()
    assert len(site.asked) == 2


def test_test_py_takes_an_address(cli: InProcess, site: Site) -> None:
    write_weights(network("dncnn"), site.folder / "my net.pth")
    write_set(Path("photos"), "inputs", 1, (20, 30), ("",))
    address = site.address("my net.pth").replace(" ", "%20")
    digest = hashlib.sha256((site.folder / "my net.pth").read_bytes()).hexdigest()
    ended = cli.test(
        "--weights",
        address.split("#")[0] + f"#sha256={digest}",
        *tiny_flags("dncnn"),
        "--dataroot",
        "photos",
        name="",
    )
    assert "results/my_20net/photos" in ended.out


def test_a_network_of_spandrel_by_address_resumes_without_it(
    cli: InProcess, site: Site, tmp_path: Path
) -> None:
    write_weights(published_nets()["x2"], site.folder / "x2.pth")
    write_set(Path("clean"), "clean", 4, (48, 48), ("",))
    given = flags(
        model="spandrel", weights=site.address("x2.pth"), dataroot="clean", degrade="sr:2", batchSize=2
    )
    cli.train(*given, *FAST[:2], *CPU, "--max_steps", "1")
    site.close()
    for file in tmp_path.glob("hub/**/*.pth"):
        file.unlink()
    assert cli.train("--resume", "--max_steps", "2").code == 0


def wrong_hash(site: Site) -> str:
    return site.address("net.pth", "0" * 64)


def no_server(site: Site) -> str:
    return f"http://127.0.0.1:{free_port()}/net.pth#sha256={'0' * 64}"


def no_page(site: Site) -> str:
    return site.address("absent.pth", "0" * 64)


def no_host(site: Site) -> str:
    return f"https://no.such.host.invalid/net.pth#sha256={'0' * 64}"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (wrong_hash, ("cannot download", "invalid hash value")),
        (no_server, ("cannot download", "refused")),
        (no_page, ("cannot download", "404")),
        (no_host, ("cannot download",)),
        (lambda site: site.address("net.pth").split("#")[0], ("no hash", "append #sha256=")),
        (lambda site: site.address("net.pth")[:-1], ("no hash",)),
        (lambda site: site.address("net.pth").replace("sha256=", "md5="), ("no hash",)),
    ],
)
def test_what_is_not_downloaded(
    cli: InProcess, site: Site, tmp_path: Path, address: Callable[[Site], str], words: tuple[str, ...]
) -> None:
    write_weights(network("dncnn"), site.folder / "net.pth")
    weights = address(site)
    assert cli.train(*TINY, *FAST, "--weights", weights, code=2).refused(*words)
    tested = cli.test("--weights", weights, *TINY_NET, "--dataroot", "demo:2:32", name="", code=2)
    assert tested.refused(*words)
    assert not cached(tmp_path) and not Path("checkpoints").exists() and not Path("results").exists()


def test_a_server_that_hangs_does_not_hang_the_script(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.fetch.TIMEOUT_S", 0.2)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/net.pth#sha256={'0' * 64}"
        assert "timed out" in error_of(local_weights, address).why
    assert socket.getdefaulttimeout() is None


def test_a_path_is_itself() -> None:
    assert local_weights("a/b.pth") == Path("a/b.pth")
