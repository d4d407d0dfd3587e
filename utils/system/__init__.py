"""Processes, signals, errors, files, random streams. Imports nothing else of this project."""

import importlib.util
import sys

if importlib.util.find_spec("fcntl") is None:
    print("error: this system is not supported\n  fix: use Linux or macOS; on Windows, WSL", file=sys.stderr)
    sys.exit(2)
