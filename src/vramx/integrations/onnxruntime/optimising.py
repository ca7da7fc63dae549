"""A model as onnxruntime has optimised it, once, with its weights apart from its graph.

Files of the optimised model have no names, so that nothing is left of them however the process
ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from onnxruntime.capi import onnxruntime_pybind11_state as native

from vramx.errors import ConfigError
from vramx.integrations.onnxruntime.choosing import Provider
from vramx.integrations.onnxruntime.provider import CUDA, require_cuda

#: Bytes below which an initializer stays in the graph: shapes, scalars, biases of a few channels.
SMALLEST = 1024
#: DLPack's code and bits of the types that weights have, by their numbers in TensorProto.DataType.
#: Whole numbers of more bits are shapes and places.
TYPES = {1: (2, 32), 2: (1, 8), 3: (0, 8), 10: (2, 16), 11: (2, 64), 16: (4, 16)}

_ERRORS = 3  # and worse, as onnxruntime counts
_EXTERNAL = 1  # TensorProto.DataLocation
_NOWHERE = "weights-in-the-session"
#: A model of one Identity: onnxruntime copies options when it makes a session with them.
_IDENTITY = bytes.fromhex(
    "08073a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a01"
    "79120a0a08080112040a02080142040a00100d"
)


@dataclass(frozen=True)
class Initializer:
    """A tensor of weights, and where its bytes are in the optimised model's file."""

    name: str
    sides: tuple[int, ...]
    type: int
    start: int
    nbytes: int


def copied_options(options: Any) -> Any:
    """Copy session options, which the program may use again.

    Libraries of operators that were registered with them are not copied.
    """
    return native.InferenceSession(options, _IDENTITY, False, False).session_options


def make_native(model: Any, options: Any, providers: Sequence[Provider], disabled: Any) -> Any:
    """Make onnxruntime's own session of a path, or of bytes."""
    made = native.InferenceSession(options, model, isinstance(model, str), False)
    names, own = zip(*((name, {k: str(v) for k, v in its.items()}) for name, its in providers))
    made.initialize_session(list(names), list(own), set(disabled or ()))
    if names[0] == CUDA:
        require_cuda(made)
    return made


def _set(options: Any, name: str, value: str) -> None:
    try:
        present = options.get_session_config_entry(name)
    except RuntimeError:  # there is none
        present = None
    if present != value:  # it warns of what is given twice
        options.add_session_config_entry(name, value)


def _check(model: str | bytes, options: Any) -> None:
    is_ort = model[4:8] == b"ORTM" if isinstance(model, bytes) else model.endswith(".ort")
    if is_ort:
        raise ConfigError(
            f"{'the model' if isinstance(model, bytes) else model} is in the ORT format, of which "
            "the weights cannot be told apart: give the .onnx that it was made of"
        )
    if options.optimized_model_filepath:
        raise ConfigError(
            "optimized_model_filepath cannot be had with a session's memory: vramx has the model "
            "optimised once and takes its weights out; leave it out"
        )


class OptimisedModel:
    """An optimised model, whose weights are in a file without a name until `close`.

    Parameters
    ----------
    model : str or bytes
        As onnxruntime reads it.
    options : onnxruntime.SessionOptions
        The program's.
    providers : sequence of (str, dict)
        What it is optimised for; the weights are those that the first one uses.
    disabled : iterable of str or None
        Optimisers to leave out.

    Attributes
    ----------
    weights : list of Initializer
        What of its initializers the first provider uses, and nobody else.
    content : mmap
        The file.

    Raises
    ------
    ConfigError
        If it cannot be had so.
    Exception
        What onnxruntime raises for a model that cannot be read.
    """

    def __init__(
        self, model: str | bytes, options: Any, providers: Sequence[Provider], disabled: Any
    ) -> None:
        import onnx

        _check(model, options)
        self._options = options
        self._providers = providers
        with contextlib.ExitStack() as opened:
            graph, self._file = (opened.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            self._optimise(model, graph, disabled)
            self._proto = onnx.load_model_from_string(graph.read())
            self.content: Any = b""
            if self._file.seek(0, os.SEEK_END):
                self.content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
                opened.push(self.content)
            _name_nodes(self._proto.graph)
            self._find_weights()
            graph.close()
            opened.pop_all()

    def _optimise(self, model: str | bytes, graph: IO[bytes], disabled: Any) -> None:
        options = copied_options(self._options)
        options.enable_profiling = False
        options.optimized_model_filepath = f"/proc/self/fd/{graph.fileno()}"
        options.log_severity_level = _ERRORS  # what it warns of is told once, by the last session
        for name, value in (
            ("file_name", str(self._file.fileno())),
            ("min_size_in_bytes", str(SMALLEST)),
        ):
            _set(options, f"session.optimized_model_external_initializers_{name}", value)
        make_native(model, options, self._providers, disabled)

    def close(self) -> None:
        """Let go of the file."""
        if self.content:
            self.content.close()
        self._file.close()

    def options(self) -> Any:
        """Make options with which its bytes are read as they are, while it is open."""
        from onnxruntime import GraphOptimizationLevel, OrtValue

        options = copied_options(self._options)
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        _set(options, "session.disable_prepacking", "1")
        # Zeros in the place of all weights, which take no memory while nobody reads them.
        self._zeros = [
            OrtValue.ortvalue_from_numpy_with_onnx_type(
                np.zeros(each.sides, f"u{TYPES[each.type][1] // 8}"), each.type
            )
            for each in self.weights
        ]
        options.add_external_initializers([each.name for each in self.weights], self._zeros)
        return options

    def graph(self) -> bytes:
        """Return the graph, in which weights have a name, a type and sides, and no bytes."""
        return bytes(self._proto.SerializeToString())

    def digest(self) -> bytes:
        """Return what tells its weights from others, by all of their bytes."""
        told = hashlib.blake2b(self.graph())
        told.update(self.content)
        return told.digest()

    def _find_weights(self) -> None:
        """Take the weights out of the graph, and put what else is in the file into it."""
        graphs = [*_graphs(self._proto.graph)]
        tensors = [each for graph in graphs for each in graph.initializer]
        names = Counter(each.name for each in tensors)
        outputs = {out.name for graph in graphs for out in graph.output}
        outside = [(each, _found(each)) for each in tensors if each.data_location == _EXTERNAL]
        # In graphs inside, onnxruntime looks for the file.
        can = {each.name for each in graphs[0].initializer} - outputs
        self.weights = []
        for tensor, found in outside:
            if found.type in TYPES and found.name in can and names[found.name] == 1:
                _point(tensor, found)
                self.weights.append(found)
            else:
                self._put_back(tensor, found)
        elsewhere = self._used_elsewhere() if self.weights else set()
        for tensor, found in outside:
            if found in self.weights and found.name in elsewhere:
                self._put_back(tensor, found)
                self.weights.remove(found)

    def _put_back(self, tensor: Any, found: Initializer) -> None:
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = self.content[found.start : found.start + found.nbytes]

    def _used_elsewhere(self) -> set[str]:
        """Tell which of the weights another provider uses, as on the CPU beside the card."""
        options = self.options()
        options.enable_profiling = False
        options.log_severity_level = _ERRORS
        _set(options, "session.record_ep_graph_assignment_info", "1")
        for each, zero in zip(self.weights, self._zeros):  # used in place, not on the card
            options.add_initializer(each.name, zero)
        made = make_native(self.graph(), options, self._providers, ())
        here = {
            node.name
            for part in made.get_provider_graph_assignment_info()
            if part.ep_name == self._providers[0][0]
            for node in part.get_nodes()
        }
        return {
            name
            for graph in _graphs(self._proto.graph)
            for node in graph.node
            if node.name not in here
            for name in node.input
        }


def _graphs(graph: Any) -> Iterator[Any]:
    """Go through a graph and those in its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs] if attribute.type in (5, 10) else ():
                yield from _graphs(inner)


def _name_nodes(graph: Any) -> None:
    """Give nodes names that tell them apart."""
    nodes = [node for each in _graphs(graph) for node in each.node]
    names = Counter(node.name for node in nodes)
    for number, node in enumerate(nodes):
        if not node.name or names[node.name] > 1:
            node.name = f"{node.name}_vramx_{number}"


def _found(tensor: Any) -> Initializer:
    said = {each.key: each.value for each in tensor.external_data}
    return Initializer(
        tensor.name,
        tuple(tensor.dims),
        tensor.data_type,
        int(said.get("offset", 0)),
        int(said["length"]),
    )


def _point(tensor: Any, found: Initializer) -> None:
    del tensor.external_data[:]
    for key, value in (("location", _NOWHERE), ("offset", "0"), ("length", str(found.nbytes))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
