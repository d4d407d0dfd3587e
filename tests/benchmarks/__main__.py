"""The benchmarks of tests/benchmarks/README.md: all, or one with flags of its own.

python -m tests.benchmarks                              # all but pooling and psnr: about 25 minutes
python -m tests.benchmarks psnr --minutes 1 5 20 60     # hours, where one asks for them
"""

import importlib

from tests.benchmarks.common import flag_parser

TABLES = {
    "start": "seconds until the scripts answer",
    "data": "pairs/s of one core against plain Pillow and torchvision",
    "step": "precision, layout, compilation",
    "profile": "where a minute of train.py goes",
    "loop": "train.py beside the bare step",
    "inference": "test.py: images/s, peak memory, bfloat16 against float32, tiles",
    "growth": "time and memory against sizes and counts",
    "pooling": "PSNR with global pooling over windows and over whole images",
    "psnr": "time to PSNR on real images",
}


def main() -> None:
    parser = flag_parser(__doc__, "python -m tests.benchmarks")
    parser.epilog = "\n".join(f"  {name:<10} {what}" for name, what in TABLES.items())
    parser.add_argument("table", nargs="?", choices=[*TABLES], help="the only one; further flags are its own")
    opt, flags = parser.parse_known_args()
    for name in [opt.table] if opt.table else [*TABLES][:-2]:  # the last two train for minutes each
        importlib.import_module(f"tests.benchmarks.{name}").main(flags)


if __name__ == "__main__":
    main()
