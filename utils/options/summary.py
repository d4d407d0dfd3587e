"""The options of a run in a few lines, for its start."""

from utils.options.resolve import Options


def describe(opt: Options) -> str:
    """The options in a few lines, those that were changed marked by a star; of the bare recipe, a hint."""
    shown = [
        f"{'*' if key in opt.changed else ''}{key}={value}"
        for key, value in sorted(vars(opt).items())
        if value is not None and not isinstance(value, dict)
    ]
    lines, line = [], "options "
    for item in shown:
        if len(line) + len(item) > 98:
            lines.append(line.rstrip())
            line = "        "
        line += item + " "
    if opt.reason:
        line += f"\npreset  {opt.preset}, chosen by the data: {opt.reason}"
    if not ({"minutes", "n_epochs", "max_steps", "preset", "model"} & opt.changed or opt.resume or opt.epoch):
        line += f"\nhint    the classic recipe, {opt.n_epochs} epochs; better sooner: --minutes 20"
    return "\n".join([*lines, line.rstrip()])
