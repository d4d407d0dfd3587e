"""JSON files that hold one object."""

import json
from pathlib import Path
from typing import Any

from utils.system.errors import UserError, first_sentence


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        fix: what the user can do about a file that cannot be read.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {path}", f"{type(error).__name__}: {first_sentence(error)}", fix
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"cannot read {path}", "it holds no JSON object", fix)
    return content
