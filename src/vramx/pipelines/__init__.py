"""Ready-made pipelines for little memory. Loading this loads no framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vramx.pipelines.chain import Pipeline
from vramx.pipelines.models import Detector, Enhancer, Mask, Recognizer, Swapper, Upscaler
from vramx.pipelines.options import PictureOptions, SwapOptions, UpscaleOptions, VideoOptions
from vramx.pipelines.stage import Stage
from vramx.pipelines.swapping.face_model import FaceModel

if TYPE_CHECKING:
    from vramx.pipelines.enlarger import SuperResolution
    from vramx.pipelines.swapping.swap import FaceSwap
    from vramx.session import Session

__all__ = [
    "FaceModel",
    "FaceSwap",
    "PictureOptions",
    "Pipeline",
    "Stage",
    "SuperResolution",
    "SwapOptions",
    "UpscaleOptions",
    "VideoOptions",
    "face_swap",
    "pipeline",
    "super_resolution",
]


def __getattr__(name: str) -> Any:
    """Load the classes that need torch when they are asked for."""
    if name == "SuperResolution":
        from vramx.pipelines.enlarger import SuperResolution

        return SuperResolution
    if name == "FaceSwap":
        from vramx.pipelines.swapping.swap import FaceSwap

        return FaceSwap
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def pipeline(
    stages: Mapping[str, Any],
    *,
    session: Session | None = None,
    batch: int = 1,
    **options: Any,
) -> Pipeline:
    """Chain stages that run one after another on one card and share one budget.

    The session learns the order in which the stages' weights are used, from frame to frame: while
    one stage computes, the next one's weights are fetched, and after the last stage those of the
    first. What is not used, such as a stage that frames skip, is evicted first. Stages run without
    gradients.

    Parameters
    ----------
    stages : mapping of str to torch.nn.Module, callable or Stage
        In order. A module or a function alone stands for `Stage(it)`. Modules that share weights
        must be given as one, such as a ``ModuleList``, which several stages may name.
    session : Session, optional
        An open session to be in; modules that it manages already stay managed on leaving. Unless
        given, a session is opened on entering and closed on leaving.
    batch : int
        How many values go through a stage before the next stage runs. With more of them, weights
        are fetched less often for each. Kernels may round differently for larger batches.
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
    return Pipeline(stages, session=session, batch=batch, options=options)


def face_swap(
    detector: Detector,
    recognizer: Recognizer,
    swapper: Swapper | None,
    enhancer: Enhancer | None = None,
    *,
    mask: Mask | None = None,
    faces: str = "all",
    reference: Any = None,
    similarity: float = 0.4,
    score: float = 0.5,
    on_no_face: str = "pass",
    feather: float = 0.1,
    batch: int = 4,
    session: Session | None = None,
    **options: Any,
) -> FaceSwap:
    """Put a face in the place of others in pictures and videos, within a budget.

    A chain of four models: faces are found, compared with a reference if there is one, cut out
    upright, swapped, put back with a soft edge, and the same again for the enhancer. The models are
    managed as in a `pipeline`: the next one's weights are fetched while one computes.

    Each model is a torch module, a callable, or a `FaceModel`, which says how one of those differs
    from the following. Pictures are tensors ``(n, 3, height, width)``, RGB from 0 to 1, in the
    dtype of the model's weights (float32 of a callable without modules) on the session's device.
    Modules run in evaluation mode. The modules that a callable runs must be named by a `FaceModel`;
    a callable itself must keep nothing of what it is given.

    A model other than a mask may also be the path of an ONNX file (``.onnx``), which is recognised
    by what it takes and gives, and run by ONNX Runtime with its weights in the same budget.

    Parameters
    ----------
    detector : torch.nn.Module, callable, path or FaceModel
        Takes pictures of any size (or a fixed one: ``FaceModel(size=640)``) and returns, after
        suppressing duplicates, a row of 15 numbers for each face: left, top, right and bottom of
        its box, a score from 0 to 1, and x and y of left eye, right eye, nose, left and right
        corner of the mouth as seen in the picture, in pixels, whose centres are whole numbers.
        As a tensor ``(n, faces, 15)``, padded with a score of 0, or a list of n of ``(faces,
        15)``.
    recognizer : torch.nn.Module, callable, path or FaceModel
        Takes crops ``(n, 3, 112, 112)`` and returns embeddings ``(n, d)``, which are then
        normalised to a length of 1. The cosine of two says whether they are of one person.
    swapper : torch.nn.Module, callable, path or FaceModel
        Takes crops ``(n, 3, 128, 128)`` and the source's embedding ``(n, d)``, and returns crops of
        the same shape; or those and masks ``(n, 1, 128, 128)`` from 0 to 1, which say how much of
        each pixel is used. With None faces are only found.
    enhancer : torch.nn.Module, callable, path or FaceModel, optional
        Takes crops ``(n, 3, 512, 512)`` of the pictures with swapped faces and returns the same.
    mask : torch.nn.Module, callable or FaceModel, optional
        Takes crops ``(n, 3, 512, 512)`` and returns masks ``(n, 1, 512, 512)`` from 0 to 1 of what
        is the face; or, for a face parser, scores ``(n, classes, 512, 512)``, of which
        ``FaceModel(classes=…)`` says which are the face. What covers a face, such as hands and
        hair, stays as it is.
    faces : str
        Which faces of a picture are swapped: ``"all"`` or the ``"largest"``.
    reference : str, Path, PIL.Image.Image, numpy.ndarray, torch.Tensor or list of them, optional
        Only faces that resemble this one, or one of these: a picture, a file, or an embedding of
        one axis.
    similarity : float
        The least cosine between embeddings that counts as a resemblance.
    score : float
        The least detector score that counts as a face.
    on_no_face : str
        For a picture without a face to swap: ``"pass"`` counts it and returns it as it is,
        ``"error"`` raises `NoFaceError`, which names it.
    feather : float
        The part of a crop's side over which it fades out at its edges, from 0 to 0.5.
    batch : int
        How many pictures go through each model before the next, and how many pictures or crops a
        model gets at once; fewer where memory runs out, with a warning.
    session : Session, optional
        An open session to use; by default one is opened.
    **options
        What `oversubscribe` takes: ``budget``, ``backend``, ``device``, ….

    Returns
    -------
    FaceSwap
        A context manager; call it with a source and a target, or use its ``swap_picture``,
        ``swap_video`` and ``find``.

    Raises
    ------
    ConfigError
        If an argument is not allowed, or an ONNX file is not recognised.
    NoFaceError
        On entering, if the reference shows no face.

    Examples
    --------
    >>> arcface = vramx.FaceModel(network, value_range=(-1, 1))
    >>> with vramx.face_swap(detector, arcface, swapper, restorer, budget="4GiB") as fs:
    ...     made = fs("me.jpg", Image.open("group.jpg"))
    ...     fs.swap_video("me.jpg", "clip.mp4", "out.mp4")
    """
    from vramx.pipelines.swapping.swap import FaceSwap

    return FaceSwap(
        detector=detector,
        recognizer=recognizer,
        swapper=swapper,
        enhancer=enhancer,
        mask=mask,
        reference=reference,
        options=SwapOptions(
            faces=faces,
            similarity=similarity,
            score=score,
            on_no_face=on_no_face,
            feather=feather,
            batch=batch,
        ),
        session=session,
        session_options=options,
    )


def super_resolution(
    model: Upscaler,
    *,
    scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    tile: int | str = "auto",
    overlap: int | str = "auto",
    batch: int | str = "auto",
    multiple: int | None = None,
    session: Session | None = None,
    **options: Any,
) -> SuperResolution:
    """Enlarge pictures and frames of any size with a network, within a budget.

    The network is managed, and pictures go through it whole where they fit beside its weights.
    Otherwise they go band by band, each row of each layer computed once, where the network's layers
    look only at nearby rows; or in tiles, which share context that is thrown away, and are blended.
    If memory runs out all the same, less goes through at once from then on, with a warning.

    Parameters
    ----------
    model : torch.nn.Module, spandrel.ImageModelDescriptor, str or path
        Takes ``(n, channels, height, width)`` with values from 0 to 1 and returns the same enlarged
        by a whole number, which may be 1. Channels are 3 (RGB) or 1. It runs in evaluation mode, in
        the dtype of its weights. A descriptor, as `vramx.integrations.spandrel.load` returns it,
        states its scale and what sizes it takes; where it discourages tiles or makes its own,
        pictures go through whole as long as there is enough memory. A path is of an ONNX file
        (``.onnx``) of such a network, which ONNX Runtime runs with its weights in the budget, in
        what it was written for; if it takes pictures of one size alone, tiles have that size.
    scale : float, optional
        How much larger pictures become; the network's own scale by default. Results are resized to
        any other scale: by bicubic interpolation, which uses all pixels where it shrinks, and with
        a warning where it enlarges.
    height, width : int, optional
        The sides of results in pixels, likewise; if only one is given the other follows.
    tile : int or "auto"
        The side of tiles in pixels of the input. Auto chooses the way; tiles are then the
        rectangles that take the least time among those that fit the budget beside the weights,
        according to measurements of small pictures.
    overlap : int or "auto"
        Pixels of context that are thrown away at a tile's inner edges; half as many again are
        blended. A number asks for tiles. Auto measures on the picture how far from a cut values
        change by half a step of 8 or 16 bits, up to 96; `SuperResolution.seam_error` measures what
        is left.
    batch : int or "auto"
        How many tiles, or frames smaller than a tile, go through at once; one for a descriptor.
    multiple : int, optional
        What the sides of inputs must be multiples of; pictures are extended by reflection. By
        default found by trying. For a network that takes any sides but works in strides or windows,
        the multiple at which tiles must begin is measured.
    session : Session, optional
        An open session to use; by default one is opened.
    **options
        What `oversubscribe` takes: ``budget``, ``backend``, ``device``, ….

    Returns
    -------
    SuperResolution
        A context manager. Call it with a PIL image (1, L, LA, P, RGB, RGBA or I;16), a numpy array
        ``(height, width[, channels])`` of uint8, uint16 or floats from 0 to 1, a torch tensor
        ``([n,] channels, height, width)`` likewise, or an iterable of those. It returns the same
        type; values are clipped to its range. Grey pictures go through a network of three channels
        as three equal ones, and the results are averaged; colours go through a network of one
        channel one by one. Alpha is enlarged by bicubic interpolation. A PIL image is turned
        upright as its EXIF data says, and keeps its ICC profile and other EXIF data.

    Raises
    ------
    ConfigError
        If an argument is not allowed; on entering, if the model is not such a network.

    Examples
    --------
    >>> with vramx.super_resolution(network, budget="4GiB") as sr:
    ...     large = sr(Image.open("small.png"))
    """
    from vramx.pipelines.enlarger import SuperResolution

    chosen = UpscaleOptions(
        scale=scale,
        height=height,
        width=width,
        tile=_unless_auto(tile),
        overlap=_unless_auto(overlap),
        batch=_unless_auto(batch),
        multiple=multiple,
    )
    return SuperResolution(model, options=chosen, session=session, session_options=options)


def _unless_auto(value: Any) -> Any:
    return None if value == "auto" else value
