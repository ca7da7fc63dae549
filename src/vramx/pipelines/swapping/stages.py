"""What is done with a frame, stage by stage."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable

import torch

from vramx.errors import ConfigError, NoFaceError
from vramx.pipelines import models
from vramx.pipelines.faces import Alignment
from vramx.pipelines.options import SwapOptions
from vramx.pipelines.stage import Stage
from vramx.pipelines.swapping.found import Choice, Embedding, Face
from vramx.pipelines.swapping.frame import Chosen, Frame
from vramx.pipelines.swapping.networks import (
    Detector,
    Enhancer,
    FaceNetwork,
    Masked,
    Masker,
    Pixels,
    Recognizer,
    Swapper,
)


class FaceStages:
    """The stages of the chain, of frames that go through them in batches.

    Parameters
    ----------
    detector, recognizer, swapper, enhancer, mask : FaceModel, torch.nn.Module, callable or path
        The models; the last two may be None, and without a swapper faces are only found.
    choice : Choice
        Which faces are swapped.
    options : SwapOptions
        How they are.

    Attributes
    ----------
    choice : Choice
        May be changed between frames.
    networks : list of FaceNetwork
        The models, in order.

    Raises
    ------
    ConfigError
        If an argument is not allowed.
    """

    def __init__(
        self,
        detector: models.Detector,
        recognizer: models.Recognizer,
        swapper: models.Swapper | None,
        enhancer: models.Enhancer | None,
        mask: models.Mask | None,
        *,
        choice: Choice,
        options: SwapOptions,
    ) -> None:
        self.choice = choice
        self._options = options
        self._told = False
        batch = options.batch
        self._detector = Detector(detector, batch, options.score)
        self._recognizer = Recognizer(recognizer, batch)
        self._masker = None if mask is None else Masker(mask, batch)
        self._swapper = None if swapper is None else Swapper(swapper, batch)
        self._enhancer = None if enhancer is None else Enhancer(enhancer, batch)
        optional = (self._masker, self._swapper, self._enhancer)
        self.networks: list[FaceNetwork] = [self._detector, self._recognizer]
        self.networks += [each for each in optional if each is not None]

    @property
    def swaps(self) -> bool:
        """Whether there is a swapper."""
        return self._swapper is not None

    def stages(self) -> dict[str, Stage]:
        """Return them by name, in order."""
        stages = {
            "detect": Stage(self._detect, self._detector.modules, batched=True),
            "recognize": Stage(
                self._recognize, self._recognizer.modules, when=self._is_compared, batched=True
            ),
            "choose": Stage(self._choose, batched=True),
        }
        changing = {
            "mask": (self._mask, self._masker),
            "swap": (self._swap, self._swapper),
            "enhance": (self._enhance, self._enhancer),
        }
        for name, (call, network) in changing.items():
            if network is not None:
                stages[name] = Stage(call, network.modules, when=_is_changed, batched=True)
        return stages

    def _is_compared(self, frame: Frame) -> bool:
        wanted = not frame.sources or bool(self.choice.references)
        return wanted and bool(frame.faces)

    def _detect(self, frames: list[Frame]) -> list[Frame]:
        for frame, faces in zip(frames, self._detector([frame.pixels for frame in frames])):
            sure = [face for face in faces if face.score >= self._options.score]
            fit = [face for face in sure if self._fits(frame, face)]
            frame.faces = sorted(fit, key=lambda face: face.area, reverse=True)
            frame.unfit = len(sure) - len(fit)
        return frames

    def _fits(self, frame: Frame, face: Face) -> bool:
        """Tell whether landmarks lie as a face's do; warn of the first that do not."""
        try:
            self._recognizer.aligned(face)
        except ConfigError as error:
            if not self._told:
                self._told = True
                warnings.warn(
                    f"{frame.name}: what the detector took for a face is passed by, and so are "
                    f"others like it, which are counted: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return False
        return True

    def _recognize(self, frames: list[Frame]) -> list[Frame]:
        todo = [(frame, face) for frame in frames for face in frame.faces]

        def recognize(part: Iterable[tuple[Frame, Face]]) -> list[Embedding]:
            return self._recognizer(
                [self._recognizer.aligned(face).crop(frame.pixels) for frame, face in part]
            )

        embeddings = iter([*self._recognizer.over(todo, recognize)])
        for frame in frames:
            frame.faces = [
                dataclasses.replace(face, embedding=next(embeddings)) for face in frame.faces
            ]
        return frames

    def _choose(self, frames: list[Frame]) -> list[Frame]:
        for frame in frames:
            if not frame.sources:
                continue
            chosen = self.choice.of(frame.faces, frame.sources)
            frame.chosen = [Chosen(*each) for each in chosen]
            if not frame.chosen and self._options.on_no_face == "error":
                raise NoFaceError(f"{frame.name}: {self.choice.why_none(frame.faces)}")
        return frames

    def _mask(self, frames: list[Frame]) -> list[Frame]:
        """See what lies before faces, while they are as they were."""
        masker = self._masker
        assert masker is not None
        todo = [(frame, place) for frame in frames for place in range(len(frame.chosen))]

        def mask(part: Iterable[tuple[Frame, int]]) -> list[tuple[Alignment, torch.Tensor]]:
            crops = [masker.aligned(frame.chosen[place].face) for frame, place in part]
            pictures = [crop.crop(frame.pixels) for crop, (frame, _) in zip(crops, part)]
            return [*zip(crops, masker(pictures))]

        for (frame, place), (crop, shown) in zip(todo, masker.over(todo, mask)):
            frame.chosen[place] = dataclasses.replace(frame.chosen[place], shown=shown, crop=crop)
        return frames

    def _swap(self, frames: list[Frame]) -> list[Frame]:
        assert self._swapper is not None
        return self._paste(frames, self._swapper, self._swapper)

    def _enhance(self, frames: list[Frame]) -> list[Frame]:
        enhancer = self._enhancer
        assert enhancer is not None
        return self._paste(
            frames, enhancer, lambda crops, _: [(made, None) for made in enhancer(crops)]
        )

    def _paste(
        self,
        frames: list[Frame],
        network: FaceNetwork,
        change: Callable[[list[Pixels], list[Embedding]], list[Masked]],
    ) -> list[Frame]:
        """Cut the chosen faces out of pictures as they are now, and put them back changed.

        Of those whose crops overlap one is put back before the next is cut out, lest it takes what
        was there before.
        """

        def run(part: Iterable[tuple[Pixels, Chosen, Alignment]]) -> list[Masked]:
            pictures, chosen, places = zip(*part)
            crops = [place.crop(picture) for place, picture in zip(places, pictures)]
            return change(crops, [each.source for each in chosen])

        for turn in _turns(frames, network):
            todo = [(frame.pixels, chosen, place) for frame, chosen, place in turn]
            for (frame, chosen, place), (crop, mask) in zip(turn, network.over(todo, run)):
                frame.pixels = place.paste(
                    frame.pixels, crop, feather=self._options.feather, mask=chosen.mask(place, mask)
                )
        return frames


def _turns(
    frames: list[Frame], network: FaceNetwork
) -> list[list[tuple[Frame, Chosen, Alignment]]]:
    """Divide where the chosen faces lie into turns, so that in none the crops of two overlap."""
    turns: list[list[tuple[Frame, Chosen, Alignment]]] = []
    for frame in frames:
        before: list[tuple[int, Alignment]] = []
        for chosen in frame.chosen:
            place = network.aligned(chosen.face)
            turn = max((n + 1 for n, other in before if place.overlaps(other)), default=0)
            before.append((turn, place))
            if turn == len(turns):
                turns.append([])
            turns[turn].append((frame, chosen, place))
    return turns


def _is_changed(frame: Frame) -> bool:
    return bool(frame.chosen)
