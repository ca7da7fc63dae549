"""Which torchvision belongs to which torch. Loading this loads neither."""

from __future__ import annotations

import re


def mismatch(torch: str, torchvision: str) -> str | None:
    """Tell why a torchvision does not work beside a torch, and what to install.

    Its operations are compiled for one minor version of torch and for one build of it, for a CUDA
    version or the CPU ("torchvision" on PyPI, table of versions: 0.15 for 2.0, and so on).

    Parameters
    ----------
    torch, torchvision : str
        Their versions, such as ``"2.13.0+cpu"``.

    Returns
    -------
    str or None
        None where they match, or a version is of another kind.
    """
    (version, build), (other, other_build) = (
        each.partition("+")[::2] for each in (torch, torchvision)
    )
    found, have = re.match(r"2\.(\d+)\.", version), re.match(r"0\.(\d+)\.", other)
    if found is None or have is None:
        return None
    wanted = int(found[1]) + 15
    is_other_build = (
        (build or other_build) and build != other_build and "cpu" in (build, other_build)
    )
    if int(have[1]) == wanted and not is_other_build:
        return None
    index = " --index-url https://download.pytorch.org/whl/cpu" if build == "cpu" else ""
    return (
        f"torchvision {torchvision} does not belong to torch {torch}: "
        f"pip install 'torchvision==0.{wanted}.*'{index}"
    )
