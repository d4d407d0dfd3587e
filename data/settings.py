"""What the flags say about the data of a training run. Imports no torch."""

from dataclasses import dataclass

from data.degrade import Degradation
from data.pairs import Source
from data.splits import Holdout

CHANNELS = "input_nc", "output_nc"  # options that the files decide where no flag does
MIN_EPOCH_STEPS = 500  # of a run with --minutes: every epoch ends with a validation and a save


@dataclass(frozen=True)
class DataSettings:
    """What the flags say about the data of a run.

    Args:
        source, degrade: where pairs come from, and how inputs are made from clean images, if they are.
        input_nc, target_nc, scale: None takes what the files have.
        from_files: which of input_nc and output_nc the files decide, or decided when the run was started.
        batch_size: images per step, over all processes.
        repeat: passes over the pairs per epoch; None: as many as `min_epoch_steps` need.
        holdout: what is held out of the training images for validation and testing.
        max_val_images: measure at most this many; None: all.
        unpaired: the images are two sets without pairs.
        cache, workers, timeout_s, skip_unreadable: as --cache, --num_workers, --timeout, --on_bad_image skip.
    """

    source: Source
    degrade: Degradation | None
    input_nc: int | None
    target_nc: int | None
    from_files: tuple[str, ...]
    scale: int | None
    size: int | None
    mean: float
    std: float
    seed: int
    crop_size: int | None
    augment: str
    batch_size: int
    repeat: int | None
    min_epoch_steps: int
    holdout: Holdout
    max_val_images: int | None
    cache: str
    workers: int | None
    timeout_s: float
    skip_unreadable: bool
    unpaired: bool = False
