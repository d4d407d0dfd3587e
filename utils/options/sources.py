"""What the options say about the data: sources of pairs, what is held out, settings of training."""

import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from data.degrade import parse_degradation
from data.pairs import Source, parse_full_scales
from data.settings import CHANNELS, MIN_EPOCH_STEPS, DataSettings
from data.splits import Holdout


def source_of(options: Mapping[str, Any]) -> Source:
    """Where the pairs of a run come from, by its options (possibly those of an older version)."""
    degraded = options["degrade"] is not None
    known = {
        key: options[key] for key in ("input_dir", "target_dir", "pair_by", "max_pixels") if key in options
    }
    return Source(
        root=options["dataroot"],
        layout=options["layout"],
        direction=options["direction"],
        degraded=degraded,
        scale=1 if degraded else options.get("scale") or 1,
        max_value=parse_full_scales(options.get("max_value")),
        **known,
    )


def holdout_of(options: Mapping[str, Any]) -> Holdout:
    """What a run holds out of its training images, by its options (possibly those of an older version)."""
    shares = options.get("val_share"), options.get("test_share")
    return Holdout(*shares, options["seed"], options.get("held_out"))


def options_of_own_data(opt: Namespace, trained: Namespace) -> dict[str, Any]:
    """The options of the run if its own data are tested, else none."""
    root = opt.dataroot or trained.dataroot
    is_own = root == trained.dataroot or os.path.realpath(root) == os.path.realpath(trained.dataroot)
    return vars(trained) if is_own else {}


def degradation_to_test(opt: Namespace, trained: Namespace) -> str | None:
    """What makes the inputs of a test: `--degrade`, or that of the run for the run's own images.

    With `--layout inputs` the images are the inputs.
    """
    own = {} if opt.layout == "inputs" else options_of_own_data(opt, trained)
    return opt.degrade or own.get("degrade")


def source_to_test(opt: Namespace, trained: Namespace, scale: int) -> Source:
    """Where the images come from; layout and folders are the run's only as long as the data are."""
    own = options_of_own_data(opt, trained)
    return Source(
        root=opt.dataroot or trained.dataroot,
        layout=own.get("layout", "auto") if opt.layout == "auto" else opt.layout,
        direction=opt.direction or trained.direction or "AtoB",
        degraded=opt.degrade is not None,
        input_dir=opt.input_dir or own.get("input_dir"),
        target_dir=opt.target_dir or own.get("target_dir"),
        pair_by=opt.pair_by or own.get("pair_by"),
        scale=scale if opt.degrade is None else 1,
        max_pixels=opt.max_pixels,
        max_value=parse_full_scales(opt.max_value or trained.max_value),
    )


def data_settings(opt: Any) -> DataSettings:
    """What train.py's options say about the data."""
    return DataSettings(
        source=source_of(vars(opt)),
        degrade=parse_degradation(opt.degrade) if opt.degrade else None,
        input_nc=opt.input_nc,
        target_nc=opt.output_nc,
        from_files=tuple(key for key in CHANNELS if getattr(opt, key) is None or key in opt.from_files),
        scale=opt.scale,
        size=opt.size,
        mean=opt.mean,
        std=opt.std,
        seed=opt.seed,
        crop_size=opt.crop_size,
        augment=opt.augment,
        batch_size=opt.batchSize,
        repeat=opt.repeat,
        min_epoch_steps=MIN_EPOCH_STEPS if opt.minutes else 0,
        holdout=holdout_of(vars(opt)),
        max_val_images=1 if opt.dry_run else None,
        cache=opt.cache,
        workers=opt.num_workers,
        timeout_s=opt.timeout,
        skip_unreadable=opt.on_bad_image == "skip",
        unpaired=opt.objective == "cycle",
    )
