"""Presets: other defaults.

`fine` and `coarse` were chosen for most dB per minute on two CPU cores, on BSD400 with noise 25, by PSNR on
20 of its images. The two differ in how far the network sees: fine structure (noise, rain, blur) is local,
haze and light are not. `sharp` continues from one of them. `unpaired` is for restoration from two sets
without pairs: its network adds to its input, so content stays from the first step on. `pix2pix` and
`cyclegan` are the recipes of the papers (Isola et al. 2017, Zhu et al. 2017): 200 epochs, linear decay over
the second half, batch size 1.
"""

from typing import Any

from models.terms import CYCLE_LOSS

RECIPE: dict[str, Any] = {
    "model": "resunet",
    "batchSize": 8,
    "beta1": 0.9,
    "weight_decay": 0.01,
    "loss": "charbonnier",
    "schedule": "cosine",
    "warmup": 0.2,
    "ema": 0.999,
    "clip": 1.0,
    "channels_last": True,
}
PAPERS: dict[str, Any] = {
    **{"width": 64, "norm": "instance", "size": 286, "crop_size": 256, "n_epochs": 200, "batchSize": 1},
    **{"optimizer": "adam", "beta1": 0.5, "lr": 2e-4, "schedule": "lambda"},
}
PRESETS: dict[str, dict[str, Any]] = {
    "fine": {
        **RECIPE,
        **{"stem": 2, "levels": 1, "depth": 14, "width": 48, "act": "silu"},
        **{"crop_size": 64, "augment": "flip+texture:4"},
        **{"optimizer": "muon", "momentum": 0.95, "lr": 2e-3},
    },
    "coarse": {
        **RECIPE,
        **{"stem": 4, "levels": 4, "depth": 2, "width": 32, "crop_size": 128},
        **{"optimizer": "adamw", "lr": 1.5e-3},  # muon's products cost more than they gain at 256 channels
    },
    "sharp": {  # from the weights of a run by PSNR, whose network it takes
        **RECIPE,
        **{"crop_size": 96, "optimizer": "muon", "momentum": 0.95, "lr": 2e-3},
        **{"loss": "l1:1.5+lite0:10+gan:0.3", "gan": "mode=vanilla,ndf=32,norm=spectral,lr=1e-3"},
    },
    "unpaired": {
        **{"model": "resunet", "norm": "instance", "stem": 4, "levels": 3, "depth": 2, "width": 24},
        **{"crop_size": 96, "batchSize": 2, "channels_last": True, "clip": 10.0, "ema": 0.998},
        **{"optimizer": "adam", "beta1": 0.5, "lr": 4e-4, "schedule": "lambda", "objective": "cycle"},
        **{"loss": "gan:1+cycle:3+identity:1", "gan": "mode=vanilla,ndf=32,norm=spectral,lr=0.0002"},
    },
    "pix2pix": {  # instance norm equals the paper's batch norm of one image; no dropout
        **PAPERS,
        **{"model": "unet", "depth": 7, "loss": "l1:100+gan:1", "gan": "mode=vanilla"},
    },
    "cyclegan": {**PAPERS, "model": "resnet", "objective": "cycle", "loss": CYCLE_LOSS, "gan": "pool=50"},
}
SHORT_RUNS: dict[str, tuple[float, dict[str, Any]]] = {  # preset: longest --minutes, other defaults
    "fine": (8, {"lr": 4e-3, "schedule": "lambda"}),
}


def preset_options(preset: str, minutes: float | None = None) -> dict[str, Any]:
    """Return the defaults of a preset; {} for an unknown one.

    Args:
        minutes: length of the run; None if --minutes is not given.

    >>> preset_options("fine")["lr"], preset_options("fine", 1)["lr"], preset_options("fine", 60)["lr"]
    (0.002, 0.004, 0.002)
    """
    return PRESETS.get(preset, {}) | short_run_options(preset, minutes)


def short_run_options(preset: str, minutes: float | None) -> dict[str, Any]:
    """Return the defaults that a preset has for short runs only; {} for longer runs."""
    longest, options = SHORT_RUNS.get(preset, (0, {}))
    return options if minutes and minutes <= longest else {}
