"""What pipelines take as models. Loading this loads no framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import os

    from torch import Tensor, nn

    from vramx.pipelines.swapping.face_model import FaceModel


class SizeRequirements(Protocol):
    """What pictures a network takes, as spandrel tells it."""

    @property
    def multiple_of(self) -> int:
        """What the sides of pictures must be multiples of."""


class UpscalerDescriptor(Protocol):
    """A network and what is known of it, like spandrel's ``ImageModelDescriptor``."""

    @property
    def model(self) -> nn.Module:
        """What holds the weights."""

    @property
    def scale(self) -> int:
        """How much larger pictures become."""

    @property
    def purpose(self) -> str:
        """What it is made for: ``"SR"`` or ``"Restoration"``."""

    @property
    def size_requirements(self) -> SizeRequirements:
        """What sides pictures may have."""

    @property
    def input_channels(self) -> int:
        """Channels that it takes."""

    @property
    def output_channels(self) -> int:
        """Channels that it gives."""

    def __call__(self, picture: Tensor, /) -> Tensor:
        """Enlarge a picture ``(1, channels, height, width)`` of values from 0 to 1."""


class DetectorCall(Protocol):
    """Finds faces in pictures ``(n, 3, height, width)``; `vramx.face_swap` says what it returns."""

    def __call__(self, pictures: Tensor, /) -> Tensor | Sequence[Tensor]:
        """Give rows of 15 numbers for each picture."""


class RecognizerCall(Protocol):
    """Makes embeddings ``(n, d)`` of crops ``(n, 3, 112, 112)``."""

    def __call__(self, crops: Tensor, /) -> Tensor:
        """Give an embedding for each crop."""


class SwapperCall(Protocol):
    """Makes another face of crops ``(n, 3, 128, 128)``, by embeddings ``(n, d)``."""

    def __call__(self, crops: Tensor, embeddings: Tensor, /) -> Tensor | tuple[Tensor, Tensor]:
        """Give crops, or those and masks of what is to be taken."""


class EnhancerCall(Protocol):
    """Makes better crops ``(n, 3, 512, 512)`` of others."""

    def __call__(self, crops: Tensor, /) -> Tensor:
        """Give crops of the same shape."""


class MaskCall(Protocol):
    """Tells what of crops ``(n, 3, 512, 512)`` is the face."""

    def __call__(self, crops: Tensor, /) -> Tensor:
        """Give masks ``(n, 1, 512, 512)``, or scores of classes."""


#: What `vramx.super_resolution` takes. Paths are of ONNX files, here and below.
Upscaler: TypeAlias = "nn.Module | UpscalerDescriptor | str | os.PathLike[str]"
#: What `vramx.face_swap` takes: modules are callables, too.
Detector: TypeAlias = "DetectorCall | FaceModel | str | os.PathLike[str]"
Recognizer: TypeAlias = "RecognizerCall | FaceModel | str | os.PathLike[str]"
Swapper: TypeAlias = "SwapperCall | FaceModel | str | os.PathLike[str]"
Enhancer: TypeAlias = "EnhancerCall | FaceModel | str | os.PathLike[str]"
Mask: TypeAlias = "MaskCall | FaceModel"
