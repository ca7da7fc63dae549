"""Models by their names, and loading them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramx.checkpoints.onnx import is_named_as_onnx
from vramx.errors import ConfigError
from vramx.pipelines.swapping.face_model import FaceModel
from vramx.session import Session
from vramx.settings import Settings

if TYPE_CHECKING:
    from vramx.pipelines.models import Upscaler

#: What models compute in, as `vramx.integrations.torch.precision` has it.
DTYPE_NAMES = ("half", "float16", "bf16", "bfloat16", "float", "float32")


@dataclass(frozen=True)
class ModelSpec(Settings):
    """A model by its name.

    Attributes
    ----------
    name : str
        A file, or ``package.module:factory``. Both run code that they contain, except for files of
        weights alone.
    dtype : str, optional
        The precision in which it computes, one of `DTYPE_NAMES`; that of its weights by default.

    Raises
    ------
    ConfigError
        If a field is not allowed.
    """

    name: str
    dtype: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype is not None and self.dtype not in DTYPE_NAMES:
            raise ConfigError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPE_NAMES)}")

    @property
    def is_onnx(self) -> bool:
        """Whether it is an ONNX file, by its name."""
        return is_named_as_onnx(Path(self.name))

    def onnx_path(self) -> Path:
        """Return the path of an ONNX file, which is read where it is used.

        Raises
        ------
        ConfigError
            If a precision is asked for.
        """
        if self.dtype is not None:
            raise ConfigError(f"{self.name} computes in what it was written for: give no dtype")
        return Path(self.name)


@dataclass(frozen=True)
class UpscalerSpec(ModelSpec):
    """A network that enlarges pictures.

    Attributes
    ----------
    name : str
        A network with trained weights by its name, such as ``"realesrgan-x4plus"``; a checkpoint
        (spandrel finds its network); an ONNX file; a TorchScript or torch.export file; or
        ``package.module:factory``. The last three run code that they contain.
    weights : Path, optional
        Weights for ``package.module:factory``.
    """

    weights: Path | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is a file and not a name."""
        from vramx.checkpoints import is_named_as_weights

        path = Path(self.name)
        return path.is_file() or is_named_as_weights(path)

    @property
    def is_factory(self) -> bool:
        """Whether it is a function by name."""
        return not self.is_file and not self.is_onnx and ":" in self.name

    def load(self, session: Session) -> Upscaler:
        """Load it.

        Parameters
        ----------
        session : Session
            Manages the weights as they are read.

        Returns
        -------
        torch.nn.Module, spandrel.ImageModelDescriptor or Path
            The network; the path of an ONNX file, which `vramx.super_resolution` reads.

        Raises
        ------
        ConfigError
            If there is no such model.
        """
        from vramx.integrations import spandrel
        from vramx.integrations.torch.modelspec import load_model, program_kind
        from vramx.integrations.torch.precision import DTYPES, in_dtype
        from vramx.pipelines import pretrained

        if self.is_onnx:
            return self.onnx_path()
        wanted = None if self.dtype is None else DTYPES[self.dtype]
        if not self.is_file and not self.is_factory:
            return pretrained.load(session, self.name, wanted)
        path = Path(self.name)
        is_checkpoint = self.is_file and program_kind(path) is None
        network = spandrel.load(path) if is_checkpoint else load_model(self.name)
        if wanted is not None:
            network = in_dtype(network, wanted)
        loaded: Upscaler = network
        return loaded if self.weights is None else session.load(network, self.weights)


@dataclass(frozen=True)
class FaceModelSpec(ModelSpec):
    """A model of `vramx.face_swap`, and how it differs from the usual.

    Attributes
    ----------
    name : str
        An ONNX file, which is recognised; a TorchScript file; an exported program; or
        ``package.module:factory``. The last three run code that they contain.
    size, template, value_range, order, classes : optional
        As in `vramx.FaceModel`.
    """

    size: int | None = None
    template: int | None = None
    value_range: tuple[float, float] | None = None
    order: str | None = None
    classes: tuple[int, ...] | None = None

    def load(self) -> FaceModel:
        """Load it.

        Returns
        -------
        FaceModel
            The model.

        Raises
        ------
        ConfigError
            If there is no such model, or it does not allow these settings.
        """
        from vramx.integrations.torch.modelspec import load_model
        from vramx.integrations.torch.precision import DTYPES, in_dtype

        names = ("size", "template", "value_range", "order", "classes")
        said: dict[str, Any] = {
            name: value for name in names if (value := getattr(self, name)) is not None
        }
        if self.is_onnx:
            return FaceModel(self.onnx_path(), **said)
        model = load_model(self.name, also=(FaceModel,))
        is_said = isinstance(model, FaceModel)
        made: FaceModel = replace(model, **said) if is_said else FaceModel(model, **said)
        if self.dtype is not None:
            parts: list[Any] = [*made.modules] or [made.model]  # which has no weights to change
            for part in parts:
                in_dtype(part, DTYPES[self.dtype])
        return made


@dataclass(frozen=True)
class FaceModels(Settings):
    """The models of `vramx.face_swap`, which says what each takes and returns.

    Attributes
    ----------
    detector, recognizer : FaceModelSpec
        Find faces, and tell them apart.
    swapper, enhancer, mask : FaceModelSpec, optional
        Make the other face, improve it, and tell a face from what covers it.
    """

    detector: FaceModelSpec
    recognizer: FaceModelSpec
    swapper: FaceModelSpec | None = None
    enhancer: FaceModelSpec | None = None
    mask: FaceModelSpec | None = None

    def load(self) -> dict[str, FaceModel | None]:
        """Load them.

        Returns
        -------
        dict of str to FaceModel or None
            By their roles.

        Raises
        ------
        ConfigError
            If one cannot be loaded; the message names its role.
        """
        made: dict[str, FaceModel | None] = {}
        for role in ("detector", "recognizer", "swapper", "enhancer", "mask"):
            spec: FaceModelSpec | None = getattr(self, role)
            try:
                made[role] = None if spec is None else spec.load()
            except ConfigError as error:
                raise ConfigError(f"{role}: {error}") from error
        return made


@contextmanager
def packages(*needed: str, install: str) -> Iterator[None]:
    """Turn a missing package into an error that says what to install.

    Raises
    ------
    ConfigError
        If a required package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in needed:
            raise
        raise ConfigError(f"{error.name} is not installed: {install}") from error
