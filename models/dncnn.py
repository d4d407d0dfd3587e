"""DnCNN (Zhang et al. 2017): convolutions at full resolution that predict the residual."""

from torch import Tensor, nn

from models.layers import (
    SizeRequirements,
    act_layer,
    crop_to,
    init_weights,
    norm_layer,
    pad_to,
    residual_base,
)


class DnCNN(nn.Module):
    """`(N, input_nc, H, W)` to `(N, output_nc, H, W)`: the input minus the predicted residual; any H and W.

    Args:
        width: channels of every hidden layer.
        depth: number of convolutions; all but the first and the last have a norm.
    """

    def __init__(self, input_nc: int, output_nc: int, width: int, depth: int, norm: str, act: str, init: str):
        super().__init__()
        self.output_nc = output_nc
        self.size = SizeRequirements(minimum=2 if norm == "instance" else 1)  # needs more than one pixel
        layers: list[nn.Module] = [nn.Conv2d(input_nc, width, 3, padding=1), act_layer(act)]
        for _ in range(depth - 2):
            conv = nn.Conv2d(width, width, 3, padding=1, bias=norm not in ("batch", "instance"))
            layers += [conv, norm_layer(norm, width), act_layer(act)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, output_nc, 3, padding=1))
        init_weights(self, init)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        residual = self.body(pad_to(x, self.size))
        return residual_base(x, self.output_nc) - crop_to(residual, height, width)
