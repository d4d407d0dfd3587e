"""The generator of Johnson et al. 2016 and CycleGAN: downsampling, residual blocks, upsampling."""

from torch import Tensor, nn

from models.layers import (
    ResidualBlock,
    SizeRequirements,
    act_layer,
    crop_to,
    init_weights,
    norm_layer,
    pad_to,
)


class ResNet(nn.Module):
    """`(N, input_nc, H, W)` to `(N, output_nc, H, W)` in [-1, 1] (tanh), any H and W.

    Args:
        width: channels after the first convolution; the residual blocks have four times as many.
        depth: number of residual blocks.
        upsample: `transpose` (ConvTranspose2d) or `resize` (nearest, then Conv2d; avoids checkerboards).
    """

    size = SizeRequirements(multiple=4, minimum=16)

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        width: int,
        depth: int,
        norm: str,
        act: str,
        init: str,
        upsample: str,
    ):
        super().__init__()

        def stage(conv: list[nn.Module], channels: int) -> list[nn.Module]:
            return [*conv, norm_layer(norm, channels), act_layer(act)]

        def up(channels: int) -> list[nn.Module]:
            if upsample == "transpose":
                return [nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)]
            return [nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(channels, channels // 2, 3)]

        self.body = nn.Sequential(
            *stage([nn.ReflectionPad2d(3), nn.Conv2d(input_nc, width, 7)], width),
            *stage([nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)], 2 * width),
            *stage([nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)], 4 * width),
            *[ResidualBlock(4 * width, norm, act, padding="reflect") for _ in range(depth)],
            *stage(up(4 * width), 2 * width),
            *stage(up(2 * width), width),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, output_nc, 7),
            nn.Tanh(),
        )
        init_weights(self, init)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return crop_to(self.body(pad_to(x, self.size)), height, width)
