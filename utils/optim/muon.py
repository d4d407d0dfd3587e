"""Muon: orthogonalized momentum for the weights of hidden layers, AdamW for all other parameters.

torch.optim.Muon takes 2-D weights only; here convolutions are flattened, weights of one shape are
orthogonalized in one batched product, and one learning rate and one state serve both kinds of parameters.
"""

from collections.abc import Callable, Iterable
from itertools import groupby

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

MIN_CHANNELS = 16  # in and out of a hidden layer; the first and last layers of a network have fewer
QUINTIC = 3.4445, -4.7750, 2.0315  # coefficients of Jordan's iteration
ITERATIONS = 5


def orthogonalized(matrices: Tensor) -> Tensor:
    """Replace the singular values of each matrix by values near 1 (0.7 to 1.2), by Newton-Schulz iteration.

    Args:
        matrices: float `(N, rows, columns)`, any scale.

    Returns:
        bfloat16 of the same shape; zero where a matrix is zero.
    """
    a, b, c = QUINTIC
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(Optimizer):
    """An optimizer for all parameters of a network, with one learning rate and one state.

    Source: K. Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.

    Args:
        lr: learning rate of the orthogonalized steps and of AdamW.
        betas: of AdamW.
        momentum: Nesterov momentum of the orthogonalized steps, in [0, 1).
        weight_decay: decoupled, for all parameters.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float],
        momentum: float,
        weight_decay: float,
    ) -> None:
        kinds: tuple[list[Tensor], list[Tensor]] = [], []
        for parameter in params:
            hidden = parameter.ndim >= 2 and min(parameter.shape[:2]) >= MIN_CHANNELS
            kinds[not hidden].append(parameter)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "fused": True}
        groups = [{"params": weights, "hidden": weights is kinds[0]} for weights in kinds if weights]
        super().__init__(groups, defaults)
        rest = kinds[1]
        self.adamw = AdamW(rest, lr, betas, weight_decay=weight_decay, fused=True) if rest else None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            if group["hidden"]:
                self._step_hidden([p for p in group["params"] if p.grad is not None], group)
            elif self.adamw is not None:
                self.adamw.state = self.state  # one state, saved and loaded as a whole
                self.adamw.param_groups[0]["lr"] = group["lr"]
                self.adamw.step()

    def _step_hidden(self, weights: list[Tensor], group: dict[str, float]) -> None:
        if not weights:
            return
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        averages = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        steps = torch._foreach_lerp(gradients, averages, group["momentum"])  # Nesterov's look ahead
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        pairs = sorted(zip(weights, steps, strict=True), key=lambda pair: pair[0].shape)
        for shape, of_one_shape in groupby(pairs, key=lambda pair: pair[0].shape):
            like, raw = zip(*of_one_shape, strict=True)
            matrices = torch.stack([step.flatten(1) for step in raw])
            rows, columns = matrices.shape[1:]
            scale = -group["lr"] * max(1, rows / columns) ** 0.5
            moves = orthogonalized(matrices).float().mul_(scale)
            torch._foreach_add_(list(like), [move.view(shape) for move in moves])
