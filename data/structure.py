"""Where the difference between inputs and targets lies: in fine structure, or in what is seen from afar."""

import numpy as np

from data.datasets import WholeDataset
from data.scan import scan_headers
from data.settings import DataSettings
from data.splits import find_pairs
from data.training import image_spec
from data.transforms import Array, enlarge
from utils.system.pixels import to_float

BOX = 16  # side in pixels
IMAGES = 8  # that are read, spread over the list


def coarse_share(settings: DataSettings) -> float:
    """The share, in [0, 1], of the inputs' mean squared error that is left after averaging over boxes.

    Noise, rain and blur vary within a box of 16 x 16 pixels and leave little; haze and colour leave most.
    Inputs smaller than their targets are enlarged; images that cannot be read, or hold no box, are left out.

    Raises:
        UserError: no pairs, or pairs that do not match.
    """
    pairs = find_pairs(settings.source, "train", need_targets=True)
    sample = pairs._replace(pairs=pairs.pairs[:: max(1, len(pairs.pairs) // IMAGES)])
    dataset = WholeDataset(sample, image_spec(settings, scan_headers(sample)))
    errors = np.zeros(2)
    for image in map(dataset.__getitem__, range(len(dataset))):
        if isinstance(image, tuple) and image.target is not None:
            errors += squared_errors(image.input, image.target)
    return errors[1] / errors[0] if errors[0] else 0.0


def squared_errors(input: Array, target: Array) -> Array:
    """Mean squared difference of the two images `(H, W, C)`, and of their averages over boxes.

    >>> target = np.zeros((32, 32, 1), np.float32)
    >>> squared_errors(target + 0.5, target).tolist()
    [0.25, 0.25]
    """
    height, width = (side - side % BOX for side in target.shape[:2])
    if not height or not width:
        return np.zeros(2)
    if input.shape[:2] != target.shape[:2]:
        input = enlarge(input, *target.shape[:2])
    difference = (to_float(input) - to_float(target))[:height, :width]
    boxes = difference.reshape(height // BOX, BOX, width // BOX, BOX, -1).mean((1, 3))
    return np.array([(difference**2).mean(), (boxes**2).mean()])
