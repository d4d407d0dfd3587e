"""With `-n 2` each half of the tests, and what it starts, has a core of its own.

The threads of two trainings on the same cores would mostly wait for each other. Done here, before torch
counts the cores.
"""

import os
import signal

_half = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
if _half and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_half) % len(_cores)]})

# Started in the background, or by nohup, the tests ignore these, and so would what they start.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)
