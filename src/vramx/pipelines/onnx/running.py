"""A model of an ONNX file within a session: run by ONNX Runtime, its weights in that budget."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt
import torch

from vramx.errors import ConfigError, Error, SessionClosedError
from vramx.pipelines.onnx.files import OnnxFile, Value
from vramx.session import Session

#: So that what goes wrong is in errors alone, and not on stderr too.
_FATAL = 4


class OnnxModel:
    """Runs a file's model.

    Parameters
    ----------
    file : OnnxFile
        The file.
    together : bool
        Whether all that it takes and gives has the pictures' axis first, so that several can go
        through at once.
    beside : mapping of str to numpy.ndarray, optional
        Inputs that are always the same, by their names.

    Attributes
    ----------
    file : OnnxFile
        The file.

    Raises
    ------
    ConfigError
        If it takes some other number of pictures than one, always.
    """

    def __init__(
        self,
        file: OnnxFile,
        *,
        together: bool = True,
        beside: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        self.file = file
        self._beside = dict(beside or {})
        self._inputs = [each for each in file.inputs if each.name not in self._beside]
        counts = {each.sides[0] for each in self._inputs}
        if counts - {1, None}:
            raise ConfigError(
                f"{file.path} {file}: a fixed number of pictures at once must be 1; export it "
                "with that or with any number"
            )
        self._together = together and 1 not in counts
        self._session: Session | None = None
        self._made: Any = None

    @contextlib.contextmanager
    def within(self, session: Session) -> Iterator[None]:
        """Have it in a session for a scope.

        Raises
        ------
        ConfigError
            If a package is missing, or ONNX Runtime cannot read the file.
        DeviceError, OutOfMemoryError
            As `vramx.integrations.onnxruntime.inference_session`.
        """
        from vramx.integrations.onnxruntime import check, inference_session

        check(session)
        from onnxruntime import SessionOptions

        options = SessionOptions()
        options.log_severity_level = _FATAL
        # In each session the same bits, as a video that is resumed must have.
        search = {"cudnn_conv_algo_search": "HEURISTIC"}
        own = {} if session.device.computes_on_host else search
        try:
            self._made = inference_session(session, self.file.path, options, **own)
        except Error:
            raise
        except Exception as error:
            raise ConfigError(
                f"ONNX Runtime cannot read {self.file.path}: {_reason(error)}"
            ) from error
        self._session = session
        try:
            yield
        finally:
            self._made = self._session = None

    def run(
        self, outputs: tuple[Value, ...], *inputs: torch.Tensor
    ) -> list[tuple[torch.Tensor, ...]]:
        """Run it.

        Parameters
        ----------
        outputs : tuple of Value
            What is asked of it.
        *inputs : torch.Tensor
            For its other inputs, in order; of as many pictures each. They are given in its types.

        Returns
        -------
        list of tuple of torch.Tensor
            On the CPU: the outputs of all pictures together, or of one after another.

        Raises
        ------
        ConfigError
            If the model cannot be run with inputs of these shapes.
        OutOfMemoryError
            If the session cannot give what it asks for.
        SessionClosedError
            Outside its scope.
        """
        groups = [inputs] if self._together else zip(*(each.split(1) for each in inputs))
        return [self._run(outputs, group) for group in groups]

    def run_joined(self, output: Value, *inputs: torch.Tensor) -> torch.Tensor:
        """Run it, and return one output of all pictures; see `run`."""
        made = [each for (each,) in self.run((output,), *inputs)]
        return torch.cat(made) if len(made) > 1 else made[0]

    def _run(
        self, outputs: tuple[Value, ...], inputs: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        if self._made is None or self._session is None:
            raise SessionClosedError(f"{self.file.path} runs within a session alone")
        from vramx.integrations.onnxruntime.provider import told_by_a_run

        fed = {
            value.name: each.detach().cpu().contiguous().numpy().astype(value.dtype, copy=False)
            for value, each in zip(self._inputs, inputs)
        }
        try:
            with told_by_a_run(self._session):
                made = self._made.run([each.name for each in outputs], {**fed, **self._beside})
        except Error:
            raise
        except Exception as error:
            shapes = ", ".join(str(each.shape) for each in fed.values())
            raise ConfigError(
                f"{self.file.path} cannot be run with {shapes}: {_reason(error)}"
            ) from error
        return tuple(torch.from_numpy(each) for each in made)


def _reason(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
