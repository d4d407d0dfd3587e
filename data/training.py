"""The data of a training run: pairs, loaders and validation images, opened from one object of settings."""

import math
import sys
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

from data.cache import CachePlan, plan_cache
from data.datasets import ImageSpec, TrainDataset, WholeDataset, check_training_sizes
from data.fingerprint import Files, digest, fingerprint
from data.loader import LoaderIterator, default_workers, train_loader, whole_loader
from data.pairs import PairList, Source
from data.ranges import Ranges, sample_ranges
from data.sampler import EpochSampler
from data.scan import HeaderScan, scan_headers
from data.settings import CHANNELS, DataSettings
from data.splits import Division, divide, find_pairs
from utils.system.distributed import Ranks, check_same
from utils.system.errors import UserError

DEVICE_NOTE = "note    --degrade draws its noise on the device: other values than with another --cache"


def image_spec(settings: DataSettings, scan: HeaderScan) -> ImageSpec:
    """What every image becomes; channels are those of the files where no flag says otherwise."""
    gray = settings.degrade is not None and settings.degrade.gray
    return ImageSpec(
        input_nc=settings.input_nc or (1 if gray else scan.input_nc),
        target_nc=settings.target_nc or scan.target_nc,
        size=settings.size,
        degrade=settings.degrade,
        mean=settings.mean,
        std=settings.std,
        seed=settings.seed,
        strict=("input_nc" in settings.from_files and not gray, "output_nc" in settings.from_files),
    )


@dataclass(frozen=True)
class TrainingData:
    """The sets of a run, ready to iterate in this process.

    Args:
        val_count: validation images over all processes; `val_indices` are those of this one.
    """

    source: Source
    division: Division
    scan: HeaderScan
    ranges: Ranges
    spec: ImageSpec
    cache: CachePlan
    train_set: TrainDataset
    sampler: EpochSampler
    batches: LoaderIterator
    val_set: WholeDataset
    val_count: int
    val_indices: range
    val_images: LoaderIterator
    val_others: WholeDataset | None = None  # validation images of the other set, where there are no pairs

    def options(self) -> dict[str, Any]:
        """What the files decided, as options of the run."""
        return {
            "input_nc": self.spec.input_nc,
            "output_nc": self.spec.target_nc,
            "scale": self.train_set.scale,
            "repeat": self.train_set.repeat,
            "from_files": [key for key, strict in zip(CHANNELS, self.spec.strict, strict=True) if strict],
            "data": [part.describe() for part in self.division.parts.values()],
            "held_out": self.division.held_out,
        }

    def describe(self) -> list[str]:
        """The pairs and what is cached; what the headers say; how images are loaded; what may be wrong."""
        parts = self.division.parts.values()
        first, *others = (part.describe() for part in parts)
        remarks = [remark for part in parts for remark in part.remarks]
        remarks += [*self.scan.remarks(), *self.ranges.remarks()]
        notes = [*self.division.notes, self.batches.note, DEVICE_NOTE * (self.degraded_on == "device")]
        notes += [f"warning {remark}" for remark in remarks]
        often = f"; each {self.train_set.repeat} times an epoch" if self.train_set.repeat > 1 else ""
        more = [*others, f"{self.scan.describe()}{often}", self.cache.describe()]
        lines = [f"data    {first}", *(f"        {line}" for line in more if line), *notes]
        return [line for line in lines if line]

    @property
    def max_value(self) -> float | None:
        """Full scale of the targets, of --max_value."""
        return self.ranges.full_scales[1]

    @cached_property
    def files(self) -> Files:
        """The fingerprint of all images of the run, held-out ones included."""
        return fingerprint(self.source, *self.division.parts.values())

    @property
    def listing(self) -> str:
        """Names and sizes of all files, one a line."""
        return "\n".join(f"{name}, {size} bytes" for name, (size, _) in self.files.items())

    @property
    def val_digest(self) -> str:
        """The same for the same validation images: validations on others cannot be compared."""
        return digest(fingerprint(self.source, self.val_set.pairs))

    @property
    def val_paired(self) -> bool:
        """Whether every validation image has a target."""
        return self.val_set.pairs.has_targets

    @property
    def degraded_on(self) -> str:
        """Where --degrade is computed: "device", with other random values than on the "CPU"."""
        return "device" if self.spec.degrade and self.cache.device else "CPU"

    @property
    def decoding_steps(self) -> int:
        """Steps after which every training image was decoded once."""
        return len(self.train_set) // self.train_set.repeat // self.sampler.batch_size

    def load_batch(self) -> None:
        """Load one batch of the sampler's epoch in this process, as a loader process would."""
        self.train_set.__getitems__(list(islice(self.sampler, self.sampler.batch_size // self.sampler.world)))


def open_data(settings: DataSettings, ranks: Ranks) -> TrainingData:
    """Find the pairs, hold out the validation images, and build the loaders of this process.

    Raises:
        UserError: no pairs, pairs that do not match, sizes that cannot be trained on, or processes with
            other files.
    """
    pairs = find_pairs(settings.source, "train", need_targets=True)
    check_objective(pairs, settings.unpaired)
    scan, ranges = scan_headers(pairs), Ranges(settings.source.max_value, settings.source.degraded)
    sample_ranges(pairs, ranges, stop=not settings.skip_unreadable)
    if any(ranges.full_scales):  # such images are kept with 16 bits
        scan = scan._replace(depth=max(16, scan.depth))
    division = divide(pairs, settings.source, settings.holdout)
    train_pairs, val_pairs = division.parts["train"], division.parts["val"]
    spec, count = image_spec(settings, scan), len(train_pairs.pairs)
    if train_pairs.others:
        count = max(count, len(train_pairs.others.pairs))
    cache = plan_cache(settings.cache, ranks.device, scan, spec, count, len(val_pairs.pairs))
    train_set = training_set(settings, train_pairs, spec, cache)
    per_process = settings.batch_size // ranks.world
    together = 2 * per_process if settings.unpaired else per_process  # real and translated images
    checked = scan.sizes, together, spec.size, settings.crop_size, train_set.scale, scan.names
    check_training_sizes(*checked)
    sampler = EpochSampler(len(train_set), settings.batch_size, spec.seed, ranks.rank, ranks.world)
    on_device = settings.cache == "device"
    workers = default_workers(ranks.device, on_device) if settings.workers is None else settings.workers
    batches = train_loader(
        train_set,
        sampler,
        batch_size=per_process,
        workers=workers,
        batch_bytes=per_process * train_set.sample_bytes(scan.sizes),
        device=ranks.device,
        timeout_s=settings.timeout_s,
        pin=not on_device,
    )
    val_set = WholeDataset(val_pairs, spec, cache.val_store())
    val_count = (
        len(val_set) if settings.max_val_images is None else min(len(val_set), settings.max_val_images)
    )
    val_indices = range(ranks.rank, val_count, ranks.world)  # not padded: each image once over all processes
    skip = partial(print, file=sys.stderr) if settings.skip_unreadable else None
    val_images = whole_loader(val_set, val_indices, skip=skip)
    sets = train_set, sampler, batches, val_set
    others = WholeDataset(val_pairs.others, spec.mirrored()) if val_pairs.others else None
    found = *sets, val_count, val_indices, val_images, others
    data = TrainingData(settings.source, division, scan, ranges, spec, cache, *found)
    check_same(ranks, {"data": data.listing})
    return data


def training_set(settings: DataSettings, pairs: PairList, spec: ImageSpec, cache: CachePlan) -> TrainDataset:
    """The training samples; raises UserError where --scale and --degrade contradict each other."""
    stores = 2 if pairs.others else 1
    epochs = math.ceil(settings.min_epoch_steps * settings.batch_size / len(pairs.pairs))
    train_set = TrainDataset(
        pairs,
        spec,
        crop_size=settings.crop_size,
        augment=settings.augment,
        repeat=settings.repeat or max(1, epochs),
        store=cache.train_store(stores),
        replace_unreadable=settings.skip_unreadable,
        other_store=cache.train_store(stores) if pairs.others else None,
    )
    if settings.scale not in (None, train_set.scale):
        degraded = spec.degrade.spec if spec.degrade else None
        what = f"--scale {settings.scale} and --degrade {degraded} contradict each other"
        raise UserError(what, fix="leave one out")
    return train_set


def check_objective(pairs: PairList, unpaired: bool) -> None:
    """Raise UserError where an objective for pairs meets images without pairs, or the reverse."""
    if unpaired and not pairs.others:
        fix = "give trainA/ and trainB/, or --dataroot demo:unpaired; or drop --objective cycle"
        raise UserError("--objective cycle trains on two sets without pairs", f"{pairs.where} has pairs", fix)
    if pairs.others and not unpaired:
        fix = "add --objective cycle, which trains without pairs"
        raise UserError("the images have no pairs [--layout, --dataroot]", pairs.where, fix)


def split_batch(batch: dict[str, Any], parts: int, reduction: str, ranks: Ranks) -> list[dict[str, Any]]:
    """Split a batch into micro-batches on the device, each with the `weight` of its loss, and no `terms` yet.

    The gradients of the weighted losses add up to that of the whole batch: a mean is weighted by the share of
    the images; a sum by the number of processes, over which DDP takes the mean.

    Args:
        batch: `input` and `target`, `(N, C, H, W)`.
        reduction: of the loss, `mean` or `sum`.
    """
    inputs, targets = (batch[key].to(ranks.device, non_blocking=True) for key in ("input", "target"))
    micro_batches = []
    for input, target in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
        weight = len(input) / len(inputs) if reduction == "mean" else ranks.world
        micro_batches.append({"input": input, "target": target, "weight": weight, "terms": {}})
    return micro_batches
