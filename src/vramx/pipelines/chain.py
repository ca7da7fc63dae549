"""A chain of stages whose weights share one budget."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vramx.errors import ConfigError, SessionClosedError
from vramx.pipelines.stage import Stage
from vramx.session import Session
from vramx.session.opening import oversubscribe
from vramx.units import as_count

if TYPE_CHECKING:
    from torch import nn


@dataclass
class StageCount:
    """How often a stage ran.

    Attributes
    ----------
    ran, skipped : int
        Values that went through it, and that skipped it.
    """

    ran: int = 0
    skipped: int = 0


def _as_stage(name: object, stage: Any) -> Stage:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"a stage's name is text, not {name!r}")
    try:
        return stage if isinstance(stage, Stage) else Stage(stage)
    except ConfigError as error:
        raise ConfigError(f"stage {name!r}: {error}") from None


class Pipeline:
    """Stages in order, all in one session. Made by `vramx.pipeline`.

    Use it as a context manager: its modules are managed on entering and put back on leaving.

    Attributes
    ----------
    batch : int
        How many values go through a stage before the next stage runs. It may be changed between
        runs.
    counts : dict of str to StageCount
        How often each stage ran.
    """

    def __init__(
        self,
        stages: Mapping[str, Any],
        *,
        session: Session | None,
        batch: int,
        options: Mapping[str, Any],
    ) -> None:
        if not isinstance(stages, Mapping) or not stages:
            raise ConfigError("stages is a mapping of at least one name to a module or a Stage")
        if session is not None and not isinstance(session, Session):
            raise ConfigError(f"session is an open session, not a {type(session).__name__}")
        if session is not None and options:
            raise ConfigError(
                f"{', '.join(sorted(options))} would open a session, but one is given: give either"
            )
        self.stages = {name: _as_stage(name, stage) for name, stage in stages.items()}
        self.batch = as_count(batch, "batch")
        self.counts = {name: StageCount() for name in self.stages}
        self._given = session
        self._options = options
        self._session: Session | None = None
        self._scope = contextlib.ExitStack()

    @property
    def session(self) -> Session:
        """The session in which the stages are.

        Raises
        ------
        SessionClosedError
            Outside the pipeline's scope.
        """
        if self._session is None:
            raise SessionClosedError("a pipeline runs inside its scope: `with …:` around its use")
        if self._session.closed:
            raise SessionClosedError("the session that the pipeline is in was closed")
        return self._session

    def __enter__(self) -> Pipeline:
        if self._session is not None:
            raise ConfigError("the pipeline is in use already; make another for a scope inside")
        with contextlib.ExitStack() as scope:
            session = self._given
            if session is None:
                session = scope.enter_context(oversubscribe(**self._options))
            for name, module in self._modules_by_stage():
                if session.manages(module):
                    continue
                session.manage(module, name=name)
                if self._given is not None:  # one's own puts everything back as it closes
                    scope.callback(_unmanage, session, module)
            self._scope = scope.pop_all()
        self._session = session
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session = None
        self._scope.__exit__(kind, error, trace)

    def _modules_by_stage(self) -> Iterator[tuple[str, nn.Module]]:
        seen: set[int] = set()
        for name, stage in self.stages.items():
            for module in stage.modules:
                if id(module) not in seen:
                    seen.add(id(module))
                    yield name, module

    def __call__(self, value: Any) -> Any:
        """Run one value through the stages.

        Parameters
        ----------
        value : object
            What the first stage takes.

        Returns
        -------
        object
            What the last stage returned.

        Raises
        ------
        SessionClosedError
            Outside the pipeline's scope.
        """
        return self._through([value])[0]

    def run(self, values: Iterable[Any]) -> Iterator[Any]:
        """Run values through the stages, `batch` at a time.

        Parameters
        ----------
        values : iterable
            What the first stage takes; read as it is needed, never more than a batch ahead.

        Yields
        ------
        object
            What the last stage returned, in order.

        Raises
        ------
        SessionClosedError
            Outside the pipeline's scope.
        """
        source = iter(values)
        while group := [*islice(source, self.batch)]:
            results = self._through(group)
            del group
            while results:
                yield results.pop(0)

    def _through(self, values: list[Any]) -> list[Any]:
        import torch

        self.session  # noqa: B018 - outside the scope it raises
        with torch.inference_mode():
            for name, stage in self.stages.items():
                try:
                    taken = [place for place, value in enumerate(values) if stage.takes(value)]
                    if taken:
                        results = stage.run([values[place] for place in taken])
                        for place, result in zip(taken, results):
                            values[place] = result
                except Exception as error:
                    if sys.version_info >= (3, 11):
                        error.add_note(f"in stage {name!r} of a vramx pipeline")
                    raise
                self.counts[name].ran += len(taken)
                self.counts[name].skipped += len(values) - len(taken)
        return values

    def report(self) -> str:
        """Describe the session and the stages for people.

        Returns
        -------
        str
            The session's report, then a line for each stage.
        """
        lines = [
            f"  stage {name}: ran {count.ran}, skipped {count.skipped}"
            for name, count in self.counts.items()
        ]
        return "\n".join([self.session.report(), *lines])


def _unmanage(session: Session, module: nn.Module) -> None:
    if session.manages(module):  # unless the session was closed first, or it was put back by hand
        session.unmanage(module)
