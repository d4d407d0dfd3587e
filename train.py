"""Train a paired image-to-image network and watch its PSNR.

python train.py --dataroot demo --model resunet --crop_size 96 --batchSize 8   # rendered images, no files
python train.py --dataroot datasets/mine --gpu_ids 0                           # a folder of pairs, one GPU
torchrun --nproc_per_node 2 train.py --dataroot datasets/mine --batchSize 16   # two processes
python train.py --resume --name mine_resnet                                    # go on where it stopped
"""

import sys
from argparse import Namespace
from contextlib import ExitStack

from utils.options.flags import describe, parse_or_exit, parse_train, source_of
from utils.system.errors import UserError, fix_streams, run_script


def main(opt: Namespace, cleanup: ExitStack) -> int:
    """The whole of training, top to bottom; returns the exit code. `cleanup` is unwound however it ends."""
    import time

    started = time.monotonic()  # before torch is imported: --minutes counts that too

    import json
    import math
    import signal
    import tempfile
    from collections import deque
    from contextlib import closing
    from functools import partial
    from itertools import count, islice
    from pathlib import Path

    import torch
    from torch.nn.parallel import DistributedDataParallel
    from torch.optim.lr_scheduler import LRScheduler

    from data.cache import plan_cache
    from data.check import check_data
    from data.datasets import ImageSpec, TrainDataset, WholeDataset, check_training_sizes
    from data.degrade import parse_degradation
    from data.loader import default_workers, train_loader, whole_loader
    from data.sampler import EpochSampler
    from data.scan import scan_headers
    from data.splits import find_pairs, splits_present, train_val_split
    from data.transforms import denormalize
    from models import LOSSES, build_network, own_arguments
    from models.batchnorm import sync_batchnorm
    from models.ema import EMA
    from models.layers import size_of
    from models.weights import load_weights
    from utils.eval.evaluator import Evaluator, mean_psnr
    from utils.eval.metrics import psnr
    from utils.optim.horizon import (
        LEAST_EPOCH,
        SAFETY_MARGIN,
        UNKNOWN,
        StepCost,
        StepTimer,
        seconds_of,
        steps_within,
    )
    from utils.optim.optimizers import OPTIMIZERS, freeze
    from utils.optim.schedules import Plan, build_scheduler
    from utils.run import checkpoint
    from utils.run.log import Logger, cut_log
    from utils.run.run import Run, versions
    from utils.run.status import Status
    from utils.system import distributed, tensorfile
    from utils.system.allocator import keep_freed_memory
    from utils.system.atomic import disk_errors, write_text
    from utils.system.compat import save_image
    from utils.system.signals import (
        MAX_SKIPPED,
        Signals,
        all_reduce_max,
        describe_nonfinite,
        finite_buffers,
        oom_errors,
        read_flags,
    )
    from utils.vis.console import Meter, Progress, clock, millions, say_on
    from utils.vis.grids import comparison_grid, evenly_spaced, side_by_side
    from utils.vis.sinks import open_logger
    from utils.vis.visdom import TRAINING, open_plot

    degrade = parse_degradation(opt.degrade) if opt.degrade else None
    source = source_of(vars(opt))
    if opt.check_data:
        return check_data(source, degrade, opt.seed, say_on(True))

    # ----------------------------------------------------------------------------------------- where it runs
    distributed.relaunch_if_many(opt.gpu_ids)
    ranks = distributed.init(opt.gpu_ids, opt.dist_timeout)
    cleanup.callback(distributed.shutdown)
    cleanup.enter_context(distributed.report_peer_failure(ranks))
    say = say_on(ranks.is_main)
    device, amp = ranks.device, distributed.amp_enabled(opt.amp, ranks.device)
    torch.use_deterministic_algorithms(opt.deterministic)
    distributed.set_float32(device, tf32=not opt.deterministic)
    keep_freed_memory()
    signals = Signals(opt.dist_timeout if ranks.world > 1 else 0)
    own = Run.named(opt.name)
    run = Run(Path(cleanup.enter_context(tempfile.TemporaryDirectory()))) if opt.dry_run else own

    # -------------------------------------------------------------------------------------------------- data
    pairs = find_pairs(source, "train", need_targets=True)
    found = scan_headers(pairs)
    input_nc = opt.input_nc or (1 if degrade and degrade.gray else found.input_nc)
    output_nc = opt.output_nc or found.target_nc
    train_pairs, val_pairs = train_val_split(pairs, source, opt.val_from, opt.val_share, opt.seed)
    on_device = opt.cache == "device"  # where batches are then cut from whole images, without loaders
    workers = default_workers(device, on_device) if opt.num_workers is None else opt.num_workers
    spec = ImageSpec(input_nc, output_nc, opt.size, degrade, opt.mean, opt.std, opt.seed)
    cache = plan_cache(opt.cache, device, found, spec, len(train_pairs.pairs), len(val_pairs.pairs))
    passes = math.ceil(LEAST_EPOCH * opt.batchSize / len(train_pairs.pairs)) if opt.minutes else 1
    train_set = TrainDataset(
        train_pairs,
        spec,
        crop_size=opt.crop_size,
        augment=opt.augment,
        repeat=opt.repeat or passes,
        store=cache.train_store(),
        replace_unreadable=opt.on_bad_image == "skip",
    )
    val_set = WholeDataset(val_pairs, spec, cache.val_store())
    scale = train_set.scale
    if opt.scale not in (None, scale):
        raise UserError(
            f"--scale {opt.scale} and --degrade {opt.degrade} contradict each other", fix="leave one out"
        )
    names = [pair.name for pair in pairs.pairs]
    check_training_sizes(found.sizes, opt.batchSize // ranks.world, opt.size, opt.crop_size, scale, names)
    sampler = EpochSampler(len(train_set), opt.batchSize, opt.seed, ranks.rank, ranks.world)
    batches = train_loader(
        train_set,
        sampler,
        batch_size=opt.batchSize // ranks.world,
        workers=workers,
        device=device,
        timeout_s=opt.worker_timeout,
        pin=not on_device,
    )
    val_count = min(len(val_set), 1) if opt.dry_run else len(val_set)
    val_indices = range(ranks.rank, val_count, ranks.world)  # not padded: each image once over all processes
    shown_at = evenly_spaced(len(val_indices), 4)
    val_batches = whole_loader(
        val_set, val_indices, skip=partial(print, file=sys.stderr) if opt.on_bad_image == "skip" else None
    )

    # ----------------------------------------------------------------------------------------------- network
    # Wrapped in this order: build, to the device, average, load, compile, distribute. `net` is the bare
    # network (saved, averaged, evaluated), `model` the wrapped one (trained).
    torch.manual_seed(opt.seed)
    resolved = {key: value for key, value in vars(opt).items() if key != "changed"}
    resolved |= {"input_nc": input_nc, "output_nc": output_nc, "scale": scale, "repeat": train_set.repeat}
    resolved["versions"] = versions()
    arguments = own_arguments(opt.model, resolved)
    going_on = opt.resume or opt.epoch > 0
    if going_on and "weights" in arguments:  # spandrel's: the file where training began may be gone
        arguments["weights"] = str(own.net("latest"))
    net = build_network(opt.model, **arguments)
    if size_of(net).scale != scale:
        raise UserError(
            f"the network enlarges {size_of(net).scale} times, the pairs want {scale} [--scale, --degrade]"
        )
    how = ""
    if opt.weights and not going_on and "weights" not in arguments:
        how = load_weights(net, Path(opt.weights))
    net.to(device, memory_format=torch.channels_last if opt.channels_last else torch.contiguous_format)
    trained = freeze(net, opt.freeze)
    average = EMA(net, opt.ema)
    criterion = LOSSES[opt.loss](reduction=opt.reduction)

    # ------------------------------------------------------------------- optimizer, and where the run stands
    optimizer = OPTIMIZERS[opt.optimizer](
        trained, opt.lr, (opt.beta1, opt.beta2), opt.momentum, opt.weight_decay
    )
    epoch_steps = sampler.steps_per_epoch
    total = min(opt.n_epochs * epoch_steps, opt.max_steps or UNKNOWN) if not opt.minutes else UNKNOWN
    step = closed = 0  # steps taken; and the step at which validation and saves were last done
    best = {"psnr": None, "psnr_input": None, "step": 0}
    if going_on:
        state = checkpoint.find_state(own, opt.epoch, epoch_steps, say)
        checkpoint.restore(state, net=net, ema=average, optimizer=optimizer)
        step, closed, best = state["step"], state["closed"], state["best"]
        if opt.minutes and "minutes" not in opt.changed:
            total = state["total"]
        if step >= total:
            what = f"{run.name} has all its {total} steps"
            raise UserError(
                what, fix="give a new --minutes" if opt.minutes else "--n_epochs or --max_steps may grow"
            )

    def in_steps(epochs: float) -> float:
        return round(epochs * epoch_steps, 6)  # 1.1 epochs of 50 steps are 55, not 55.00000000000001

    def schedule_to(total: int) -> LRScheduler:
        """The learning rate from the next step on, in a run of so many steps."""
        plan = Plan(
            total=total,
            decay=total / 2 if opt.decay_epoch is None else in_steps(opt.decay_epoch),
            step_size=in_steps(opt.step_size),
            milestones=tuple(in_steps(epoch) for epoch in opt.milestones),
            gamma=opt.gamma,
            warmup=in_steps(opt.warmup),
        )
        if plan.warmup >= total and not opt.minutes:
            why = f"{plan.warmup:g} of {total} steps"
            what = f"--warmup {opt.warmup:g} leaves nothing of the run"
            raise UserError(what, why, "lower it, or train longer")
        return build_scheduler(optimizer, opt.schedule, plan, opt.lr, step)

    scheduler = schedule_to(total)

    unit = partial(denormalize, mean=opt.mean, std=opt.std)  # from the network's range to [0, 1]
    sync_batchnorm(net, ranks)
    model = torch.compile(net) if opt.compile else net
    if ranks.world > 1:
        model = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    loss_scale = ranks.world if opt.reduction == "sum" else 1  # gradients are averaged over the processes

    # ----------------------------------------------------------------------------------- the run on the disk
    resolved["data"] = [train_pairs.describe(), val_pairs.describe()]
    logger = Logger(None, [])
    cleanup.enter_context(disk_errors(run.folder))
    if ranks.is_main:
        with run.refused():
            run.folder.mkdir(parents=True, exist_ok=True)
            cleanup.enter_context(run.lock())
            run.sweep()
            if going_on and not (opt.epoch or opt.dry_run) and state["file"] != str(run.state("latest")):
                run.set_latest_aside()
            write_text(json.dumps(resolved, indent=2), run.options_file)
            cut_log(run.log, step)
        mode = "off" if opt.dry_run else opt.visdom
        plot = open_plot(mode, run.name, TRAINING, opt.visdom_server, opt.visdom_port, say)
        logger = open_logger(run, step, plot, opt.tensorboard)
        say(describe(opt))
        say(f"data    {train_pairs.describe()}; {val_pairs.describe()}; decoded images {cache.describe()}")
        say(f"        {found.describe()}")
        say(f"network {opt.model}, {millions(net.parameters())} parameters, {millions(trained)} trained")
        if how:
            say(f"weights {opt.weights}: {how}")
        say(f"device  {ranks.note}, {'bfloat16' if amp else 'float32'}")
        until = f"to {total}" if total < UNKNOWN else f"on, for {opt.minutes:g} minutes"
        say(f"run     {run.folder}, steps {step} {until}, {epoch_steps} an epoch")
    cleanup.enter_context(closing(logger))
    status = cleanup.enter_context(Status(run, ranks.is_main))
    cleanup.enter_context(distributed.report_peer_failure(ranks))  # again: `status` records what it says
    cleanup.enter_context(oom_errors(lambda: f"at step {step}"))

    def save(*tags: str) -> None:
        """Save weights and state as they are after `step` steps."""
        status.step = step
        if not ranks.is_main:
            return
        state = checkpoint.collect(net=net, ema=average, optimizer=optimizer, scheduler=scheduler)
        state |= {
            "step": step,
            "closed": closed,
            "total": total,
            "best": best,
            "options": resolved,
            "format": checkpoint.FORMAT,
        }
        run.keep_previous()
        for tag in tags:
            tensorfile.save(average.net.state_dict(), run.net(tag))
            tensorfile.save(state, run.state(tag))
        run.drop_old_states(opt.keep)
        status.write("running")

    def leave(stop: int) -> int:
        """Save because of a signal, say how to go on, and return the exit code."""
        name = signal.Signals(stop).name
        signals.stopping()
        save("latest")
        ranks.barrier()  # a launcher ends the others when the first one is gone
        say(f"stopped by {name} after step {step}; go on with: {run.resume_command()}")
        status.write("stopped", 128 + stop, name)
        return 128 + stop

    # ---------------------------------------------------------------------------------------------- the loop
    first_epoch, offset = divmod(step, epoch_steps)
    if offset == 0 and closed < step:  # stopped between the last step of an epoch and its validation
        first_epoch, offset = first_epoch - 1, epoch_steps
    last = min(step + 2, total) if opt.dry_run else total
    if step == 0:
        save("latest")  # shows before the first step that it can be done
    saved = time.monotonic()
    meter = Meter(opt.batchSize, batches, ranks)
    step_seconds: deque[float] = deque(maxlen=100)
    skipped = 0  # steps in a row whose gradient was no number
    watch = StepTimer(on=total == UNKNOWN and not opt.dry_run)

    def measured_costs() -> StepCost:
        """What the rest of the run costs, by the first steps and by doing once what else there is."""
        step_s, wait_s = watch.read()
        keys = list(islice(sampler, opt.batchSize // ranks.world))
        load_s = min(wait_s, seconds_of(lambda: train_set.__getitems__(keys)))
        judge = Evaluator(average.net, device, amp, opt.mean, opt.std)
        judge_s = seconds_of(lambda: list(judge(islice(val_batches, 1)))) * len(val_indices)
        close_s = judge_s + 2 * seconds_of(partial(save, "latest"))
        undecoded = max(0, len(train_pairs.pairs) // opt.batchSize - watch.taken)
        each = step_s + load_s + close_s / epoch_steps
        return StepCost(each, close_s, wait_s - load_s, undecoded, SAFETY_MARGIN)

    def title(epoch: int) -> str:
        return f"epoch {epoch + 1}/{math.ceil(total / epoch_steps) if total < UNKNOWN else '?'}"

    for epoch in count(first_epoch):
        sampler.start_at(epoch, offset)
        progress = Progress(title(epoch), offset, epoch_steps, quiet=not ranks.is_main)
        offset = 0
        meter.restart()
        for batch in batches:
            began = time.perf_counter()
            draws = opt.seed * 1_000_003 + step * ranks.world + ranks.rank
            distributed.seed(device, draws)  # for dropout, if any
            given, target = (batch[key].to(device, non_blocking=True) for key in ("input", "target"))

            optimizer.zero_grad()
            parts = list(zip(given.chunk(opt.accum), target.chunk(opt.accum), strict=True))
            losses, quality = [], []
            for part, goal in parts:  # one, unless --accum splits the batch to save memory
                share = len(part) / len(given) if opt.reduction == "mean" else 1
                with distributed.ddp_sync(model, len(losses) == len(parts) - 1):
                    with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                        output = model(part)
                    loss = criterion(output.float(), goal) * (loss_scale * share)
                    loss.backward()
                losses.append(loss.detach())
                quality.append(psnr(unit(output.detach()).clamp(0, 1), unit(goal)))
            loss = sum(losses)
            norm = torch.nn.utils.clip_grad_norm_(trained, opt.clip or math.inf)
            not_finite, stop = read_flags(loss, norm, signals.stop, ranks)  # the one host read of a step
            skipped = skipped + 1 if not_finite else 0
            if not_finite:
                what = f"loss or gradient is not finite at step {step}"
                why = describe_nonfinite(loss, norm, batch["name"], ranks)
                poisoned = all_reduce_max(not finite_buffers(net), ranks)
                if opt.nan_policy == "stop" or skipped > MAX_SKIPPED or poisoned:
                    fix = f"lower --lr or add --clip 1; {run.state('latest')} is sound"
                    raise UserError(what, why, fix, code=1)
                say(f"step skipped: {what}: {why}")
                optimizer.zero_grad()  # without gradients the step below moves nothing
            lr = scheduler.get_last_lr()[0]
            optimizer.step()
            scheduler.step()
            average.update()
            step += 1
            step_seconds.append(time.perf_counter() - began)

            meter.add(loss, torch.cat(quality), skipped=not_finite)
            progress.step()
            if step % opt.log_freq == 0 or step == last:
                values = meter.read()
                logger.scalars(step, step / epoch_steps, lr=lr, **values)
                left = (total - step) * opt.batchSize / values["images_s"]
                progress.show(
                    f"loss {values['loss']:.4f} PSNR {values['train_psnr']:.2f} lr {lr:.1e} "
                    f"{values['images_s']:.1f} images/s wait {values['wait']:.0%} "
                    f"ETA {clock(left) if total < UNKNOWN else '?'}"
                )
            if watch.step(batches.waited_s):
                costs = watch.since() if watch.fixed else measured_costs()
                left_s = 60 * opt.minutes - (time.monotonic() - started)
                fits = min(
                    total, step - all_reduce_max(-steps_within(left_s, costs), ranks)
                )  # in the slowest process
                if watch.settled(fits - step, costs) and fits < total:
                    fewer = ", fewer as they have become slower" if total < UNKNOWN else ""
                    total = last = fits  # kept in the state
                    scheduler = schedule_to(total)
                    progress.rename(title(epoch))
                    say(f"length  {total} steps{fewer}, to end {opt.minutes:g} minutes after the start")
            if stop:
                progress.close()
                return leave(stop)
            if step == last:
                break
            due = signals.take_save() or time.monotonic() - saved > 60 * opt.save_minutes
            if due and step % epoch_steps:  # the end of an epoch saves anyway
                save("latest")
                saved = time.monotonic()
        progress.close()

        # ---- the end of an epoch: validate, then save
        over = step == last
        if not val_count:
            best = {"psnr": None, "psnr_input": None, "step": step}
        elif over or (epoch + 1) % opt.val_freq == 0:
            for buffer in average.net.buffers() if ranks.world > 1 else ():
                torch.distributed.broadcast(buffer, 0)  # each process has statistics of its own batches
            judge = Evaluator(average.net, device, amp, opt.mean, opt.std, say=say)
            judged = signals.until_stopped(judge(val_batches))
            reached, nothing, shown = mean_psnr(judged, ranks, shown_at)
            if stop := all_reduce_max(signals.stop, ranks):
                return leave(stop)  # a resumed run begins with this validation
            better = reached > (-math.inf if best["psnr"] is None else best["psnr"])  # never true of NaN
            if better:
                best = {"psnr": reached, "psnr_input": nothing, "step": step}
            logger.scalars(step, step / epoch_steps, val_psnr=reached, val_psnr_input=nothing)
            beside = f"doing nothing {nothing:.2f}"
            if best["psnr"] is not None:
                beside += ", the best so far" if better else f", best {best['psnr']:.2f}"
            say(f"epoch {epoch + 1}: validation PSNR {reached:.2f} dB, {beside}")
            if ranks.is_main:
                grid = comparison_grid([side_by_side(j.input, j.output, j.target) for j in shown])
                save_image(grid, run.grid)
                logger.picture("grid", f"input | output | target, step {step}", grid, step)
        closed = step
        if ranks.is_main and best["step"] == step:
            tensorfile.save(average.net.state_dict(), run.net("best"))
        kept = opt.save_freq and (epoch + 1) % opt.save_freq == 0 and step == (epoch + 1) * epoch_steps
        save("latest", *([f"epoch_{epoch + 1:04d}"] if kept else []))
        saved = time.monotonic()
        if over:
            break

    # ----------------------------------------------------------------------------------------------- the end
    ranks.barrier()
    if opt.dry_run and ranks.is_main:
        tensorfile.load(run.state("latest"))
        memory = distributed.peak_memory_mib(device)
        each = min(step_seconds)
        steps = round(60 * opt.minutes / each) if opt.minutes else total
        took = f"{each:.3f} s a step, {clock(each * steps)} for {steps} steps, {memory:.0f} MiB"
        say(f"dry run: saved and loaded; {took}")
        return 0
    status.write("done", 0)
    if ranks.is_main:
        if best["psnr"] is not None:
            beside = f"doing nothing {best['psnr_input']:.2f}"
            say(f"best validation PSNR {best['psnr']:.2f} dB at step {best['step']}, {beside}")
        where = opt.dataroot if "test" in splits_present(source) else "FOLDER"
        degraded = f" --degrade {opt.degrade}" if degrade else ""
        say(f"weights {run.net('best')}, {clock(time.monotonic() - started)} in all")
        say(f"next    python test.py --name {run.name} --dataroot {where}{degraded}")
    return 0


if __name__ == "__main__":
    fix_streams()
    sys.exit(run_script(main, parse_or_exit(parse_train)))
