"""Files of weights in the folder of a run."""

from pathlib import Path

from utils.system.errors import UserError

END = "_net.pth"


def saved_net(folder: Path, load: str) -> Path:
    """The weights that `--load` names: `best`, `latest`, or the number of an epoch.

    Raises:
        UserError: no such file (lists those that exist).
    """
    file = folder / f"{f'epoch_{int(load):04d}' if load.isdigit() else load}{END}"
    if not file.is_file():
        tags = sorted(path.name.removesuffix(END) for path in folder.glob(f"*{END}"))
        found = [str(int(tag[6:])) if tag.startswith("epoch_") else tag for tag in tags]
        fix = " or ".join(f"--load {tag}" for tag in found[-4:]) or "train the run first"
        what = f"no such file: {file} [--load {load}]"
        raise UserError(what, f"the run has {', '.join(found) or 'none'}", fix)
    return file
