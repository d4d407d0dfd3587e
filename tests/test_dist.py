"""Two real processes under torchrun take the steps of one."""

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import FAST, ROOT, TINY, Workplace

pytestmark = pytest.mark.dist
RUN = (
    *TINY,
    *FAST,
    "--optimizer",
    "sgd",
    "--lr",
    "0.05",
    "--amp",
    "off",
    "--n_epochs",
    "7",
    "--gpu_ids",
    "-1",
)


def torchrun(work: Workplace, *flags: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(ROOT / "train.py"), *flags],
        cwd=work.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("reduction", ["mean", pytest.param("sum", marks=pytest.mark.slow)])
def test_two_processes_train_like_one(work: Workplace, reduction: str) -> None:
    flags = (*RUN, "--reduction", reduction, *(("--lr", "2e-6") if reduction == "sum" else ()))
    work.train(*flags, "--name", "one")
    said = torchrun(work, *flags, "--name", "two")
    assert said.count("2 processes") == 1 and said.count("epoch 1: validation") == 1
    one, two = (torch.load(work.file(name, "latest_net.pth")) for name in ("one", "two"))
    moved = max((one[k] - torch.zeros_like(one[k])).abs().max().item() for k in one)
    assert moved > 0.01
    assert max((one[k] - two[k]).abs().max().item() for k in one) < 1e-5
    assert not any(key.startswith("module.") for key in two)
    losses, pairs = work.log("one", "loss"), work.log("two", "loss")
    assert [value for _, value in losses] == pytest.approx([value for _, value in pairs], rel=1e-4)
    psnr = [value for _, value in work.log("one", "val_psnr")]
    assert psnr == pytest.approx([value for _, value in work.log("two", "val_psnr")], abs=1e-3)
