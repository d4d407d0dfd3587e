"""Modules around a network that change its input or output but not the names of its saved weights."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import residual_base, size_of


class Wrapper(nn.Module):
    """Base class: `state_dict` and `load_state_dict` use the names of `net`, without a `net.` prefix.

    This also holds where the wrapper is a submodule, for instance of AveragedModel or of a compiled module.
    `named_parameters` does have the prefix, as PyTorch requires; `bare` returns the network without wrappers.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.size = size_of(net)
        self.register_load_state_dict_pre_hook(_add_prefix)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.net.state_dict(*args, **kwargs)


def _add_prefix(wrapper: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the loaded tensors to what PyTorch expects of a module that has the child `net`."""
    keys = [key for key in state if key.startswith(prefix)]
    if all(key.startswith(f"{prefix}net.") for key in keys):  # of a run of spandrel before December 2026
        return
    for key in keys:
        state[f"{prefix}net.{key.removeprefix(prefix)}"] = state.pop(key)


class Upscale(Wrapper):
    """Enlarge the input `scale` times before a network whose output has the size of its input.

    `(N, C, H, W)` to `(N, output_nc, scale * H, scale * W)`. Bicubic with antialiasing (a = -0.5), the kernel
    of Pillow and MATLAB.
    """

    def __init__(self, net: nn.Module, scale: int):
        super().__init__(net)
        self.scale = scale
        self.size = self.size._replace(scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (side * self.scale for side in x.shape[-2:])
        enlarged = F.interpolate(x, (height, width), mode="bicubic", antialias=True)
        output: Tensor = self.net(enlarged)
        return output

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class Residual(Wrapper):
    """Input minus the output of a network that predicts the degradation (noise, rain)."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return residual_base(x, output.shape[1]) - output


def bare(net: nn.Module) -> nn.Module:
    """The network inside any wrappers; its parameter names are those of the saved weights."""
    while isinstance(net, Wrapper):
        net = net.net
    return net
