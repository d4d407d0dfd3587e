"""Read JSON files."""

import json
from pathlib import Path
from typing import Any

from utils.system.errors import UserError, first_sentence


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """Read a JSON file that contains one object.

    Args:
        fix: what the user can do about a broken file.

    Raises:
        UserError: the file cannot be read, or contains something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {first_sentence(error)}"
        raise UserError(f"cannot read {path}", why, fix) from None
    if not isinstance(content, dict):
        raise UserError(f"cannot read {path}", "it contains no JSON object", fix)
    return content
