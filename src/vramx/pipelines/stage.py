"""A stage of a pipeline: what it calls, whose weights that uses, and which frames take it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from vramx.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


def is_module(x: Any) -> bool:
    """Return whether something is a torch module, without loading torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.nn.Module)


class Stage:
    """One step of a `pipeline`.

    Parameters
    ----------
    call : torch.nn.Module or callable
        Takes a value and returns the next stage's. A module owns its weights; where several values
        are due at once and all are tensors of one kind, it is called once with them concatenated
        along the first axis, which must be the batch's.
    modules : iterable of torch.nn.Module
        The modules that a callable runs. They are managed with the pipeline.
    when : callable, optional
        Takes a value and returns whether it goes through this stage; a value that does not is
        passed on unchanged, and if none does the stage's weights are not used.
    batched : bool
        Whether a callable takes a list of values and returns a list of as many.

    Raises
    ------
    ConfigError
        If an argument is not allowed.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        modules: Iterable[nn.Module] = (),
        *,
        when: Callable[[Any], bool] | None = None,
        batched: bool = False,
    ) -> None:
        if not callable(call):
            raise ConfigError(f"a stage calls a module or a function, not a {type(call).__name__}")
        if when is not None and not callable(when):
            raise ConfigError(f"when is a function of a value, not a {type(when).__name__}")
        self.call = call
        self.when = when
        self.batched = batched
        self.is_module = is_module(call)
        if is_module(modules):
            raise ConfigError("modules is an iterable of modules: put the one into a list")
        self.modules: list[nn.Module] = [*modules]
        wrong = [type(each).__name__ for each in self.modules if not is_module(each)]
        if wrong:
            raise ConfigError(f"modules are torch modules; this is not: {', '.join(wrong)}")
        if self.is_module:
            if self.modules or batched:
                raise ConfigError(
                    "a stage that is a module has its own weights and takes batches as one tensor: "
                    "give neither modules nor batched"
                )
            self.modules = [call]  # type: ignore[list-item]

    def takes(self, value: Any) -> bool:
        """Return whether a value goes through this stage."""
        return self.when is None or bool(self.when(value))

    def run(self, values: list[Any]) -> list[Any]:
        """Run one or more values through.

        Parameters
        ----------
        values : list
            At least one.

        Returns
        -------
        list
            One for each, in order.

        Raises
        ------
        ConfigError
            If what came back cannot be told apart by value.
        """
        if self.batched:
            results = self.call(values)
            if not isinstance(results, (list, tuple)) or len(results) != len(values):
                raise ConfigError(
                    f"a batched stage returned {_describe(results)} for {len(values)} values; it "
                    "must return a list of as many"
                )
            return [*results]
        if self.is_module:
            return [each for run in _alike(values) for each in self._run_together(run)]
        return [self.call(value) for value in values]

    def _run_together(self, values: list[Any]) -> list[Any]:
        if len(values) == 1:
            return [self.call(values[0])]
        import torch

        counts = [value.shape[0] for value in values]
        result = self.call(torch.cat(values))
        if not isinstance(result, torch.Tensor) or result.ndim == 0:
            raise ConfigError(
                f"{type(self.call).__name__} returned a {type(result).__name__} for a batch; only "
                "a tensor can be split: wrap the module in a Stage with a function, or batch=1"
            )
        if result.shape[0] != sum(counts):
            raise ConfigError(
                f"{type(self.call).__name__} returned {result.shape[0]} along the first axis for "
                f"{sum(counts)}; it must keep the batch's axis, or be given batch=1"
            )
        return [*result.split(counts)]


def _alike(values: list[Any]) -> list[list[Any]]:
    """Divide values into runs that can be concatenated."""
    runs: list[list[Any]] = []
    last: Any = None
    for value in values:
        kind = _kind(value)
        if runs and kind == last:
            runs[-1].append(value)
        else:
            runs.append([value])
        last = kind
    return runs


def _kind(value: Any) -> object:
    """Describe what concatenated values have in common; what cannot be joined equals no other."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor) or value.ndim == 0:
        return object()
    return (type(value), value.shape[1:], value.dtype, value.device)


def _describe(x: Any) -> str:
    return f"{len(x)}" if isinstance(x, (list, tuple)) else f"a {type(x).__name__}"
