"""The chain of models within its scope: what it finds in pictures, and what it makes of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

from vramx.errors import ConfigError
from vramx.pipelines.chain import Pipeline
from vramx.pipelines.images import ON_CPU, Home, Planes, to_planes
from vramx.pipelines.models import Detector, Enhancer, Mask, Recognizer, Swapper
from vramx.pipelines.networks import device_of, evaluating
from vramx.pipelines.options import SwapOptions
from vramx.pipelines.swapping.found import Choice, Face
from vramx.pipelines.swapping.frame import Frame, from_pixels
from vramx.pipelines.swapping.people import Someone, one_picture, several
from vramx.pipelines.swapping.stages import FaceStages
from vramx.session import Session

#: What a picture takes where faces are put into it, for each pixel: three colours as float32, those
#: before the change, a piece on its way and the bytes that it was and becomes.
_BYTES_A_PIXEL = 64

C = TypeVar("C", bound="FaceChain")


class FaceChain:
    """Finds faces and puts others in their place, in pictures that are in memory."""

    def __init__(
        self,
        *,
        detector: Detector,
        recognizer: Recognizer,
        swapper: Swapper | None,
        enhancer: Enhancer | None,
        mask: Mask | None,
        reference: Any,
        options: SwapOptions,
        session: Session | None,
        session_options: Mapping[str, Any],
    ) -> None:
        self._given_choice = Choice(options.faces, options.similarity)
        self._given_reference = reference
        self._references: list[Someone] = []
        self._options = options
        self._stages = FaceStages(
            detector,
            recognizer,
            swapper,
            enhancer,
            mask,
            choice=self._given_choice,
            options=options,
        )
        stages = self._stages.stages()
        self._chain = Pipeline(
            stages, session=session, batch=options.batch, options=session_options
        )
        self._scope = contextlib.ExitStack()
        self._home = ON_CPU

    @property
    def session(self) -> Session:
        """The session in which the models are."""
        return self._chain.session

    def __enter__(self: C) -> C:
        self._chain.__enter__()
        try:
            budget = self.session.stats().budget or 0
            self._home = Home(device_of(self.session), budget // _BYTES_A_PIXEL)
            for network in self._stages.networks:
                self._scope.enter_context(evaluating(*network.modules))
                self._scope.enter_context(network.within(self._chain.session))
            if self._given_reference is not None:
                self._references = self._several(self._given_reference, "the reference")
                self._stages.choice = dataclasses.replace(
                    self._given_choice,
                    references=tuple(each.embedding for each in self._references),
                )
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stages.choice, self._references = self._given_choice, []
        self._scope.close()
        self._chain.__exit__(kind, error, trace)

    def find(self, picture: Any) -> list[Face]:
        """Find the faces in a picture.

        Parameters
        ----------
        picture : str, Path, PIL.Image.Image, numpy.ndarray or torch.Tensor
            A picture, or a file with one.

        Returns
        -------
        list of Face
            With embeddings, which may serve as a source or a reference; the largest first.

        Raises
        ------
        MediaError
            If the file cannot be read.
        ConfigError
            If it is not one picture.
        """
        return self._find(one_picture(picture, self._home), "the picture")

    def _find(self, planes: Planes, name: str) -> list[Face]:
        frame: Frame = self._chain(Frame(name, planes.colour[0].expand(3, -1, -1), ()))
        return frame.faces

    def _several(self, given: Any, what: str) -> list[Someone]:
        return several(given, what, self._find, self._home, self._options.score)

    def _sources(self, given: Any) -> list[Someone]:
        """See whose faces are to be put in, and that it is known where."""
        if not self._stages.swaps:
            raise ConfigError("without a swapper faces are only found: give one to face_swap")
        if isinstance(given, (list, tuple)):
            self._stages.choice.check(len(given))
        return self._several(given, "the source")

    def _run(
        self, faces: list[Someone], pictures: Iterable[Any], name: Callable[[int], str]
    ) -> Iterator[tuple[Any, list[Frame]]]:
        """Swap in pictures; each comes back with the frames that it was, one but for batches."""
        waiting: deque[Planes] = deque()
        sources = tuple(each.embedding for each in faces)

        def frames() -> Iterator[Frame]:
            number = 0
            for picture in pictures:
                planes = to_planes(picture, self._home)
                waiting.append(planes)
                for colour in planes.colour:
                    yield Frame(name(number), colour.expand(3, -1, -1), sources)
                    number += 1

        done: list[Frame] = []
        for frame in self._chain.run(frames()):
            done.append(frame)
            if len(done) == len(waiting[0].colour):
                yield from_pixels(done, waiting.popleft()), done
                done = []

    def report(self) -> str:
        """Describe the session and the stages for people.

        Returns
        -------
        str
            The session's report, then a line for each stage.
        """
        return self._chain.report()
