"""torchvision's transforms with any torch, and without the second that the rest of it takes to import.

The package's `__init__` imports torch._dynamo, which takes 1.6 s, and compiled operators; those of a
wheel built against CUDA cannot be loaded into a CPU-only torch: registering them fails with an error. The
transforms need neither. So `__init__` runs only when something else of torchvision is used
(`torchvision.models`), and exactly this error is ignored meanwhile. No other file imports torchvision before
this one.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

_register_fake = torch.library.register_fake


class Package(ModuleType):
    """A package that is in sys.modules, so that its submodules can be imported, but has not run yet."""

    def __getattr__(self, name: str) -> Any:
        """Run the package's `__init__`, and return what it defines."""
        spec = self.__spec__
        looked_for = name.startswith("__") and name != "__version__"  # by Python itself, in any module
        if looked_for or spec is None or spec.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        torch.library.register_fake = _tolerant
        try:
            spec.loader.exec_module(self)
        finally:
            torch.library.register_fake = _register_fake
        return getattr(self, name)


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


if "torchvision" not in sys.modules and (_spec := importlib.util.find_spec("torchvision")):
    _package = importlib.util.module_from_spec(_spec)
    _package.__class__ = Package
    sys.modules["torchvision"] = _package

# not `from torchvision import transforms`, which looks for an attribute of the package
transforms: Any = importlib.import_module("torchvision.transforms")
