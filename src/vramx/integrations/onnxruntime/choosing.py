"""Which providers an inference session is made for, and whether vramx serves it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from vramx.errors import ConfigError
from vramx.integrations.onnxruntime.provider import CUDA, provider_options, require_provider
from vramx.session import Session

CPU = "CPUExecutionProvider"
#: Those that build engines of their own, in memory of their own, and leave the rest to CUDA's.
_ENGINES = ("TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")

#: A provider's name and its options.
Provider = tuple[str, dict[str, Any]]


def asked_providers(
    providers: Sequence[Any] | None, options: Sequence[dict[str, Any]] | None, found: Sequence[str]
) -> list[Provider]:
    """List the providers that a program asks for, as ``onnxruntime.InferenceSession`` takes them.

    Parameters
    ----------
    providers : sequence of str or (str, dict), or None
        None asks for all that are available.
    options : sequence of dict or None
        Options of those without any beside their names.
    found : sequence of str
        The available ones.

    Returns
    -------
    list of (str, dict)
        Name and options of each, in order of precedence.
    """
    named = list(providers or found)
    beside = list(options or [{}] * len(named))
    return [
        (each, own or {}) if isinstance(each, str) else (each[0], each[1] or {})
        for each, own in zip(named, beside)
    ]


def served_providers(
    session: Session, asked: list[Provider], found: Sequence[str], version: str
) -> list[Provider] | None:
    """Choose the providers of an inference session.

    On the simulated card the CPU's provider plays the card.

    Parameters
    ----------
    session : Session
        The session that serves.
    asked : list of (str, dict)
        What the program asks for.
    found : sequence of str
        What is available.
    version : str
        Of onnxruntime.

    Returns
    -------
    list of (str, dict) or None
        What it gets, the one that is served first; None where it is no concern of vramx's.

    Raises
    ------
    ConfigError
        If a provider or an option does not go together with a session's memory.
    """
    own = dict(asked)
    if session.device.computes_on_host:
        return [(CPU, own.get(CPU, {}))]
    engines = [name for name in own if name in _ENGINES]
    if CUDA not in own:
        others = [name for name in own if name != CPU]
        if engines:
            raise ConfigError(
                f"{engines[0]} builds engines in memory of its own, outside the budget: ask for "
                f"{CUDA} instead"
            )
        if others:
            warnings.warn(
                f"vramx leaves an inference session for {', '.join(others)} alone: it serves "
                f"{CUDA}",
                RuntimeWarning,
                stacklevel=5,
            )
        return None
    require_provider(version, found)
    if any(name in found for name in engines):
        warnings.warn(
            f"vramx leaves {', '.join(engines)} out, whose engines lie outside the budget: {CUDA} "
            "computes instead",
            RuntimeWarning,
            stacklevel=5,
        )
    rest = [(name, its) for name, its in asked if name not in (CUDA, *engines)]
    return [(CUDA, provider_options(session, **own[CUDA])), *rest]
