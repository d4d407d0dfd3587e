"""Atomic writes, checksum-verified loads, where a run resumes, its log, and the EMA."""

import copy
import errno
import math
import os
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.ema import EMA
from tests.builders import Payload, damaged, same_state, small_net
from tests.seams import wrap
from utils.optim.optimizers import OPTIMIZERS
from utils.run import checkpoint
from utils.run.log import cut_log, read_log
from utils.run.run import Run
from utils.system import tensorfile
from utils.system.atomic import write_text
from utils.system.errors import UserError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A sound file of weights, some 70 KiB."""
    path = tmp_path / "net.pth"
    tensorfile.save(small_net().state_dict(), path)
    return path


# ----------------------------------------------------------------------------------------- whole or not there


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be pickled")


def write_half(honest: Any, value: Any, file: Any) -> None:
    file.write(b"PK\3\4" + bytes(20_000))
    file.flush()
    fail(errno.ENOSPC)


def fail(number: int = errno.EIO) -> None:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("there_before", [True, False])
@pytest.mark.parametrize(
    ("seam", "fault", "words"),
    [
        ("", None, "cannot be pickled"),
        ("torch.save", write_half, "No space left"),
        ("fsync", lambda *given: fail(), "Input/output error"),
        ("replace", lambda *given: fail(), "Input/output error"),
    ],
)
def test_a_failing_save_leaves_the_older_file_or_none(
    saved: Path, monkeypatch: pytest.MonkeyPatch, there_before: bool, seam: str, fault: Any, words: str
) -> None:
    """And no half-written one, which would keep a full disk full."""
    path, before = saved if there_before else saved.with_name("other.pth"), saved.read_bytes()
    if seam:
        wrap(seam, fault, monkeypatch)
    with pytest.raises((RuntimeError, OSError), match=words):
        tensorfile.save({"weights": torch.zeros(1000), "bad": 0 if seam else Unpicklable()}, path)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["net.pth"]


def test_the_order_in_which_a_file_becomes_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All bytes, then the name, then the folder."""
    path, events = tmp_path / "net.pth", []

    def fsync(honest: Any, descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("fsync", name.name, os.fstat(descriptor).st_size if name != tmp_path else 0))
        honest(descriptor)

    def replace(honest: Any, old: Path, new: Path) -> Path:
        events.append(("replace", old.name, Path(new).name))
        return honest(old, new)

    wrap("fsync", fsync, monkeypatch)
    wrap("replace", replace, monkeypatch)
    tensorfile.save(small_net().state_dict(), path)
    part, size = ".net.pth.part", path.stat().st_size
    assert events == [("fsync", part, size), ("replace", part, "net.pth"), ("fsync", tmp_path.name, 0)]


def test_text_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    for text in ("{}", '{"name": "größer"}', ""):
        write_text(text, path)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


# --------------------------------------------------------------------------------------- what is not accepted


def test_a_sound_file_is_read_back(saved: Path) -> None:
    assert same_state(tensorfile.load(saved), small_net().state_dict())
    net = small_net(seed=1)
    net.load_state_dict(torch.load(saved))  # as plain code does
    assert same_state(net.state_dict(), small_net().state_dict())
    options = {"mean": 0.5, "changed": ["a"]}
    state = {"step": 7, "best": {"psnr": None}, "options": options, "x": torch.ones(2)}
    tensorfile.save(state, saved)
    assert same_state(tensorfile.load(saved), state)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match="no such file") as caught:
            tensorfile.load(path)
        assert str(path) in caught.value.what


def refused(path: Path) -> str:
    """The reason why `path` is refused."""
    with pytest.raises(UserError, match="damaged or no checkpoint") as caught:
        tensorfile.load(path)
    assert str(path) in caught.value.what and caught.value.fix
    assert "\n" not in caught.value.why and len(caught.value.why) < 300
    return caught.value.why


@pytest.mark.parametrize("form", damaged(bytes(10_000)))
def test_a_damaged_file_is_refused(saved: Path, form: str) -> None:
    saved.write_bytes(damaged(saved.read_bytes())[form])
    assert refused(saved)


@pytest.mark.parametrize("part", [0.3, 0.5, 0.7])
def test_4096_zeroed_bytes_are_refused(saved: Path, part: float) -> None:
    """As after a power failure; torch.load alone takes them for weights."""
    whole = bytearray(saved.read_bytes())
    at = int(part * len(whole))
    whole[at : at + 4096] = bytes(4096)
    saved.write_bytes(whole)
    assert not same_state(torch.load(saved), small_net().state_dict())
    assert "checksum" in refused(saved)


def test_one_flipped_bit_of_any_tensor_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        members = [info for info in archive.infolist() if "/data/" in info.filename]
    assert len(members) == len(small_net().state_dict())
    for info in members:
        name, extra = (int.from_bytes(whole[info.header_offset + i :][:2], "little") for i in (26, 28))
        damaged = bytearray(whole)
        damaged[info.header_offset + 30 + name + extra + info.file_size // 2] ^= 0x10
        saved.write_bytes(damaged)
        assert info.filename in refused(saved)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path, zipped: bool) -> None:
    marker, path = tmp_path / "ran", tmp_path / "net.pth"
    torch.save({"w": torch.ones(2), "x": Payload(marker)}, path, _use_new_zipfile_serialization=zipped)
    assert refused(path)
    assert not marker.exists()
    if zipped:  # the payload is a real one
        torch.load(path, weights_only=False)
        assert marker.exists()


def test_only_plain_types_and_tensors_are_read(saved: Path) -> None:
    for value in (Namespace(lr=1.0), {"options": Namespace()}, small_net()):
        torch.save(value, saved)
        assert "UnpicklingError" in refused(saved)


# ---------------------------------------------------------------------------------------- where a run resumes


def test_states_of_several_objects_come_back(tmp_path: Path) -> None:
    net = small_net()
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    net(torch.ones(1, 3, 16, 16)).sum().backward()
    optimizer.step()
    tensorfile.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pth")
    other = small_net(seed=1)
    twin = torch.optim.Adam(other.parameters(), 0.5)
    checkpoint.restore(tensorfile.load(tmp_path / "state.pth"), {"net": other, "optimizer": twin})
    assert same_state(other.state_dict(), net.state_dict()) and twin.param_groups[0]["lr"] == 0.1
    assert same_state([*twin.state.values()], [*optimizer.state.values()])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of 3 steps an epoch with states after epochs 2, 4 and 10; the latest after 7 steps."""
    for tag, step in (("latest", 7), ("epoch_0002", 6), ("epoch_0004", 12), ("epoch_0010", 30)):
        state = {"format": checkpoint.FORMAT, "step": step, "tag": tag}
        tensorfile.save(state, tmp_path / f"{tag}_state.pth")
    return Run(tmp_path)


def test_an_epoch_resumes_from_its_own_state(run: Run) -> None:
    """The latest state serves where it is exactly that of the epoch's end."""
    for epoch, steps, saved in ((0, 3, 0), (2, 3, 2), (10, 3, 10), (7, 1, 0)):
        tag = f"epoch_{saved:04}" if saved else "latest"
        assert checkpoint.find_state(run, epoch, steps)["tag"] == tag
    for epoch in (1, 3, 11):
        with pytest.raises(UserError, match=f"no state after epoch {epoch} ") as caught:
            checkpoint.find_state(run, epoch, 3)
        assert caught.value.why == "saved: 2, 4, 10"


def other_format(path: Path) -> None:
    tensorfile.save({"format": checkpoint.FORMAT + 1, "step": 7}, path)


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"format")] ^= 1  # in what the zip's checksums cover
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [other_format, one_bit, lambda path: path.write_bytes(b"")])
def test_a_damaged_state_is_skipped_for_the_newest_sound_one(run: Run, damage: Callable[[Path], Any]) -> None:
    said: list[str] = []
    damage(run.state("latest"))
    damage(run.state("epoch_0010"))
    assert checkpoint.find_state(run, 0, 3, said.append)["tag"] == "epoch_0004"
    assert len(said) == 2 and all(line.startswith("skipped: ") for line in said)
    assert "latest_state.pth" in said[0] and "epoch_0010_state.pth" in said[1]
    with pytest.raises(UserError, match="epoch_0010_state"):  # asked for by name: never another one
        checkpoint.find_state(run, 10, 3, said.append)
    for tag in ("epoch_0002", "epoch_0004"):
        damage(run.state(tag))
    with pytest.raises(UserError, match="no intact state") as caught:
        checkpoint.find_state(run, 0, 3, said.append)
    assert all(name in caught.value.why for name in ("latest_state", "epoch_0002_state", "epoch_0010_state"))


def test_the_state_before_the_latest_stays(run: Run) -> None:
    for step, tag in ((31, "newer"), (32, "newest")):
        run.keep_previous()
        tensorfile.save({"format": checkpoint.FORMAT, "step": step, "tag": tag}, run.state("latest"))
    assert tensorfile.load(run.state("previous"))["tag"] == "newer"
    one_bit(run.state("latest"))
    assert checkpoint.find_state(run, 0, 3)["tag"] == "newer"
    assert not list(run.folder.glob("*.part"))


@pytest.mark.parametrize(("keep", "left"), [(0, [2, 4, 10]), (1, [10]), (2, [4, 10]), (5, [2, 4, 10])])
def test_the_newest_states_of_an_epoch_are_kept(run: Run, keep: int, left: list[int]) -> None:
    run.drop_old_states(keep)
    assert run.epochs_saved() == left and run.state("latest").exists()


# ---------------------------------------------------------------------------------------------------- the log

RECORDS = [{"step": step, "loss": step / 8, "lr": 1e-4} for step in (0, 2, 4, 4, 6)]
LINES = "".join(f'{{"step": {r["step"]}, "loss": {r["loss"]}, "lr": 0.0001}}\n' for r in RECORDS)


@pytest.mark.parametrize("torn", ["", '{"step": 8, "lo', '{"step": 8, "loss": 1.0', "\0\0\0\0", "{"])
def test_a_log_is_cut_back_to_the_step(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "log.jsonl"
    assert cut_log(path, 5) == [] and path.read_text() == ""  # without a file
    path.write_text(LINES.rstrip("\n"))
    assert cut_log(path, 99) == RECORDS and path.read_text().endswith("}\n")
    for step, kept in ((0, 1), (1, 1), (4, 4), (6, 5), (99, 5)):
        path.write_text(LINES + torn)
        assert read_log(path) == RECORDS
        assert cut_log(path, step) == read_log(path) == RECORDS[:kept]
        text = path.read_text()
        assert text.count("\n") == kept and text.endswith("\n")  # what is appended begins on its own line


# ------------------------------------------------------------------------------------------------ the average


class Walk(nn.Module):
    """Weights and a buffer that are set from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("seen", torch.zeros(3))

    def move(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        values = torch.randn(2, 3, generator=generator)
        with torch.no_grad():
            self.weight.copy_(values[0])
            self.get_buffer("seen").copy_(values[1])
        return values[0], values[1]


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_is_its_closed_form_buffers_included(decay: float) -> None:
    """After k steps: sum over i of (1 - d_i) d_(i+1) ... d_k w_i, with d_1 = 0, d_i = min(d, i / (9 + i)).

    d_i is what i - 1 earlier averages give: (1 + n) / (10 + n) with n = i - 1.
    """
    net, generator = Walk(), torch.Generator().manual_seed(0)
    average, walked = EMA(net, decay), []
    for k in range(1, 8):
        walked.append(net.move(generator))
        average.update()
        kept = [0.0] + [min(decay, i / (9 + i)) for i in range(2, k + 1)]
        shares = [(1 - kept[i]) * math.prod(kept[i + 1 :]) for i in range(k)]
        assert sum(shares) == pytest.approx(1)
        for i, name in enumerate(("weight", "seen")):
            wanted = torch.stack([share * pair[i] for share, pair in zip(shares, walked, strict=True)]).sum(0)
            assert torch.allclose(average.net.state_dict()[name], wanted, atol=1e-6)
    assert torch.equal(net.weight, walked[-1][0])  # the network itself is left alone
    assert average.net is not net and average.net.state_dict().keys() == net.state_dict().keys()


def test_an_average_without_decay_is_the_network_itself() -> None:
    net = Walk()
    average = EMA(net, 0.0)
    assert average.net is net and average.state_dict() == {}
    first, _ = net.move(torch.Generator().manual_seed(0))
    average.update()
    average.load_state_dict({})
    assert torch.equal(net.weight, first)


def test_an_average_that_resumed_from_a_file_is_the_same_to_the_bit(tmp_path: Path) -> None:
    net, twin = Walk(), Walk()
    average, resumed = EMA(net, 0.9), EMA(twin, 0.9)

    def walk(seed: int, *pairs: tuple[Walk, EMA]) -> None:
        for one, its_average in pairs:
            one.move(torch.Generator().manual_seed(seed))
            its_average.update()

    for seed in range(3):
        walk(seed, (net, average))
    tensorfile.save({"net": net.state_dict(), "ema": average.state_dict()}, tmp_path / "state.pth")
    checkpoint.restore(tensorfile.load(tmp_path / "state.pth"), {"net": twin, "ema": resumed})
    assert same_state(resumed.net.state_dict(), average.net.state_dict())
    for seed in range(3, 6):
        walk(seed, (net, average), (twin, resumed))
    assert same_state(resumed.net.state_dict(), average.net.state_dict())


def test_the_statistics_of_a_batch_norm_are_averaged_too() -> None:
    net = small_net().train()
    average = EMA(net, 0.9)
    for seed in range(3):
        net(torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed)) + seed)
        average.update()
    own, averaged = net.state_dict(), average.net.state_dict()
    assert not torch.allclose(own["1.running_mean"], averaged["1.running_mean"], atol=1e-3)
    assert averaged["1.running_mean"].abs().sum() > 0
    assert not any("n_averaged" in key or key.startswith("module.") for key in averaged)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_of_another_memory_layout_is_laid_out_as_the_network_is(name: str) -> None:
    """Fused kernels walk the memory of weights, gradients and state side by side, whatever their strides."""
    given = torch.randn(4, 8, 9, 9, generator=torch.Generator().manual_seed(0))

    def steps(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(3):
            optimizer.zero_grad()
            net(given).square().mean().backward()
            optimizer.step()

    def pair(layout: torch.memory_format) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Conv2d(8, 16, 3).to(memory_format=layout)
        return net, OPTIMIZERS[name](net.parameters(), 1e-2, (0.9, 0.99), 0.9, 0.01)

    net, optimizer = pair(torch.contiguous_format)
    steps(net, optimizer)
    twin, resumed = pair(torch.channels_last)
    state = copy.deepcopy({"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    checkpoint.restore(state, {"net": twin, "optimizer": resumed})
    before = twin.weight.detach().clone()
    steps(net, optimizer)
    steps(twin, resumed)
    assert twin.weight.stride() != net.weight.stride()
    assert (twin.weight - before).abs().max() > 1e-3
    assert torch.allclose(twin.weight, net.weight, atol=1e-6)
