"""Two real processes under torchrun take the steps of one."""

import pytest

from tests.builders import FAST, TINY, largest_difference, words
from tests.cli import TORCHRUN, Workplace, records, weights

pytestmark = pytest.mark.dist
RUN = (
    *TINY,
    *FAST,
    *words("--optimizer sgd --lr 0.05 --amp off --n_epochs 7 --gpu_ids -1"),
)


@pytest.mark.parametrize("reduction", ["mean", pytest.param("sum", marks=pytest.mark.slow)])
def test_two_processes_train_like_one(work: Workplace, reduction: str) -> None:
    flags = (*RUN, "--reduction", reduction, *(("--lr", "2e-6") if reduction == "sum" else ()))
    one = work.train(*flags, name="one").run
    done = work.train(*flags, name="two", launcher=TORCHRUN)
    assert done.err.count("2 processes") == 1 and done.err.count("epoch 1: val PSNR") == 1
    assert max(value.abs().max().item() for value in weights(one).values()) > 0.01
    assert largest_difference(weights(one), weights(done.run)) < 1e-5
    assert not any(key.startswith("module.") for key in weights(done.run))
    assert records(one, "loss") == pytest.approx(records(done.run, "loss"), rel=1e-4)
    assert records(one, "val_psnr") == pytest.approx(records(done.run, "val_psnr"), abs=1e-3)
