"""A U-Net of residual blocks on a pixel-unshuffled input, for the highest PSNR per second on a CPU.

No layer runs at full resolution, there is no norm by default, and the output is added to the input.
"""

from itertools import pairwise

from torch import Tensor, nn

from models.layers import (
    ResidualBlock,
    SizeRequirements,
    crop_to,
    init_weights,
    pad_to,
    residual_base,
    zero_weights,
)


class ResUNet(nn.Module):
    """`(N, input_nc, H, W)` to `(N, output_nc, H, W)`: the input plus the predicted residual; any H and W.

    Args:
        width: channels of the first level, doubled at each further level.
        depth: residual blocks per level in the encoder, and as many in the decoder.
        levels: number of resolutions, each half of the previous one.
        stem: pixel-unshuffle factor of the input; 2 for fine structure (noise), 4 for coarse (haze).
    """

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        width: int,
        depth: int,
        levels: int,
        stem: int,
        norm: str,
        act: str,
        init: str,
    ):
        super().__init__()
        self.output_nc = output_nc
        multiple = stem * 2 ** (levels - 1)  # instance norm needs more than one pixel at the lowest level
        self.size = SizeRequirements(multiple, minimum=multiple * (2 if norm == "instance" else 1))
        widths = [width * 2**level for level in range(levels)]

        def blocks(channels: int) -> nn.Sequential:
            return nn.Sequential(*[ResidualBlock(channels, norm, act) for _ in range(depth)])

        self.stem = nn.Sequential(nn.PixelUnshuffle(stem), nn.Conv2d(input_nc * stem**2, width, 3, padding=1))
        self.encoders = nn.ModuleList(blocks(channels) for channels in widths)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(b, 4 * a, 1), nn.PixelShuffle(2)) for a, b in pairwise(widths)
        )
        self.decoders = nn.ModuleList(blocks(channels) for channels in widths[:-1])
        self.head = nn.Sequential(nn.Conv2d(width, output_nc * stem**2, 3, padding=1), nn.PixelShuffle(stem))
        init_weights(self, init)
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                zero_weights(block.body[-2])
        zero_weights(self.head[0])

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        base = residual_base(x, self.output_nc)
        x = self.stem(pad_to(x, self.size))
        skips = []
        for encode, down in zip(self.encoders, self.downs, strict=False):
            x = encode(x)
            skips.append(x)
            x = down(x)
        x = self.encoders[-1](x)
        for up, decode in zip(reversed(self.ups), reversed(self.decoders), strict=True):
            x = decode(up(x) + skips.pop())
        return base + crop_to(self.head(x), height, width)
