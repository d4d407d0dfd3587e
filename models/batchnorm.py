"""Batch norm whose statistics are those of the whole batch, also where several processes share it."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.system.distributed import Ranks


def sync_batchnorm(net: nn.Module, ranks: Ranks) -> None:
    """Let every BatchNorm2d of a network take its statistics over all processes of the run, in place.

    torch's SyncBatchNorm where it works, on GPUs; the same on CPUs. Names and values of the weights stay.
    """
    if ranks.world == 1:
        return
    if ranks.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(net)
        return
    for module in list(net.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, SharedBatchNorm2d.like(child, ranks.world))


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over equal parts of a batch in `world` processes (Ioffe and Szegedy 2015, algorithm 1)."""

    world = 1

    @classmethod
    def like(cls, norm: nn.BatchNorm2d, world: int) -> "SharedBatchNorm2d":
        """One that holds the very weights and buffers of `norm`."""
        shared = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        shared._parameters, shared._buffers = norm._parameters, norm._buffers
        shared.world, shared.training = world, norm.training
        return shared

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()  # (N, C, H, W)
        count = self.world * values.numel() // values.shape[1]
        mean = _Sum.apply(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * (count / max(1, count - 1)))
        scaled = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        return (scaled * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient, too, is that of all their losses."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
