"""What tasks report of folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vramx.pipelines.folders import FolderResult


def rest_to_dict(result: FolderResult[Any]) -> dict[str, Any]:
    """Return what was not made, as JSON values."""
    return {
        "skipped": [str(path) for path in result.skipped],
        "failed": [{"source": str(path), "error": why} for path, why in result.failed],
        "passed_by": [{"source": str(path), "why": why} for path, why in result.passed_by],
    }
