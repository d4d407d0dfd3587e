"""Command-line flags: one row each, parsed once, resolved with presets and saved runs. Imports no torch."""

from utils.options.parser import parse_or_exit
from utils.options.resolve import (
    Options,
    network_to_test,
    parse_export,
    parse_test,
    parse_train,
    saved_options,
)
from utils.options.sources import (
    data_settings,
    degradation_to_test,
    holdout_of,
    source_of,
    source_to_test,
)
from utils.options.summary import describe

__all__ = [
    "Options",
    "data_settings",
    "degradation_to_test",
    "describe",
    "holdout_of",
    "network_to_test",
    "parse_export",
    "parse_or_exit",
    "parse_test",
    "parse_train",
    "saved_options",
    "source_of",
    "source_to_test",
]
