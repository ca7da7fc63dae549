"""What people run in little memory, ready made. Loading this loads no framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vramx.pipelines.stage import Stage

if TYPE_CHECKING:
    from vramx.pipelines.chain import Pipeline
    from vramx.pipelines.enlarger import SuperResolution
    from vramx.session import Session

__all__ = ["Stage", "pipeline", "super_resolution"]


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


def super_resolution(
    model: Any,
    *,
    scale: int | None = None,
    tile: int | str = "auto",
    overlap: int | str = "auto",
    batch: int | str = "auto",
    multiple: int | None = None,
    session: Session | None = None,
    **options: Any,
) -> SuperResolution:
    """Enlarge pictures and frames of any size with a network, within a budget.

    The network is managed, and pictures go through it in tiles that fit beside its weights. Tiles
    share context that is thrown away, and are blended, so that no seams show. Where memory runs out
    all the same, less goes through at once from then on, with a warning.

    Parameters
    ----------
    model : torch.nn.Module or spandrel.ImageModelDescriptor
        Takes ``(n, channels, height, width)`` with values from 0 to 1 and returns the same enlarged
        by a whole number, which may be 1. Channels are 3 (RGB) or 1. It runs in evaluation mode, in
        the dtype of its weights. A descriptor, as `vramx.integrations.spandrel.load` returns it,
        tells its scale and what sizes it takes; where it discourages tiles or makes its own,
        pictures go through whole as long as memory suffices.
    scale : int, optional
        How much larger pictures become; found by trying a small one unless given.
    tile : int or "auto"
        The side of tiles in pixels of the input. Auto takes the largest that fits the budget
        beside the weights, up to 1024, by what a small picture was measured to need.
    overlap : int or "auto"
        Pixels of context that are thrown away at a tile's inner edges; half as many again are
        blended. Auto measures how far a change is seen (by half a step of eight bits), up to 64;
        `SuperResolution.seam_error` tells what is left on a picture.
    batch : int or "auto"
        How many tiles, or frames smaller than a tile, go through at once; for a descriptor one.
    multiple : int, optional
        What the sides of inputs must be multiples of; pictures are extended by reflection. Found by
        trying unless given. Give it for networks that pad by themselves but work in strides.
    session : Session, optional
        An open session to be in; unless given one is opened.
    **options
        What `oversubscribe` takes: ``budget``, ``backend``, ``device``, ….

    Returns
    -------
    SuperResolution
        A context manager. Call it with a PIL image (1, L, LA, P, RGB, RGBA or I;16), a numpy array
        ``(height, width[, channels])`` of uint8, uint16 or floats from 0 to 1, a torch tensor
        ``([n,] channels, height, width)`` likewise, or an iterable of those. It returns the same
        type; values are clipped to what that holds. Grey pictures go through a network of three
        channels as three equal ones, whose mean is taken; colours go through a network of one
        channel one by one. Alpha is enlarged by bicubic interpolation. A PIL image is turned
        upright as its EXIF data says, and keeps its ICC profile and other EXIF data.

    Raises
    ------
    ConfigError
        If an argument is not allowed; on entering, if the model is no such network.

    Examples
    --------
    >>> with vramx.super_resolution(network, budget="4GiB") as sr:
    ...     large = sr(Image.open("small.png"))
    """
    from vramx.pipelines.enlarger import SuperResolution

    return SuperResolution(
        model,
        scale=scale,
        tile=tile,
        overlap=overlap,
        batch=batch,
        multiple=multiple,
        session=session,
        options=options,
    )
