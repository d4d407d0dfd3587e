"""Every flag of train.py and test.py: one row each, a name, a default, a kind and a line of help."""

from data.degrade import DEGRADATIONS
from data.images import MAX_PIXELS
from data.layouts import LAYOUTS
from data.pairs import MAX_SCALE
from models import (
    ACTIVATIONS,
    INITS,
    NETWORK_NAMES,
    NETWORKS,
    NORMS,
    OBJECTIVES,
    UPSAMPLES,
    network_defaults,
)
from utils.optim.optimizers import OPTIMIZERS
from utils.optim.schedules import SCHEDULES
from utils.options.kinds import (
    COUNT,
    MAX_INT,
    NATURAL,
    NONNEGATIVE,
    POSITIVE,
    Networks,
    arch,
    augmentation,
    full_scales,
    gan_settings,
    gpu_list,
    loss_terms,
    milestones,
    number,
    one_of_each,
    path,
    regex,
    server,
)
from utils.options.parser import ON_OFF, SWITCH, Flag, Table, common, flag
from utils.options.presets import PRESETS

METRICS = ("psnr", "ssim", "mae", "lpips", "sharpness", "lite0", "vgg", "kid")
FIGURES = ("psnr", "ssim", "lite0", "kid")  # those of `utils.run.checkpoint`, which imports torch
NETWORK_FLAGS = ("width", "depth", "levels", "stem", "norm", "act", "init", "upsample", "arch")
LIST = one_of_each(METRICS)
SHARE = number(float, 0, 0.9, above=True)
MOMENTUM, DECAY = number(float, 0, 0.9999), number(float, 0, 0.99999)


def _of(name: str) -> str:
    """The networks that have a flag, with their defaults."""
    defaults = ((model, network_defaults(model)) for model in NETWORKS)
    return ", ".join(f"{model} {own[name]}" for model, own in defaults if name in own)


# fmt: off
def data_flags(dataroot: str | None) -> list[Flag]:
    """Flags that say where pairs come from; `dataroot` is the default."""
    return [
        common("--dataroot --manifest", dataroot, path, "folder, image, manifest.csv, or demo[:SCENES:SIZE]"),
        common("--layout", "auto", ["auto", *LAYOUTS], "how the pairs lie on disk"),
        common("--input_dir", None, path, "folder of the inputs, in --dataroot or anywhere"),
        common("--target_dir", None, path, "folder of the targets, likewise"),
        common("--degrade", None, str, f"make inputs from clean images: {', '.join(DEGRADATIONS)}; such as noise:25, noise:0-55, sr:4, blur:1.6+jpeg:40"),  # noqa: E501
        flag("--pair_by", None, regex, "regex; both files of a pair give the same match (or groups)"),
        flag("--max_pixels", MAX_PIXELS, NATURAL, "refuse images with more pixels than this"),
        flag("--max_value", None, full_scales, "value of full brightness, such as 4095 for 12 bits in 16; or INPUT,TARGET; auto: by the file's type"),  # noqa: E501
    ]


def network_flags(model: str | None) -> list[Flag]:
    """Flags that build a network; `model` is the default."""
    return [
        common("--model", model, Networks(NETWORK_NAMES), f"{', '.join(NETWORK_NAMES)}[:CLASS]"),
        common("--weights", None, path, "checkpoint (ours or third-party), or https://...#sha256=..."),
        common("--width", None, number(int, 1, 4096), f"channels: {_of('width')}"),
        common("--depth", None, number(int, 1, 1000), f"blocks: {_of('depth')}"),
        flag("--levels", None, number(int, 1, 8), f"resolutions: {_of('levels')}"),
        flag("--stem", None, [1, 2, 4, 8], f"pixel-unshuffle factor of the input: {_of('stem')}"),
        flag("--norm", None, NORMS, _of("norm")),
        flag("--act", None, ACTIVATIONS, _of("act")),
        flag("--init", None, INITS, _of("init")),
        flag("--upsample", None, UPSAMPLES, f"transposed or resize convolution: {_of('upsample')}"),
        flag("--input_nc", None, [1, 3], "channels of inputs (default: as in the files)"),
        flag("--output_nc", None, [1, 3], "channels of targets (default: as in the files)"),
        common("--scale", None, number(int, 1, MAX_SCALE), "upscaling factor: target size / input size"),
        flag("--mean", None, number(float, -10, 10), "of Normalize (default: 0.5; of spandrel: 0)"),
        flag("--std", None, POSITIVE, "of Normalize (default: 0.5; of spandrel: 1)"),
        flag("--residual", False, SWITCH, "subtract the network's output from its input"),
    ]


def device_flags(amp: str, amp_help: str) -> list[Flag]:
    """Flags that say where to compute."""
    return [
        common("--gpu_ids", "0", gpu_list, "0, or 0,1 (one process each), -1: CPU"),
        common("--amp", amp, ["auto", "on", "off"], amp_help),
        common("--seed", 0, COUNT, "of weights, order, augmentation and degradation"),
    ]


DEBUG = flag("--debug", False, SWITCH, "show tracebacks; train.py: also every option at the start")
SERVER = [
    flag("--visdom_server", "http://localhost", server, "address of the visdom server, without port"),
    flag("--visdom_port", 8097, number(int, 1, 65535), "port of the visdom server"),
    DEBUG,
]
WATCHING = [
    common("--visdom", "auto", ["auto", "start", "off"], "auto: use a running server; start: start one here"),
    *SERVER,
]
RESULTS = flag("--results_dir", "results", path, "folder of test results: <results_dir>/<run>/<dataset>/")

TRAIN: Table = {
    "run": [
        common("--name", None, str, "folder in checkpoints/ (default: <dataroot>_<model>)"),
        common("--preset", None, [*PRESETS], "fine: noise, rain, blur; coarse: haze, light; sharp: after one of these; or a paper's recipe"),  # noqa: E501
        common("--minutes", None, POSITIVE, "length of the whole command instead of --n_epochs"),
        common("--n_epochs", 40, NATURAL, "epochs of the whole run"),
        common("--max_steps", None, NATURAL, "end the run, and its schedule, after this many steps"),
        common("--resume", False, SWITCH, "continue an interrupted run with its saved options"),
        flag("--epoch", 0, COUNT, "continue from the checkpoint after this epoch"),
        flag("--data_changed", None, ["ok"], "continue although images were added, removed or replaced"),
        common("--check_data", False, SWITCH, "check every file of every split, report, and exit"),
        common("--dry_run", False, SWITCH, "2 steps, a save, a load; estimates time and memory"),
    ],
    "data": [
        *data_flags("datasets/"),
        common("--crop_size", None, NATURAL, "train on random squares of this size (of the target)"),
        flag("--size", None, NATURAL, "resize both images to this square, bicubic"),
        flag("--direction", "AtoB", ["AtoB", "BtoA"], "which half or folder is the input"),
        flag("--augment", "flip", augmentation, "none, flip, flip_rot90 (quarter turns, too), and +texture:N: of N random crops, the one with the most texture"),  # noqa: E501
        flag("--repeat", None, NATURAL, "passes over the set per epoch (default: 1; --minutes: 500+ steps)"),
        common("--val_share", None, number(float, 0, 0.9), "validate on this share, held out of train (default: the val split, else 0.1)"),  # noqa: E501
        common("--test_share", None, SHARE, "hold this share of the targets out of train for test.py"),
    ],
    "network": [
        *network_flags("resnet"),
        flag("--arch", None, arch, "arguments of a network of spandrel: width=32, dec_blk_nums=[1,1]; auto: as in --weights"),  # noqa: E501
        flag("--freeze", None, regex, "freeze parameters whose name matches this regex"),
        flag("--ema", 0.0, DECAY, "decay of the exponential moving average of the weights; 0: none"),
    ],
    "optimisation": [
        common("--batchSize --batch_size", 1, NATURAL, "images per step, over all processes"),
        common("--lr", 0.0002, POSITIVE, "learning rate"),
        flag("--optimizer", "adam", [*OPTIMIZERS], "optimizer"),
        flag("--beta1", 0.5, MOMENTUM, "of adam, adamw, muon"),
        flag("--beta2", 0.999, DECAY, "of adam, adamw, muon"),
        flag("--momentum", 0.9, MOMENTUM, "of sgd, rmsprop, muon"),
        flag("--weight_decay", 0.0, NONNEGATIVE, "weight decay"),
        common("--loss", "l1", loss_terms, "sum of weighted terms, such as l1:100+gan:1"),
        flag("--objective", "paired", [*OBJECTIVES], "pairs, or two sets without pairs (CycleGAN)"),
        flag("--gan", None, gan_settings, "settings of the discriminator for the loss term gan: mode=lsgan|vanilla|hinge, netD=patch|multiscale, norm=instance|spectral, ndf=64, n_layers=3, lr=X, pool=N; such as mode=hinge,lr=1e-4"),  # noqa: E501
        flag("--best", None, [*FIGURES, "last"], "figure of the best weights (default: psnr; with gan: lite0; without pairs: kid)"),  # noqa: E501
        flag("--reduction", "mean", ["mean", "sum"], "of the loss over pixels and images"),
        flag("--accum", 1, NATURAL, "split a batch into this many parts to save memory"),
        flag("--clip", 0.0, NONNEGATIVE, "clip the gradient norm to this; 0: off"),
        common("--schedule", "lambda", [*SCHEDULES], "of the learning rate; lambda: linear decay"),
        flag("--warmup", 0.0, NONNEGATIVE, "epochs of linear warm-up"),
        flag("--decay_epoch", None, NONNEGATIVE, "lambda: first epoch of the decay (default: halfway)"),
        flag("--step_size", 10.0, POSITIVE, "step, multiplicative: epochs between two decays"),
        flag("--milestones", [20.0, 30.0], milestones, "multistep: epochs of decays, such as 20,30"),
        flag("--gamma", 0.5, number(float, 0, 1, above=True), "step, multiplicative, multistep: factor"),
        flag("--nan_policy", "stop", ["stop", "skip"], "on a NaN/Inf loss or gradient: stop before the update, or skip the step"),  # noqa: E501
    ],
    "device and loading": [
        *device_flags("auto", "bfloat16; auto: where the hardware computes it"),
        flag("--channels_last", False, ON_OFF, "memory layout that convolutions often prefer"),
        flag("--compile", False, SWITCH, "torch.compile the network"),
        flag("--deterministic", False, SWITCH, "raise on nondeterministic operations"),
        flag("--num_workers --num_threads", None, COUNT, "loader processes (default: 0 on a CPU, else 4)"),
        flag("--timeout --worker_timeout --dist_timeout", 600.0, POSITIVE, "seconds to wait for a loader process, or for another rank"),  # noqa: E501
        flag("--cache", "auto", ["auto", "ram", "device", "none"], "keep decoded images in memory; auto: if all fit into a quarter of what is free; ram, device: as many as half of it holds"),  # noqa: E501
        flag("--on_bad_image", "stop", ["stop", "skip"], "on an unreadable image: stop, or use the next"),
    ],
    "logging and saving": [
        flag("--log_freq", 20, NATURAL, "steps between two log records"),
        flag("--val_freq", None, NATURAL, "epochs between two validations (default: 1; --minutes, --max_steps, few epochs: ten a run)"),  # noqa: E501
        flag("--save_freq", 0, COUNT, "epochs between two kept checkpoints; 0: latest and best only"),
        flag("--save_minutes", 5.0, POSITIVE, "minutes between two saves within an epoch"),
        flag("--keep", 0, COUNT, "keep the N newest epoch checkpoints; 0: all"),
        *WATCHING,
        flag("--tensorboard", False, SWITCH, "write TensorBoard events, too"),
    ],
}

TEST: Table = {
    "run": [
        common("--name", None, str, "run in checkpoints/ (default with --model: the name of the weights)"),
        common("--load", "best", str, "checkpoint: best, latest, or N (after epoch N)"),
        RESULTS,
        common("--output", None, path, "write the outputs here: a folder, or the file of a single image"),
    ],
    "data": [
        *data_flags(None),
        flag("--direction", None, ["AtoB", "BtoA"], "which half or folder is the input (default: the run's)"),
        common("--split", "test", ["train", "val", "test"], "split of --dataroot"),
        flag("--num_workers --num_threads", 0, COUNT, "loader processes"),
    ],
    "metrics": [
        common("--metrics", ["psnr", "ssim"], LIST, "psnr, ssim, lpips, sharpness, lite0, vgg, kid (mae: always)"),  # noqa: E501
        common("--psnr_channel", "rgb", ["rgb", "y"], "y: luma of BT.601"),
        common("--crop_border", 0, COUNT, "leave out this many pixels on each side"),
        common("--no_quantize", False, SWITCH, "clamp the outputs, but do not round them to the bit depth"),
    ],
    "prediction": [
        common("--x8", False, SWITCH, "self-ensemble: mean over eight flips and quarter turns"),
        common("--tile", None, NATURAL, "side of tiles in pixels (default: the whole image if it fits)"),
        common("--tile_overlap", 64, COUNT, "pixels that tiles share; exact from receptive field + 16 on, never with instance or group norm"),  # noqa: E501
    ],
    "network (for --weights without a run)": network_flags(None),
    "device": [
        *device_flags("off", "bfloat16; off: figures do not depend on the machine"),
        *WATCHING,
    ],
}

EXPORT: Table = {
    "what to write": [
        flag("--to", "onnx", ["onnx", "pt2", "safetensors"], "ONNX, a program of torch.export, or weights with metadata"),  # noqa: E501
        flag("--half", False, SWITCH, "compute in float16, norms excepted"),
        flag("--target", None, ["darktable"], "a folder with config.json for this program; one size, 768 768 by default"),  # noqa: E501
        flag("--card", False, SWITCH, "write a model card for Hugging Face and an entry of OpenModelDB"),
        flag("--output", None, path, "file or folder (default: in the run's folder)"),
    ],
    "run": [
        flag("--load", "best", str, "checkpoint: best, latest, or N (after epoch N)"),
        flag("--dataroot", None, path, "images to compare on (default: the run's, else rendered ones)"),
        RESULTS,
        DEBUG,
    ],
    "network (for --weights without a run)": network_flags(None),
}
# fmt: on

EXPORT_HELP = (
    "python -m utils.export",
    "Write a trained network for other programs: images in [0, 1] in and out.",
)
EXPORT_USAGE = "python -m utils.export RUN [flags]"
TRAIN_EXAMPLES = """examples:
  train.py --dataroot demo --preset coarse --minutes 2
  train.py --dataroot datasets/mine --minutes 20 --gpu_ids 0
  train.py --resume --name mine_resunet"""
TEST_EXAMPLES = """examples:
  test.py --name demo_resunet
  test.py --name denoise --dataroot datasets/set12 --degrade noise:25
  test.py --name dehaze --dataroot my_photos
  test.py --weights net.pth --model dncnn --input_nc 1 --mean 0 --std 1 \\
          --dataroot datasets/set12 --degrade noise:25"""

__all__ = ["MAX_INT", "METRICS", "NETWORK_FLAGS", "RESULTS", "SERVER", "TEST", "TRAIN"]
