"""Methods of ``onnxruntime.InferenceSession`` that put its weights into a session's memory.

They are replaced on the class, so that subclasses and names that a program imported before count.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native
from packaging.version import Version

from vramx.errors import ConfigError
from vramx.integrations.onnxruntime.choosing import Provider, asked_providers, served_providers
from vramx.integrations.onnxruntime.optimising import OptimisedModel, copied_options
from vramx.integrations.onnxruntime.provider import told_by_the_provider
from vramx.integrations.onnxruntime.weights import ModelWeights, models_of
from vramx.session import Session

#: Where an inference session keeps its weights.
_WEIGHTS = "_vramx_weights"
_RUNS = ("run", "run_with_ort_values", "run_with_iobinding", "run_with_ortvaluevector")
#: Older ones end the process over some graphs, or cannot tell which provider uses what.
_OLDEST = "1.28"

_originals: dict[str, Any] = {}
_patching = threading.Lock()
_process: list[Session] = []
_scope: ContextVar[Session | None] = ContextVar("vramx_onnxruntime", default=None)


def patch() -> None:
    """Replace the methods, once. What they do for inference sessions that are not served is as was.

    Raises
    ------
    ConfigError
        If this onnxruntime cannot be served, or the package onnx is missing.
    """
    with _patching:
        if _originals:
            return
        kind = onnxruntime.InferenceSession
        if Version(onnxruntime.__version__) < Version(_OLDEST):
            raise ConfigError(
                f"onnxruntime {onnxruntime.__version__} cannot have its weights in a session's "
                f"memory: vramx needs {_OLDEST} or newer"
            )
        try:
            import onnx  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"the package onnx, which reads models, cannot be imported ({error}): "
                "pip install 'vramx[onnx]'"
            ) from error
        own = {"_create_inference_session": _create, "run_async": _run_async}
        for name, replace in (*own.items(), *((each, _leased) for each in _RUNS)):
            _originals[name] = getattr(kind, name)
            setattr(kind, name, replace(_originals[name]))


@contextlib.contextmanager
def served_by(session: Session) -> Iterator[None]:
    """Have inference sessions that are made in a scope, on this thread, served by a session."""
    patch()
    token = _scope.set(session)
    try:
        yield
    finally:
        _scope.reset(token)


@contextlib.contextmanager
def process_served_by(session: Session) -> Iterator[None]:
    """Have all inference sessions of the process that are made meanwhile served by a session."""
    patch()
    _process.append(session)
    try:
        yield
    finally:
        _process.remove(session)


def _serving() -> Session | None:
    return _scope.get() or (_process[-1] if _process else None)


def _create(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def create(
        self: Any, providers: Any, provider_options: Any, disabled_optimizers: Any = None
    ) -> None:
        self.__dict__.pop(_WEIGHTS, None)
        session = _serving()
        if session is None:
            original(self, providers, provider_options, disabled_optimizers)
            return
        # What makes the provider fail is an error: never does it go on on the CPU.
        falls_back, self._enable_fallback = self._enable_fallback, False
        found = onnxruntime.get_available_providers()
        if not providers and self._sess_options is not None and self._sess_options.has_providers():
            raise ConfigError(
                "session options with providers of their own cannot be had with a session's "
                "memory: give providers to the inference session instead"
            )
        asked = asked_providers(providers, provider_options, found)
        chosen = served_providers(session, asked, found, onnxruntime.__version__)
        if chosen is None:
            self._enable_fallback = falls_back
            original(self, providers, provider_options, disabled_optimizers)
            return
        on_card = not session.device.computes_on_host
        with told_by_the_provider(session, chosen[0][1]) if on_card else contextlib.nullcontext():
            _make(self, original, session, chosen, disabled_optimizers)

    return create


def _make(
    model: Any,
    original: Callable[..., Any],
    session: Session,
    providers: list[Provider],
    disabled: Any,
) -> None:
    """Make an inference session of an optimised model whose weights are a session's."""
    given = model._model_path, model._model_bytes
    source = model._model_path or model._model_bytes
    options = model._sess_options or native.get_default_session_options()
    with contextlib.closing(OptimisedModel(source, options, providers, disabled)) as optimised:
        session._core.trim()  # of what it took to optimise the model
        weights = models_of(session).weights_of(source, optimised)
        model._sess_options = optimised.options()
        for name, value in weights.values:
            model._sess_options.add_initializer(name, value)
        model._model_path, model._model_bytes = None, optimised.graph()
        try:
            with weights.held():
                original(model, providers, None)
        finally:
            model._model_path, model._model_bytes = given
            model._sess_options = copied_options(options)  # programs make others with them
    model.__dict__[_WEIGHTS] = weights


def _leased(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def run(self: Any, *args: Any, **options: Any) -> Any:
        weights: ModelWeights | None = self.__dict__.get(_WEIGHTS)
        if weights is None:
            return original(self, *args, **options)
        with weights.leased():
            return original(self, *args, **options)

    return run


def _run_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def run_async(
        self: Any,
        output_names: Any,
        input_feed: Any,
        callback: Callable[[Any, Any, str], None],
        user_data: Any,
        run_options: Any = None,
    ) -> Any:
        if _WEIGHTS not in self.__dict__:
            return original(self, output_names, input_feed, callback, user_data, run_options)
        self._validate_input(list(input_feed))

        def run() -> None:
            # On this thread the lease begins and ends, and the session's allocator serves.
            try:
                results = self.run(output_names, input_feed, run_options)
            except Exception as error:
                callback([], user_data, str(error))
            else:
                callback(results, user_data, "")

        threading.Thread(target=run, name="vramx run_async").start()
        return None

    return run_async
