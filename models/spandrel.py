"""Published networks that the library spandrel recognises by the names and shapes of their weights."""

from pathlib import Path

from torch import Tensor, nn

from models.layers import SizeRequirements, pad_to
from models.weights import read_weights
from utils.system.errors import UserError

OWN = "net."  # what the name of each weight of Zoo begins with


class Zoo(nn.Module):
    """`(N, input_nc, H, W)` to `(N, output_nc, scale * H, scale * W)`; any H and W.

    Values are in [0, 1] both ways (mean 0, std 1), which is the caller's matter; nothing is clipped. The
    network is built and its weights loaded from `weights`.

    Attributes:
        size: what the network wants of its input, and how many times larger its output is.

    Raises:
        UserError: spandrel is missing, the file is none of weights or of no network that spandrel knows, or
            the network has other channels than `input_nc` and `output_nc`.
    """

    def __init__(self, input_nc: int, output_nc: int, weights: str):
        super().__init__()
        try:
            import spandrel
        except ImportError as error:
            raise UserError(
                "--model spandrel needs the extra [zoo]", str(error), "pip install spandrel"
            ) from None
        state = read_weights(Path(weights))
        if all(key.startswith(OWN) for key in state):  # saved by a run
            state = {key.removeprefix(OWN): value for key, value in state.items()}
        try:
            found = spandrel.ModelLoader().load_from_state_dict(dict(state))
        except Exception as error:  # whatever an architecture stumbles over in weights that are not its own
            why = f"{len(state)} tensors, such as {next(iter(state))} ({type(error).__name__})"
            raise UserError(f"{weights} is of no network that spandrel knows", why) from None
        pictures = isinstance(found, spandrel.ImageModelDescriptor)
        if not pictures or found.size_requirements.square:
            needs = "squares" if pictures else "a mask beside the image"
            raise UserError(f"{weights} is of a network that wants {needs}", found.architecture.name)
        given, own = (input_nc, output_nc), (found.input_channels, found.output_channels)
        if given != own:
            raise UserError(
                f"{weights} has other channels [--input_nc, --output_nc]",
                f"{own[0]} to {own[1]}, asked for {given[0]} to {given[1]}",
                f"--input_nc {own[0]} --output_nc {own[1]}",
            )
        self.input_nc, self.output_nc = own
        self.net: nn.Module = found.model
        wants = found.size_requirements
        self.size = SizeRequirements(wants.multiple_of, max(1, wants.minimum), int(found.scale))
        # not the bare forward: some give several outputs or want a map of the noise
        self.call = found._call_fn

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        output: Tensor = self.call(self.net, pad_to(x, self.size))
        return output[..., : self.size.scale * height, : self.size.scale * width]
