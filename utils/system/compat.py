"""Import torchvision so that its Python parts work with any torch; nothing else imports torchvision.

A torchvision wheel built against CUDA cannot load its compiled operators into a CPU-only torch: its import
fails on `register_fake` of two operators that do not exist. They are not used here, so exactly this error is
ignored during the import. With a matching torch nothing changes.
"""

from collections.abc import Callable
from typing import Any

import torch

_register_fake = torch.library.register_fake


def _tolerant(op: Any, *args: Any, **kwargs: Any) -> Any:
    if args or "func" in kwargs:  # called directly, not as a decorator
        return _register_fake(op, *args, **kwargs)

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return _register_fake(op, **kwargs)(function)
        except RuntimeError as error:
            if not (str(op).startswith("torchvision::") and "does not exist" in str(error)):
                raise
            return function

    return decorate


torch.library.register_fake = _tolerant
try:
    from torchvision import transforms
    from torchvision.utils import save_image
finally:
    torch.library.register_fake = _register_fake

__all__ = ["save_image", "transforms"]
