"""Small networks as others publish them, and their names of weights."""

import pytest
import torch
from torch import Tensor, nn


def published_dncnn(depth: int = 17, width: int = 64, biased: bool = True, seed: int = 0) -> nn.Sequential:
    """A gray DnCNN as others lay it out: convolution, ReLU, blocks with batch norm; gives the noise."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1, bias=biased), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1, bias=biased))


def published_nets() -> dict[str, nn.Module]:
    """Tiny networks of spandrel's architectures, by scale and what their sides must be a multiple of."""
    pytest.importorskip("spandrel")
    from spandrel.architectures.Compact import Compact
    from spandrel.architectures.DnCNN import DnCNN
    from spandrel.architectures.DRUNet import DRUNet
    from spandrel.architectures.SAFMN import SAFMN

    torch.manual_seed(0)
    nets = {
        "x4": Compact(num_feat=8, num_conv=2, upscale=4),
        "x2": Compact(num_feat=8, num_conv=2, upscale=2),
        "x2_of_8": SAFMN(dim=8, n_blocks=2, upscaling_factor=2),
        "x1": DnCNN(in_nc=3, out_nc=3, nc=8, nb=9),
        "x1_of_8_noise_map": DRUNet(in_nc=2, out_nc=1, nc=[4, 8, 8, 8], nb=4),
    }
    return {name: net.eval() for name, net in nets.items()}


def prefixed(net: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The state_dict of `net` under longer names."""
    return {prefix + key: value for key, value in net.state_dict().items()}
