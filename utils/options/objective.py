"""Options of the objective: loss terms, discriminator, best weights; what fits together."""

from argparse import Namespace
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from models import LOSSES, NETWORKS, network_defaults
from models.terms import CYCLE_LOSS, INSTALL_LITE0, OWN_TERMS, has_lite0, parse_gan, parse_loss
from utils.run.run import Run
from utils.system.errors import UserError

OF_NETWORK = ("model", "residual", "input_nc", "output_nc", "mean", "std")  # besides the network's own flags


def resolve_objective(opt: Any, typed: Mapping[str, Any]) -> None:
    """Fill in what depends on the objective: loss, layout and the figure of the best weights.

    Args:
        opt: of train.py, with `notes`; it is changed.

    Raises:
        UserError: loss terms that do not fit the objective, settings without effect, a missing package.
    """
    if opt.objective == "cycle":
        if opt.loss == "l1" and "loss" not in typed:
            opt.loss = CYCLE_LOSS
        if opt.layout == "auto" and not opt.dataroot.startswith("demo"):
            opt.layout = "unpaired"
    terms = parse_loss(opt.loss)
    _check_terms(opt, terms)
    check_perceptual({"lite0"} & terms.keys(), "loss")
    if "gan" not in terms and "gan" not in typed:
        opt.gan = None  # a preset's, whose loss was replaced
    if opt.gan and "gan" not in terms:
        what = f"--gan {opt.gan} has no effect on --loss {opt.loss}"
        raise UserError(what, "it has no term gan", f"use such as --loss {opt.loss}+gan:1, or drop --gan")
    if "gan" in terms and (side := opt.crop_size or opt.size):  # else at the first image
        parse_gan(opt.gan or "").check_side(side)
    _resolve_best(opt, "gan" in terms)


def _check_terms(opt: Namespace, terms: Mapping[str, float]) -> None:
    cycle = opt.objective == "cycle"
    wrong = [
        name for name in terms if (cycle if name in LOSSES else opt.objective not in OWN_TERMS.get(name, ()))
    ]
    if wrong:
        why = (
            "it compares an output with its target, and there are no pairs" if cycle else "it needs two sets"
        )
        fix = f"use --loss {CYCLE_LOSS}" if cycle else "add --objective cycle, or drop it"
        raise UserError(f"the term {wrong[0]} does not fit --objective {opt.objective} [--loss]", why, fix)
    if cycle and not {"gan", "cycle"} <= terms.keys():
        why = "--objective cycle needs the terms gan and cycle"
        raise UserError(f"--loss {opt.loss} trains no cycle", why, f"use --loss {CYCLE_LOSS}")
    if not cycle and terms.keys() == {"gan"}:
        why = "an adversarial term alone compares no output with its target"
        raise UserError("--loss gan has no other term", why, "use such as --loss l1:100+gan:1")


def check_perceptual(asked: Collection[str], flag: str) -> None:
    """Raise UserError if something needs Lite0's features, and the package with its weights is missing."""
    if asked and not has_lite0():
        names = ", ".join(sorted(asked))
        raise UserError(f"EfficientNet-Lite0 is not installed [--{flag} {names}]", fix=INSTALL_LITE0)


def _resolve_best(opt: Any, gan: bool) -> None:
    """The figure that chooses the best weights, where none was given; a note where a package is missing."""
    wanted, instead = ("kid", "last") if opt.objective == "cycle" else ("lite0", "psnr")
    if opt.best:
        check_perceptual({"lite0", "kid"} & {opt.best}, "best")
    elif not gan:
        opt.best = "psnr"
    elif has_lite0():
        opt.best = wanted
    else:
        opt.best = instead
        opt.notes.append(f"best weights by {instead}; for {wanted} install the extra: {INSTALL_LITE0}")
    if opt.best == "kid" and opt.dry_run:  # one validation image
        opt.best = "last"


def another_objective(typed: Mapping[str, Any], before: Mapping[str, Any]) -> set[str]:
    """Flags that would give a resumed run other discriminators than it has."""
    now, found = {**before, **typed}, set()
    has = [own_terms(options) for options in (before, now)]
    if has[0] != has[1]:
        found.add("loss")
    settings = [parse_gan(options.get("gan") or "")._replace(lr=None, mode="") for options in (before, now)]
    return found | ({"gan"} if settings[0] != settings[1] else set())


def own_terms(options: Mapping[str, Any]) -> set[str]:
    """The terms that an objective computes itself."""
    return parse_loss(options.get("loss") or "l1").keys() & OWN_TERMS.keys()


def network_of_weights(typed: Mapping[str, Any]) -> dict[str, Any]:
    """The network's options of the run that `--weights` lies in, as defaults.

    {} where `--model` was typed, and for weights that lie in no run.

    Raises:
        UserError: --preset sharp without weights, or with weights of an unknown network.
    """
    weights, sharp = typed.get("weights"), typed.get("preset") == "sharp"
    if sharp and not weights:
        fix = "train with --preset fine or coarse first, then give --weights checkpoints/RUN/best_net.pth"
        raise UserError("--preset sharp starts from the weights of another run", "--weights is missing", fix)
    if "model" in typed or not weights:
        return {}
    run = Run(Path(weights).parent)
    if not run.exists():
        if not sharp:
            return {}
        why, fix = f"there is no options.json beside {weights}", "add --model and its flags"
        raise UserError("--preset sharp does not know the network of --weights", why, fix)
    saved = run.options()
    names = [*OF_NETWORK, *(network_defaults(saved["model"]) if saved.get("model") in NETWORKS else ())]
    found = {key: saved[key] for key in names if saved.get(key) is not None and key != "weights"}
    if "_netBA" in Path(weights).name and {"input_nc", "output_nc"} <= found.keys():
        found["input_nc"], found["output_nc"] = found["output_nc"], found["input_nc"]
    return found
