# PYTHON_ARGCOMPLETE_OK
"""Train an image-to-image network and watch its PSNR.

python train.py --dataroot demo --preset coarse --minutes 2                    # rendered images, no files
python train.py --dataroot datasets/mine --minutes 20                          # a folder of pairs
torchrun --nproc_per_node 2 train.py --dataroot datasets/mine --batchSize 16   # two processes
python train.py --resume --name mine_resunet                                   # continue where it stopped
"""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends it without a traceback

import shlex
import time

from utils.options import data_settings, describe, parse_or_exit, parse_train
from utils.system.streams import fix_streams

STARTED = time.monotonic()  # --minutes counts from here
if __name__ == "__main__":
    fix_streams()
    opt = parse_or_exit(parse_train, in_group=True)  # --help and wrong flags exit here, without torch

import math
from argparse import Namespace
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from data import check
from data.training import open_data, split_batch
from models import OBJECTIVES, build_network, own_arguments
from models.ema import EMA
from models.fetch import local_weights
from models.layers import size_of, sync_batchnorm
from models.objectives import Objective, Task
from models.terms import parse_gan, parse_loss
from models.weights import load_weights
from models.wrappers import bare
from models.zoo import AUTO
from utils.eval.metrics import train_figures
from utils.eval.validation import Validator
from utils.optim.cadence import validation_cost
from utils.optim.horizon import Deadline, EpochWork, Horizon, set_length
from utils.optim.optimizers import OPTIMIZERS, freeze
from utils.optim.schedules import build_schedule
from utils.optim.turns import build_turns, terms_of_step
from utils.run.checkpoint import Best, Checkpoints, restore_newest
from utils.run.meter import Meter
from utils.run.origin import Origin, computation
from utils.run.run import Run, versions
from utils.run.status import Status
from utils.system import distributed, tensorfile
from utils.system.device import peak_memory_mib, seed, set_up_device
from utils.system.distributed import Ranks, all_reduce_max, ddp_sync
from utils.system.errors import UserError, run_script
from utils.system.finite import FiniteGuard, read_flags
from utils.system.memory import oom_errors
from utils.system.signals import Signals
from utils.vis.console import Progress, clock, describe_step, millions, say_on
from utils.vis.grids import evenly_spaced
from utils.vis.training_log import TrainingLog, open_log

Nets = dict[str, nn.Module]  # "net" is the one that is tested; without pairs, "netBA" is the way back


def main(opt: Namespace, cleanup: ExitStack) -> int:
    """Train, top to bottom; returns the exit code. `cleanup` is unwound however it ends."""
    # ---- where it runs
    if opt.check_data:
        return check.main(opt, cleanup)
    distributed.relaunch_if_many(opt.gpu_ids)
    ranks = distributed.init(opt.gpu_ids, opt.timeout, opt.shared_flags())
    cleanup.callback(distributed.shutdown)
    saved_run = Run.named(opt.name)
    run = Run.temporary(cleanup) if opt.dry_run else saved_run
    status = cleanup.enter_context(Status(run, ranks.is_main))
    cleanup.enter_context(distributed.report_peer_failure(ranks))
    say, signals = say_on(ranks.is_main), Signals(opt.timeout if ranks.world > 1 else 0)
    amp = set_up_device(ranks.device, opt.amp, opt.deterministic)

    # ---- data: a sample is a function of (seed, epoch, index), independent of workers, ranks and resuming
    data = open_data(data_settings(opt), ranks)

    # ---- networks: build, load, to the device, EMA; they are the bare ones, the objective wraps them
    resuming = opt.resume or opt.epoch > 0  # --epoch N resumes, too
    options = vars(opt) | data.options() | {"versions": versions()}
    nets, notes = build_nets(opt, options, saved_run, resuming, ranks)
    trained = [each for net in nets.values() for each in freeze(bare(net), opt.freeze)]
    averaged = {name.replace("net", "ema"): EMA(net, opt.ema) for name, net in nets.items()}
    notes += [f"trained {millions(trained)} parameters"] * bool(opt.freeze)

    # ---- objective: a list of turns (parameters and their loss terms), each with an optimizer
    objective, optimizers = build_objective(opt, nets, trained, options, ranks, amp)

    # ---- the state of the run: one list of parts, which is saved and restored
    horizon, best = Horizon(data.sampler.steps_per_epoch), Best(data.val_digest, opt.best, data.val_paired)
    origin = Origin(saved_run, data.files, computation(ranks, amp, data.degraded_on), say, **opt.identity())
    parts = {"origin": origin, "objective": objective, "horizon": horizon, "best": best} | nets | averaged
    parts |= {f"optimizer_{name}": optimizer for name, optimizer in optimizers.items()}
    if resuming and ranks.is_main:
        run.acquire(cleanup)  # before the state is read: another process may still be saving one
    resumed = restore_newest(saved_run, parts, opt.epoch, horizon, say) if resuming else None
    set_length(horizon, opt, validation_cost(data.val_count, data.scan.sizes, opt))
    turns = build_turns(objective.turns(), optimizers, build_schedule(opt, horizon))
    tested = {name: ema.net for name, ema in zip(nets, averaged.values(), strict=True)}
    validate = Validator(tested, data, ranks, amp, opt.best, evenly_spaced(len(data.val_indices), 4), say)

    # ---- the run's folder, log and visdom page
    cleanup.enter_context(run.writing())
    if ranks.is_main:
        run.open(cleanup, options | {"run_id": origin.run_id}, data.files, None if opt.epoch else resumed)
    checkpoints = Checkpoints(run, parts, tested, status, opt.save_minutes, opt.keep, ranks)
    notes += [checkpoints.begin(horizon.step, best, resumed), *(turn.lr_change for turn in turns if resuming)]
    log = open_log(cleanup, run if ranks.is_main else None, horizon.step, opt, say)
    notes += [f"device  {ranks.note}, {'bfloat16' if amp else 'float32'}", f"run     {run.folder}, {horizon}"]
    log.start([describe(opt), *data.describe(), *notes], run.report)

    # ---- the loop
    cleanup.enter_context(oom_errors(horizon.describe))
    work = EpochWork(data.load_batch, validate.first, len(data.val_indices), data.decoding_steps)
    deadline = Deadline(opt.minutes, STARTED, horizon, ranks, work, checkpoints)
    meter = Meter(opt.batchSize, data.batches, ranks)
    guard = FiniteGuard(opt.nan_policy, nn.ModuleList(nets.values()), ranks, run.state("latest"), say)
    progress = Progress(horizon.title, horizon.step, horizon.last, not ranks.is_main, deadline.left)
    stop = 0  # the number of the signal that stops the run
    while True:
        # ---- before the first step and whenever the loop over batches ends: validate, save, leave
        due = (horizon.epoch_ended or horizon.validation_due) and not stop
        if due and horizon.validation_due:
            found = meter.paused(validate, signals)
            stop = all_reduce_max(signals.stop, ranks)  # if stopped here, a resumed run repeats it
            if not stop:
                log.validation(found, best.update(found, horizon.step), best, horizon)
        if due and not stop:
            horizon.close()
        if due or stop or signals.take_save() or checkpoints.due(horizon.step):
            signals.disarm_kill_timer()
            checkpoints.save(horizon.step, best, horizon.kept_epoch(opt.save_freq))
        if stop or horizon.done:
            break

        # ---- one epoch, or the rest of it
        data.sampler.start_at(horizon.epoch, horizon.offset)
        for batch in data.batches:
            meter.begin_step(new_epoch=horizon.offset == 0)
            seed(ranks.device, opt.seed * 1_000_003 + horizon.step * ranks.world + ranks.rank)  # for dropout
            micro_batches = split_batch(batch, opt.accum, opt.reduction, ranks)
            losses, norms = [], []
            for turn in turns:  # all gradients first, then all steps
                turn.optimizer.zero_grad()
                for micro in micro_batches:
                    with ddp_sync(turn.module, last=micro is micro_batches[-1]):
                        terms = micro["terms"][turn.name] = turn.losses(micro)
                        loss = sum(terms.values()) * micro["weight"]
                        loss.backward()
                    losses.append(loss.detach())
                norms.append(clip_grad_norm_(turn.parameters, opt.clip or math.inf))
            step_loss, step_norm = sum(losses), sum(norms)
            bad, stop = read_flags(step_loss, step_norm, signals.stop, ranks)  # the only GPU-to-CPU sync
            guard.check(bad, horizon.step, step_loss, step_norm, batch["name"])  # raises, or allows a skip
            for turn in turns:
                if bad:
                    turn.optimizer.zero_grad()  # the step counts, but changes no weight
                turn.optimizer.step()
            for ema in averaged.values():
                ema.update()
            horizon.advance()
            if note := deadline.step(data.batches.waited_s):  # it set or changed the run's length
                say(note)
            values = train_figures(micro_batches, opt.mean, opt.std) | terms_of_step(micro_batches)
            meter.add({"loss": sum(losses[: len(micro_batches)])} | values, skipped=bad)  # of the first turn
            progress.step(horizon.title, horizon.last)
            if horizon.step % opt.log_freq == 0 or horizon.done:
                values = meter.read()
                log.step(horizon, progress.left(), lr=turns[0].lr, **values)
                progress.show(describe_step(values, turns[0].lr))
            for turn in turns:
                turn.scheduler.step()
            if stop or horizon.validation_due or signals.save or checkpoints.due(horizon.step):
                break  # ranks may differ in the last two: a save has no collective operation

    progress.close()
    ranks.barrier()  # torchrun ends the other ranks when the first one exits
    return finish(opt, stop, best, horizon, status, meter, log)


# ----------------------------------------------------------------- parts of the set-up, the loop and the end


def build_nets(
    opt: Namespace, options: dict[str, Any], saved_run: Run, resuming: bool, ranks: Ranks
) -> tuple[Nets, list[str]]:
    """The networks with their initial weights, on the device, and lines that describe them."""
    torch.manual_seed(opt.seed)
    weights = local_weights(opt.weights) if opt.weights and not resuming else None
    arguments = own_arguments(opt.model, options)
    if "weights" in arguments:  # of spandrel, which may recognise the architecture by its weights
        recognised = resuming and arguments.get("arch", AUTO) == AUTO  # the first file may be gone
        arguments["weights"] = str(saved_run.net("latest")) if recognised else weights and str(weights)
    net = build_network(opt.model, **arguments)
    if size_of(net).scale != options["scale"]:
        what = f"the network upscales by {size_of(net).scale}, the pairs by {options['scale']}"
        raise UserError(f"{what} [--scale, --degrade]")
    notes = [f"network {opt.model}, {millions(net.parameters())} parameters"]
    if weights and "weights" not in arguments:
        how = load_weights(net, weights) or "every tensor by its name"
        notes.append(f"weights {opt.weights}: {how}")
    nets = {"net": net}
    if opt.objective == "cycle":
        back = {"input_nc": options["output_nc"], "output_nc": options["input_nc"]}
        nets["netBA"] = build_network(opt.model, **arguments | back)
    layout = torch.channels_last if opt.channels_last else torch.contiguous_format
    for each in nets.values():
        each.to(ranks.device, memory_format=layout)
        notes.append(sync_batchnorm(each, ranks))
    return nets, notes


def build_objective(
    opt: Namespace, nets: Nets, trained: list[nn.Parameter], options: dict[str, Any], ranks: Ranks, amp: bool
) -> tuple[Objective, dict[str, torch.optim.Optimizer]]:
    """The objective, and an optimizer for each of its turns, by name."""
    autocast = partial(torch.autocast, ranks.device.type, torch.bfloat16, enabled=amp)
    wrap = partial(distributed.wrap, ranks=ranks, compile=opt.compile)
    channels = options["input_nc"], options["output_nc"]
    terms, gan, how = parse_loss(opt.loss), parse_gan(opt.gan or ""), (opt.seed, channels, opt.mean, opt.std)
    task = Task(nets, trained, terms, ranks, opt.reduction, autocast, wrap, gan, *how)
    objective = OBJECTIVES[opt.objective](task)
    build, betas = OPTIMIZERS[opt.optimizer], (opt.beta1, opt.beta2)
    return objective, {
        turn.name: build(turn.parameters, turn.lr or opt.lr, betas, opt.momentum, opt.weight_decay)
        for turn in objective.turns()
    }


def finish(
    opt: Namespace, stop: int, best: Best, horizon: Horizon, status: Status, meter: Meter, log: TrainingLog
) -> int:
    """Print the result and the next command; returns the exit code. A dry run ends with an estimate."""
    say, run = log.say, status.run
    if stop:
        name = signal.Signals(stop).name
        status.write("stopped", 128 + stop, name)
        if not opt.dry_run:
            log.finish(run, best, time.monotonic() - STARTED)
        say(f"stopped by {name} after step {horizon.step}; continue with: {run.resume_command()}")
        return 128 + stop
    if opt.dry_run:
        if status.enabled:
            tensorfile.load(run.state("latest"))
        each, memory = meter.fastest_step_s, peak_memory_mib(meter.ranks.device)
        steps = round(60 * opt.minutes / each) if opt.minutes else horizon.total or 0
        took = f"{each:.3f} s a step, {clock(each * steps)} for {steps} steps, {memory:.0f} MiB"
        say(f"dry run: saved and loaded; {took}")
        return 0
    status.write("done", 0)
    if best.psnr is not None:
        say(f"best {best.describe()}")
    took_s = time.monotonic() - STARTED
    say(f"weights {run.net('best')}, {clock(took_s)} in all")
    log.finish(run, best, took_s)
    say(f"next    {shlex.join(['python', 'test.py', *run.name_flag()])}")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, opt))
