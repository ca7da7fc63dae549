"""The modules of a pipeline, as diffusers has them: an object with named components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def components_of(x: Any) -> dict[str, nn.Module] | None:
    """Find the modules of a pipeline.

    Parameters
    ----------
    x : object
        Anything. A pipeline has a mapping ``components`` of names to parts, as diffusers'
        ``DiffusionPipeline`` does; some of them are modules, others tokenisers, schedulers or None.

    Returns
    -------
    dict of str to torch.nn.Module or None
        Its modules by name, one that has several names under the first; None for a module itself
        and for what is no pipeline.
    """
    if isinstance(x, (nn.Module, type)):
        return None
    components = getattr(x, "components", None)
    if not isinstance(components, Mapping):
        return None
    found: dict[str, nn.Module] = {}
    for name, part in components.items():
        if isinstance(part, nn.Module) and not any(part is each for each in found.values()):
            found[str(name)] = part
    return found or None
