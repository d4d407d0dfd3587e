"""Validate a run: PSNR, the figure that chooses the best weights, and the images to show."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch import nn

from data.datasets import Whole
from data.training import TrainingData
from models.perceptual import MIN_SIDE
from utils.eval.evaluator import Evaluator, MeanPSNR, Prediction, mean_psnr
from utils.eval.metrics import Protocol
from utils.eval.perceptual import KID, measure_all, open_comparisons
from utils.system import distributed
from utils.system.distributed import Ranks
from utils.system.errors import UserError
from utils.system.signals import Signals


class Validator:
    """Validates on the validation images of all processes.

    Args:
        nets: the network, and where there are no pairs, the way back; on the device.
        amp: compute in bfloat16.
        figure: `psnr`, `ssim`, `lite0`, `kid`, or `last`: what chooses the best weights.
        keep: positions of the images to show, among those of this process.

    Raises:
        UserError: the figure needs targets, or more images, than there are.
    """

    def __init__(
        self,
        nets: Mapping[str, nn.Module],
        data: TrainingData,
        ranks: Ranks,
        amp: bool,
        figure: str,
        keep: set[int],
        say: Callable[[str], None],
    ):
        protocol, spec = Protocol(max_value=data.max_value), data.spec
        how: dict[str, Any] = {"say": say, "protocol": protocol, "metrics": ("psnr", figure)}
        evaluators = [Evaluator(net, ranks.device, amp, spec.mean, spec.std, **how) for net in nets.values()]
        self.evaluator, self.back = evaluators[0], (evaluators[1] if len(evaluators) > 1 else None)
        self.data, self.ranks, self.figure, self.keep = data, ranks, figure, keep
        if data.val_count:
            self._check()
        self.names = [figure] if figure in ("ssim", "lite0") else []
        self.comparisons = open_comparisons([figure], ranks.device)
        self.kid = KID(ranks.device) if figure == "kid" else None
        self.kept: tuple[str, ...] = ()  # sets of features that are complete

    def _check(self) -> None:
        if self.figure in ("psnr", "ssim", "lite0") and not self.data.val_paired:
            why = "the validation images have no targets"
            raise UserError(f"--best {self.figure} needs pairs", why, "use --best kid, or --best last")
        sizes = [(self.data.spec.size,) * 2] if self.data.spec.size else self.data.scan.sizes
        if self.figure == "lite0" and all(min(size) < MIN_SIDE for size in sizes):
            why = f"it takes images of at least {MIN_SIDE} x {MIN_SIDE} pixels"
            raise UserError("--best lite0 cannot be measured", why, "use --best psnr")
        if self.figure == "kid" and self.data.val_count < 2:
            why = f"KID needs at least 2 validation images, there is {self.data.val_count}"
            raise UserError("--best kid cannot be measured", why, "raise --val_share, or use --best last")

    def __call__(self, signals: Signals) -> MeanPSNR | None:
        """The mean figures over all images, until a signal; None without validation images."""
        if not self.data.val_count:
            return None
        for each in filter(None, (self.evaluator, self.back)):
            distributed.broadcast_buffers(each.net, self.ranks)
        if self.kid:
            self.kid.sets = {name: rows for name, rows in self.kid.sets.items() if name in self.kept}
        predictions = signals.until_stopped(self._measured(self.data.val_images))
        found = mean_psnr(predictions, self.ranks, self.keep, *([self.names] if self.names else []))
        if self.kid:
            if self.data.val_others and not self.kept:
                self.kid.take_references(self.data.val_others, self.ranks)
            self.kept = ("input", "reference")  # the same in every validation
            found = found._replace(figures={**found.figures, **self.kid.figures(self.ranks)})
        if self.back:
            found = found._replace(shown=list(self._with_back(found.shown)))
        return found

    def first(self) -> None:
        """Validate one image, for the timing of --minutes."""
        for each in self._measured(islice(self.data.val_images, 1)):
            del each

    def _measured(self, images: Iterable[Whole]) -> Iterator[Prediction]:
        """Predictions with the perceptual distance among their scores; KID takes its features."""
        for image in self.evaluator(images):
            more = measure_all(self.comparisons, image)
            if self.kid:
                self.kid.take(image, again=bool(self.kept))
            yield image._replace(scores={**image.scores, **more}) if more else image

    def _with_back(self, shown: Sequence[Prediction]) -> Iterator[Prediction]:
        """Predictions with an image of B each, and what the way back makes of it."""
        assert self.back
        others = self.data.val_others
        images = [
            Whole(each.name, each.target, None, each.target.dtype)
            if each.target is not None
            else others.whole(i % len(others))  # type: ignore[union-attr, arg-type]
            for i, each in enumerate(shown)
        ]
        for each, back in zip(shown, self.back(images), strict=False):
            yield each._replace(back=(back.input, back.output))
