"""vramx for ONNX Runtime: the weights of inference sessions lie in a session's memory.

A model is optimised by onnxruntime as ever. Its weights are then bound from a session's memory,
where each run leases them as one: they are fetched before it, the next model's are fetched ahead in
the learned order, and they leave without a copy. What a run allocates is the session's too. On the
simulated card the CPU's provider plays the card.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from vramx.errors import ConfigError
from vramx.session import Session

__all__ = ["inference_session", "serve"]


def inference_session(
    session: Session,
    model: str | os.PathLike[str] | bytes,
    sess_options: Any = None,
    **options: Any,
) -> Any:
    """Make an inference session whose weights are a session's and which runs on the card.

    Each of its runs, on any thread, is under a lease of its weights. It never goes on on the CPU:
    what makes the provider fail is an error, now and at each run.

    Parameters
    ----------
    session : Session
        An open session.
    model : str, path or bytes
        The model, as ``onnxruntime.InferenceSession`` takes it.
    sess_options : onnxruntime.SessionOptions, optional
        As ``onnxruntime.InferenceSession`` takes it.
    **options
        Those of the provider, such as ``cudnn_conv_algo_search="HEURISTIC"``. A ``gpu_mem_limit``
        does nothing: the budget limits.

    Returns
    -------
    onnxruntime.InferenceSession
        The inference session.

    Raises
    ------
    ConfigError
        If an option cannot be had with a session's memory, or onnxruntime or onnx is missing, too
        old or without the CUDA provider.
    SessionClosedError
        If the session is closed.
    DeviceError
        If the CUDA provider cannot be made, with what it says.
    OutOfMemoryError
        If the weights are larger than the budget, or the session cannot give its memory.
    Exception
        What onnxruntime raises for a model that cannot be read.

    Examples
    --------
    >>> model = inference_session(session, "model.onnx")  # doctest: +SKIP
    >>> outputs = model.run(None, inputs)  # doctest: +SKIP
    """
    check(session)
    import onnxruntime

    from vramx.integrations.onnxruntime.choosing import CPU
    from vramx.integrations.onnxruntime.patching import served_by
    from vramx.integrations.onnxruntime.provider import CUDA

    provider = CPU if session.device.computes_on_host else CUDA
    with served_by(session):
        return onnxruntime.InferenceSession(model, sess_options, providers=[(provider, options)])


@contextlib.contextmanager
def serve(session: Session) -> Iterator[None]:
    """Serve all inference sessions that the process makes in a scope.

    Those for the CPU alone are left alone, but on the simulated card, where the CPU plays the card.
    Those made in the scope stay served after it.

    Parameters
    ----------
    session : Session
        An open session.

    Raises
    ------
    ConfigError
        If onnxruntime or onnx is missing or too old.
    SessionClosedError
        If the session is closed.
    """
    check(session)
    from vramx.integrations.onnxruntime.patching import process_served_by

    with process_served_by(session):
        yield


def check(session: Session) -> None:
    """Check that a session can have inference sessions.

    Parameters
    ----------
    session : Session
        The session.

    Raises
    ------
    ConfigError
        If it has no card, or onnxruntime is missing.
    SessionClosedError
        If it is closed.
    """
    if not session.active:
        raise ConfigError(
            "ONNX Runtime's weights cannot be had in a session without a card "
            "(on_missing='cpu'); use onnxruntime.InferenceSession without it"
        )
    session._usable()
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"onnxruntime cannot be imported ({error}): pip install 'onnxruntime-gpu[cuda,cudnn]'"
        ) from error
