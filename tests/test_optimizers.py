"""Muon against torch's own, and against what it promises."""

import pytest
import torch
from torch import Tensor, nn

from utils.optim.muon import Muon, orthogonalized
from utils.optim.optimizers import OPTIMIZERS


@pytest.mark.parametrize("shape", [(3, 64, 576), (2, 40, 40), (1, 96, 32)])
def test_singular_values_come_near_one_and_the_directions_stay(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-5
    got = orthogonalized(matrices).float()
    assert got.shape == matrices.shape
    values = torch.linalg.svdvals(got)
    assert values.max() < 1.25 and values.quantile(0.1) > 0.6
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    core = u.mT @ got @ v.mT
    off = core - torch.diag_embed(core.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 0.1 < core.diagonal(dim1=1, dim2=2).min()
    assert not orthogonalized(torch.zeros(shape)).any()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
@pytest.mark.parametrize("shape", [(24, 32), (48, 16)])
def test_matrices_move_as_with_the_optimizer_of_torch(shape: tuple[int, int]) -> None:
    start, pull = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))

    def descend(build) -> Tensor:  # type: ignore[no-untyped-def]
        weight = nn.Parameter(start.clone())
        optimizer = build([weight])
        for _ in range(10):
            optimizer.zero_grad()
            (weight * pull).sin().sum().backward()
            optimizer.step()
        return weight.detach()

    ours = descend(lambda p: OPTIMIZERS["muon"](p, 0.01, (0.9, 0.999), 0.95, 0.1))
    theirs = descend(lambda p: torch.optim.Muon(p, 0.01, weight_decay=0.1, momentum=0.95))
    moved = (theirs - start).norm()
    assert moved > 0.1
    assert (ours - theirs).norm() < 0.01 * moved  # bfloat16 inside


def test_first_and_last_layers_and_biases_are_those_of_adamw_and_a_state_comes_back() -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 24, 3), nn.Conv2d(24, 24, 3), nn.Conv2d(24, 3, 3))

    def steps(net: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            image = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            net(image).square().mean().backward()
            optimizer.step()

    nets = [network().to(memory_format=torch.channels_last) for _ in range(3)]
    arguments = 1e-3, (0.9, 0.99), 0.95, 0.01
    first, whole, plain = (
        OPTIMIZERS[name](net.parameters(), *arguments)
        for name, net in zip(("muon", "muon", "adamw"), nets, strict=True)
    )
    steps(nets[2], plain, range(1))
    steps(nets[1], whole, range(1))
    for (name, ours), theirs in zip(nets[1].named_parameters(), nets[2].parameters(), strict=True):
        assert torch.equal(ours, theirs) == (name != "1.weight"), name
    steps(nets[1], whole, range(1, 6))

    steps(nets[0], first, range(3))
    again = OPTIMIZERS["muon"](nets[0].parameters(), *arguments)
    again.load_state_dict(first.state_dict())
    steps(nets[0], again, range(3, 6))
    for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_without_a_gradient_stay() -> None:
    net = nn.Conv2d(16, 16, 3)
    optimizer = Muon(net.parameters(), 0.1, (0.9, 0.99), 0.95, 0.1)
    before = net.weight.detach().clone()
    optimizer.step()
    assert torch.equal(net.weight, before)
