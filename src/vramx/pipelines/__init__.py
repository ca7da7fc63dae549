"""What people run in little memory, ready made. Loading this loads no framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vramx.pipelines.stage import Stage

if TYPE_CHECKING:
    from vramx.pipelines.chain import Pipeline
    from vramx.session import Session

__all__ = ["Stage", "pipeline"]


def pipeline(
    stages: Mapping[str, Any],
    *,
    session: Session | None = None,
    batch: int = 1,
    **options: Any,
) -> Pipeline:
    """Chain stages that take turns on one card and share one budget.

    The session learns the order in which the stages' weights are used, from frame to frame: while
    one stage computes, the next one's weights come, and after the last stage those of the first.
    What is not used, such as a stage that frames skip, leaves first. Stages run without gradients.

    Parameters
    ----------
    stages : mapping of str to torch.nn.Module, callable or Stage
        In order. A module or a function by itself is `Stage(it)`. Modules that share weights must
        be given as one, such as a ``ModuleList``, which several stages may name.
    session : Session, optional
        An open session to be in; modules that it manages already stay managed on leaving. Unless
        given, a session is opened on entering and closed on leaving.
    batch : int
        How many values go through a stage before the next stage runs. More of them use each
        arrival of the weights more often. Kernels may round otherwise for larger batches.
    **options
        What `oversubscribe` takes: ``budget``, ``backend``, ``device``, ….

    Returns
    -------
    Pipeline
        A context manager; call it with one value, or its ``run`` with an iterable.

    Raises
    ------
    ConfigError
        If an argument is not allowed. Those of `oversubscribe` are checked on entering.

    Examples
    --------
    >>> stages = {"detect": vramx.Stage(find_faces, [detector]),
    ...           "swap": vramx.Stage(swap_faces, [swapper], when=has_face),
    ...           "enlarge": enlarger}
    >>> with vramx.pipeline(stages, budget="6GiB", batch=4) as chain:
    ...     for picture in chain.run(frames):
    ...         show(picture)
    """
    from vramx.pipelines.chain import Pipeline

    return Pipeline(stages, session=session, batch=batch, options=options)
