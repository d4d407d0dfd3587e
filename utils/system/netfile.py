"""Files of weights in the folder of a run."""

from pathlib import Path

from utils.system.errors import UserError


def saved_net(folder: Path, load: str, name: str = "net") -> Path:
    """The weights that `--load` names: `best`, `latest`, or the number of an epoch.

    Args:
        name: "net", or "netBA" for the network from B to A of a run without pairs.

    Raises:
        UserError: no such file (lists those that exist).
    """
    end = f"_{name}.pth"
    file = folder / f"{f'epoch_{int(load):04d}' if load.isdigit() else load}{end}"
    if not file.is_file():
        tags = sorted(path.name.removesuffix(end) for path in folder.glob(f"*{end}"))
        found = [str(int(tag[6:])) if tag.startswith("epoch_") else tag for tag in tags]
        fix = " or ".join(f"--load {tag}" for tag in found[-4:]) or "train the run first"
        what = f"no such file: {file} [--load {load}]"
        raise UserError(what, f"the run has {', '.join(found) or 'none'}", fix)
    return file
