"""With `-n 2` each half of the tests, and what it starts, has a core of its own.

The threads of two trainings on the same cores would mostly wait for each other. Done here, before torch
counts the cores.
"""

import os

_half = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
if _half and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_half) % len(_cores)]})
