"""How much is tried at random."""

from __future__ import annotations

import os


def trials(usual: int) -> int:
    """Tell how often to try: more than usual as ``VRAMX_TEST_PROGRAMS`` is more than 200."""
    return max(1, usual * int(os.environ.get("VRAMX_TEST_PROGRAMS", "200")) // 200)
