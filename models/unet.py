"""The U-Net of pix2pix (Isola et al. 2017): strided convolutions, transposed convolutions, skips."""

import torch
from torch import Tensor, nn

from models.layers import SizeRequirements, act_layer, crop_to, init_weights, norm_layer, pad_to


class UNet(nn.Module):
    """`(N, input_nc, H, W)` to `(N, output_nc, H, W)` in [-1, 1] (tanh), any H and W.

    Args:
        width: channels of the first level, doubled at each further level up to 8 * width.
        depth: number of downsamplings by 2.
        act: activation of the encoder (pix2pix: leaky); the decoder uses ReLU.
        upsample: `transpose` (ConvTranspose2d) or `resize` (nearest, then Conv2d; avoids checkerboards).
    """

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

        def up(incoming: int, outgoing: int) -> list[nn.Module]:
            if upsample == "transpose":
                return [nn.ConvTranspose2d(incoming, outgoing, 4, stride=2, padding=1)]
            return [nn.Upsample(scale_factor=2), nn.Conv2d(incoming, outgoing, 3, padding=1)]

        # instance norm needs more than one pixel at the lowest level
        self.size = SizeRequirements(multiple=2**depth, minimum=2 * 2**depth)
        widths = [width * min(2**level, 8) for level in range(depth)]

        self.downs = nn.ModuleList()
        for level, channels in enumerate(widths):
            down = nn.Conv2d(widths[level - 1] if level else input_nc, channels, 4, stride=2, padding=1)
            own_norm = norm if level else "none"  # no norm after the first convolution
            self.downs.append(nn.Sequential(down, norm_layer(own_norm, channels), act_layer(act)))

        self.ups = nn.ModuleList()
        for level in reversed(range(1, depth)):
            concatenated = 1 if level == depth - 1 else 2  # the lowest level has no skip
            incoming = concatenated * widths[level]
            outgoing = widths[level - 1]
            stage = [*up(incoming, outgoing), norm_layer(norm, outgoing), act_layer("relu")]
            self.ups.append(nn.Sequential(*stage))
        self.head = nn.Sequential(*up(widths[0] * (2 if depth > 1 else 1), output_nc), nn.Tanh())
        init_weights(self, init)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = pad_to(x, self.size)
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        skips.pop()
        for up in self.ups:
            x = torch.cat([up(x), skips.pop()], dim=1)
        return crop_to(self.head(x), height, width)
