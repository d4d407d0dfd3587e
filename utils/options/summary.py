"""The options of a run in a few lines, for its start."""

from utils.options.presets import short_run_options
from utils.options.resolve import Options

WIDTH = 98  # letters of a line
MAX_LINES, MAX_VALUE = 3, 60  # lines, and letters of a value, unless all options are asked for


def describe(opt: Options) -> str:
    """The options that differ from the defaults and the preset; with --debug all, those marked by a star.

    Says as well why the preset was chosen, and of the bare recipe what is faster.
    """
    items = {key: value for key, value in sorted(vars(opt).items()) if not isinstance(value, dict)}
    if opt.debug:
        lines = filled(
            [f"{'*' * (key in opt.changed)}{key}={v}" for key, v in items.items() if v is not None]
        )
    else:
        default = "as saved" if opt.resume or opt.epoch else "as by default"
        changed = [f"{key}={shortened(items[key])}" for key in items if key in opt.changed - {"name"}]
        lines = filled(changed or [default])
        if len(lines) > MAX_LINES:
            lines = [*lines[: MAX_LINES - 1], "        ... (--debug shows all)"]
    lines += [f"note    {note}" for note in opt.notes]
    short = short_run_options(opt.preset, opt.minutes)
    kept = " ".join(f"{key}={shortened(short[key])}" for key in short if getattr(opt, key) == short[key])
    if opt.reason:
        lines.append(f"preset  {opt.preset}, chosen by the data: {opt.reason}")
    if kept:
        lines.append(f"{'' if opt.reason else 'preset':8}{opt.preset} for short runs: {kept}")
    if not ({"minutes", "n_epochs", "max_steps", "preset", "model"} & opt.changed or opt.resume or opt.epoch):
        lines.append(f"hint    the classic recipe, {opt.n_epochs} epochs; better sooner: --minutes 20")
    return "\n".join(lines)


def filled(items: list[str]) -> list[str]:
    """Join items to lines of at most WIDTH letters, the first of which begins with "options"."""
    lines, line = [], "options "
    for item in items:
        if len(line) + len(item) > WIDTH and line.strip() not in ("", "options"):
            lines.append(line.rstrip())
            line = "        "
        line += item + " "
    return [*lines, line.rstrip()]


def shortened(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."
