"""Layers that need rows near by alone, of the nodes of a traced network."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from vramx.pipelines.upscaling.interpolating import interpolated
from vramx.pipelines.upscaling.joining import joined
from vramx.pipelines.upscaling.layers import (
    Folded,
    Layer,
    NotByRowsError,
    Resized,
    RowGraph,
    Rows,
    Window,
)
from vramx.pipelines.upscaling.operations import (
    IN_PLACE_OPERATORS,
    METHODS_IN_PLACE,
    NOTHING,
    POINTWISE_FUNCTIONS,
    POINTWISE_METHODS,
    POINTWISE_MODULES,
    SHAPES,
)


class Builder:
    """Makes layers of a graph's nodes.

    Parameters
    ----------
    network : torch.nn.Module
        What was traced.
    picture : Layer
        The pictures that it is given.
    """

    def __init__(self, network: nn.Module, picture: Layer) -> None:
        self._modules = dict(network.named_modules())
        self._picture = picture
        self._layers = [picture]
        self._constants: list[torch.Tensor] = []
        self._values: dict[fx.Node, Any] = {}

    def build(self, graph: fx.Graph) -> RowGraph:
        """Make the layers.

        Parameters
        ----------
        graph : torch.fx.Graph
            With the network's own modules of torch as leaves.

        Returns
        -------
        RowGraph
            What the output needs of it.

        Raises
        ------
        NotByRowsError
            If there is something of which it is not known that it goes by rows.
        """
        output = None
        for node in graph.nodes:
            args, kwargs = (fx.node.map_arg(each, self._value) for each in (node.args, node.kwargs))
            if node.op == "placeholder":
                self._values[node] = self._placeholder(node)
            elif node.op == "get_attr":
                self._values[node] = self._attribute(str(node.target))
            elif node.op == "output":
                output = args[0]
            elif not _has_layer((args, kwargs)):
                self._values[node] = self._constant(node, args, kwargs)
            elif node.op == "call_module":
                self._values[node] = self._module(node, *args, **kwargs)
            else:
                self._values[node] = self._call(node, args, kwargs)
        if not isinstance(output, Layer):
            raise NotByRowsError(f"it returns a {type(output).__name__}")
        return self._finished(output)

    def _value(self, node: fx.Node) -> Any:
        return self._values[node]

    def _placeholder(self, node: fx.Node) -> Any:
        if not any(each.op == "placeholder" for each in self._values):
            return self._picture
        if not node.args:
            raise NotByRowsError(f"it takes more than a picture: {node.target}")
        return node.args[0]

    def _attribute(self, name: str) -> torch.Tensor:
        path, _, last = name.rpartition(".")
        value = getattr(self._modules[path], last)
        if not isinstance(value, torch.Tensor):
            raise NotByRowsError(f"{name} is a {type(value).__name__}")
        if not any(value is known for known in self._constants):
            self._constants.append(value)
        return value

    def _constant(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Compute with sizes and numbers, which are known of pictures of one size."""
        if node.op != "call_function" or _has_tensor((args, kwargs)):
            raise NotByRowsError(f"{node.name} ({node.target}) works on weights by themselves")
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _add(self, node: fx.Node, rows: Rows, sources: list[Layer], **told: Any) -> Layer:
        told = {"channels": sources[0].channels, "width": sources[0].width, **told}
        changes = isinstance(rows, (Resized, Folded))
        stage = max(each.stage for each in sources) + changes
        layer = Layer(node.name, rows, sources, stage=stage, **told)
        self._layers.append(layer)
        return layer

    def _module(self, node: fx.Node, x: Any, *rest: Any, **named: Any) -> Layer:
        module = self._modules[str(node.target)]
        kind = type(module)
        if not isinstance(x, Layer) or rest or named:
            raise NotByRowsError(f"{node.target} ({kind.__name__}) takes more than a picture")
        if kind is nn.Conv2d:
            return self._convolution(node, module, x)
        if module.training and kind in (*POINTWISE_MODULES, *NOTHING):
            raise NotByRowsError(f"{node.target} ({kind.__name__}) is in training mode")
        if kind in NOTHING:
            return x
        if kind in POINTWISE_MODULES:
            in_place = bool(getattr(module, "inplace", False))
            return self._pointwise(node, module, (x,), {}, in_place=in_place)
        if kind is nn.PixelShuffle:
            return self._shuffle(node, x, module.upscale_factor)
        if kind is nn.PixelUnshuffle:
            return self._unshuffle(node, x, module.downscale_factor)
        if kind is nn.Upsample or kind is nn.UpsamplingNearest2d:
            return self._interpolate(
                node, x, module.size, module.scale_factor, module.mode, module.align_corners
            )
        raise NotByRowsError(f"{node.target} is a {kind.__name__}")

    def _convolution(self, node: fx.Node, module: Any, x: Layer) -> Layer:
        if module.padding_mode != "zeros" or not isinstance(module.padding, tuple):
            raise NotByRowsError(f"{node.target} pads by {module.padding_mode}, {module.padding}")
        spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size)]
        height, width = (
            (given + 2 * padding - span - 1) // stride + 1
            for given, padding, span, stride in zip(
                (x.height, x.width), module.padding, spans, module.stride
            )
        )
        if x.channels != module.in_channels or height < 1 or width < 1:
            raise NotByRowsError(f"{node.target} does not take pictures of this size")
        rows = Window(x.height, height, module.stride[0], module.padding[0], spans[0])
        return self._add(
            node,
            rows,
            [x],
            channels=module.out_channels,
            width=width,
            module=module,
            run=_call_one(module),
        )

    def _call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target: Any = node.target
        if node.op == "call_method":
            return self._method(node, str(target), args, kwargs)
        x = args[0] if args else None
        if target is getattr and isinstance(x, Layer):
            return self._shape_of(node, x, args[1])
        if target is operator.getitem:
            return self._item(node, x, args[1])
        if target is torch.cat or target is getattr(torch, "concat", None):
            return self._cat(node, *args, **kwargs)
        if target in (torch.chunk, torch.split):
            return self._divided(node, target.__name__, *args, **kwargs)
        if target is functional.pixel_shuffle or target is torch.pixel_shuffle:
            return self._shuffle(node, *args, **kwargs)
        if target is functional.pixel_unshuffle or target is torch.pixel_unshuffle:
            return self._unshuffle(node, *args, **kwargs)
        if target is functional.interpolate:
            return self._interpolate(node, *args, **kwargs)
        if target is functional.pad and isinstance(x, Layer) and not any(args[1]):
            return x
        if target in POINTWISE_FUNCTIONS:
            in_place = target in IN_PLACE_OPERATORS or bool(kwargs.get("inplace"))
            return self._pointwise(node, target, args, kwargs, in_place=in_place)
        raise NotByRowsError(f"{node.name} is {getattr(target, '__name__', target)}")

    def _method(self, node: fx.Node, name: str, args: Any, kwargs: Any) -> Any:
        x, *rest = args
        if isinstance(x, Layer):
            if name in SHAPES:
                return getattr(torch.empty(self._shape(x), device="meta"), name)(*rest, **kwargs)
            if name == "contiguous":
                return x
            if name in ("chunk", "split"):
                return self._divided(node, name, x, *rest, **kwargs)
            in_place = name in METHODS_IN_PLACE
            if in_place or name in POINTWISE_METHODS:

                def run(x: torch.Tensor, *rest: Any, **kwargs: Any) -> Any:
                    return getattr(x, name)(*rest, **kwargs)

                return self._pointwise(node, run, args, kwargs, in_place=in_place)
        raise NotByRowsError(f"{node.name} is the method {name}")

    def _shape(self, x: Layer) -> tuple[int, int, int, int]:
        return (1, x.channels, x.height, x.width)

    def _shape_of(self, node: fx.Node, x: Layer, name: str) -> Any:
        if name == "shape":
            return torch.Size(self._shape(x))
        raise NotByRowsError(f"{node.name} reads .{name}")

    def _item(self, node: fx.Node, x: Any, place: Any) -> Any:
        if not isinstance(x, Layer):
            return x[place]
        places = place if isinstance(place, tuple) else (place,)
        for each, length in zip(places, self._shape(x)):
            whole = isinstance(each, slice) and each.indices(length) == (0, length, 1)
            if not whole and each is not Ellipsis:
                raise NotByRowsError(f"{node.name} cuts a part out")
        return x

    def _cat(self, node: fx.Node, tensors: Any, dim: int = 0, **named: Any) -> Layer:
        dim = named.get("axis", dim)
        sources = [*tensors]
        sizes = {(each.height, each.width) for each in sources}
        if dim not in (1, -3) or len(sizes) > 1:
            raise NotByRowsError(f"{node.name} puts pictures side by side")
        height = sources[0].height
        channels = sum(each.channels for each in sources)
        return self._add(node, Rows(height, height), sources, channels=channels)

    def _divided(self, node: fx.Node, kind: str, x: Layer, by: Any, dim: int = 0) -> list[Layer]:
        if dim not in (1, -3):
            raise NotByRowsError(f"{node.name} divides pictures")
        probe = torch.empty(x.channels, device="meta")
        parts, first = [], 0
        for each in getattr(probe, kind)(by):
            part = (first, first + len(each))
            rows = Rows(x.height, x.height)
            parts.append(self._add(node, rows, [x], channels=len(each), part=part))
            first += len(each)
        return parts

    def _shuffle(self, node: fx.Node, x: Layer, upscale_factor: int) -> Layer:
        factor = upscale_factor
        rows = Resized(x.height, x.height * factor, factor)
        return self._add(
            node,
            rows,
            [x],
            channels=x.channels // factor**2,
            width=x.width * factor,
            run=lambda given: functional.pixel_shuffle(given[0], factor),
        )

    def _unshuffle(self, node: fx.Node, x: Layer, downscale_factor: int) -> Layer:
        factor = downscale_factor
        if x.height % factor or x.width % factor:
            raise NotByRowsError(f"{node.name} takes multiples of {factor} pixels")
        return self._add(
            node,
            Folded(x.height, x.height // factor, factor),
            [x],
            channels=x.channels * factor**2,
            width=x.width // factor,
            run=lambda given: functional.pixel_unshuffle(given[0], factor),
        )

    def _interpolate(self, node: fx.Node, x: Layer, *args: Any, **kwargs: Any) -> Layer:
        rows, width, run = interpolated(node.name, x, *args, **kwargs)
        return self._add(node, rows, [x], width=width, run=run)

    def _pointwise(
        self, node: fx.Node, call: Callable[..., Any], args: Any, kwargs: Any, *, in_place: bool
    ) -> Layer:
        sources: list[Layer] = []

        def place(x: Any) -> Any:
            if isinstance(x, Layer):
                sources.append(x)
                return _Place(len(sources) - 1)
            if isinstance(x, torch.Tensor) and x.numel() > 1 and x.shape[-2:] != (1, 1):
                raise NotByRowsError(f"{node.name} uses a tensor of shape {tuple(x.shape)}")
            return x

        placed, named = ([place(x) for x in args], {k: place(x) for k, x in kwargs.items()})
        sizes = {(each.height, each.width) for each in sources}
        if len(sizes) > 1:
            raise NotByRowsError(f"{node.name} takes pictures of several sizes")
        if in_place and (not isinstance(args[0], Layer) or args[0].part or not args[0].sources):
            raise NotByRowsError(f"{node.name} changes in place what is not its own")
        channels = {each.channels for each in sources} - {1}
        height = sources[0].height

        def run(given: Sequence[torch.Tensor]) -> torch.Tensor:
            made: torch.Tensor = call(
                *[given[x.number] if isinstance(x, _Place) else x for x in placed],
                **{k: given[x.number] if isinstance(x, _Place) else x for k, x in named.items()},
            )
            return made

        layer = self._add(
            node,
            Rows(height, height),
            sources,
            channels=max(channels, default=1),
            run=run,
            in_place=in_place,
        )
        numbers = [x for x in args if isinstance(x, (int, float))]
        if call in (operator.mul, torch.mul) and len(sources) == len(numbers) == 1 and not kwargs:
            layer.on_own = lambda given: given[0].mul_(numbers[0])
        if in_place:  # what reads it later, reads what has become of it
            for known, value in self._values.items():
                if value is args[0]:
                    self._values[known] = layer
        return layer

    def _finished(self, output: Layer) -> RowGraph:
        used: set[int] = set()
        waiting = [output]
        while waiting:
            layer = waiting.pop()
            if id(layer) not in used:
                used.add(id(layer))
                waiting += layer.sources
        if output is self._picture or id(self._picture) not in used:
            raise NotByRowsError("what it returns does not depend on the picture")
        layers = [each for each in self._layers if id(each) in used]
        layers, output = joined(layers, output)
        for layer in layers:
            if layer.run is not None or layer is output:
                for source in layer.sources:
                    for holder in source.holders():
                        if layer not in holder.users:
                            holder.users.append(layer)
        return RowGraph(layers, output, self._constants)


class _Place:
    """Stands for a source among a call's arguments."""

    def __init__(self, number: int) -> None:
        self.number = number


def _call_one(module: nn.Module) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    def run(given: Sequence[torch.Tensor]) -> torch.Tensor:
        made: torch.Tensor = module(given[0])
        return made

    return run


def _leaves(x: Any) -> list[Any]:
    if isinstance(x, dict):
        x = list(x.values())
    if isinstance(x, (list, tuple)):
        return [leaf for each in x for leaf in _leaves(each)]
    return [x]


def _has_layer(x: Any) -> bool:
    return any(isinstance(leaf, Layer) for leaf in _leaves(x))


def _has_tensor(x: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) for leaf in _leaves(x))
