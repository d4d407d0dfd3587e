"""Published networks, recognised by the library spandrel from the names and shapes of their weights."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.layers import SizeRequirements, crop_to, pad_to
from models.weights import read_weights
from utils.system.errors import UserError

OWN_PREFIX = "net."  # of every name in SpandrelNet's state_dict


class SpandrelNet(nn.Module):
    """`(N, input_nc, H, W)` to `(N, output_nc, scale * H, scale * W)`; any H and W.

    Input and output are in [0, 1] (mean 0, std 1); the output is not clipped. The network is built, and its
    weights loaded, from the file `weights`.

    Attributes:
        size: requirements on the input size, and the scale.

    Raises:
        UserError: spandrel is not installed, the file holds no weights or those of an unknown network, or
            the network has other channels than `input_nc` and `output_nc`.
    """

    def __init__(self, input_nc: int, output_nc: int, weights: str):
        super().__init__()
        found = recognise(weights)
        own = found.input_channels, found.output_channels
        if own != (input_nc, output_nc):
            raise UserError(
                f"{weights} has other channels [--input_nc, --output_nc]",
                f"the network has {own[0]} to {own[1]}, the options say {input_nc} to {output_nc}",
                f"--input_nc {own[0]} --output_nc {own[1]}",
            )
        self.input_nc, self.output_nc = own
        self.net: nn.Module = found.model
        required = found.size_requirements
        self.size = SizeRequirements(required.multiple_of, max(1, required.minimum), int(found.scale))
        # not forward: some networks return several outputs or need a noise map as input
        self.call = found._call_fn

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        output: Tensor = self.call(self.net, pad_to(x, self.size))
        return crop_to(output, self.size.scale * height, self.size.scale * width)


def recognise(file: str) -> Any:
    """spandrel's ImageModelDescriptor for the network whose weights are in `file`."""
    try:
        import spandrel
    except ImportError as error:
        what = "--model spandrel needs the extra [zoo]"
        raise UserError(what, str(error), "pip install spandrel") from None
    state = read_weights(Path(file))
    if all(key.startswith(OWN_PREFIX) for key in state):  # saved by one of our runs
        state = {key.removeprefix(OWN_PREFIX): value for key, value in state.items()}
    try:
        found = spandrel.ModelLoader().load_from_state_dict(dict(state))
    except Exception as error:  # an architecture may fail in any way on weights that are not its own
        why = f"{len(state)} tensors, such as {next(iter(state))} ({type(error).__name__})"
        raise UserError(f"{file} is of no network that spandrel knows", why) from None
    one_image = isinstance(found, spandrel.ImageModelDescriptor)
    if not one_image or found.size_requirements.square:
        needs = "square images" if one_image else "a mask besides the image"
        raise UserError(f"{file} is of a network that needs {needs}", found.architecture.name)
    return found
