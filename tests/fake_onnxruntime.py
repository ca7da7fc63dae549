"""As much of ONNX Runtime as vramx's door to it meets, on the stand-in driver's memory.

What its CUDA provider takes and refuses, and where it falls back to the CPU, follow onnxruntime
1.31's sources and what onnxruntime-gpu 1.31.1 did on a card.
"""

from __future__ import annotations

import ctypes
import types
from pathlib import Path
from typing import Any

MIB = 2**20
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

#: The options that the provider knows; any other is refused.
KNOWN = {
    "device_id", "has_user_compute_stream", "user_compute_stream", "gpu_mem_limit",
    "arena_extend_strategy", "cudnn_conv_algo_search", "do_copy_in_default_stream",
    "cudnn_conv_use_max_workspace", "gpu_external_alloc", "gpu_external_free",
    "gpu_external_empty_cache", "enable_cuda_graph", "cudnn_conv1d_pad_to_nc1d", "prefer_nhwc",
    "use_ep_level_unified_stream", "use_tf32", "sdpa_kernel", "fuse_conv_bias",
}  # fmt: skip


class EPFail(Exception):  # noqa: N818
    """Execution providers fail with this; onnxruntime falls back for it as a model runs."""


class NoSuchFile(Exception):  # noqa: N818
    """A model is not there: no RuntimeError, and nothing to fall back for."""


class Provider:
    """The CUDA provider, as far as it uses the options."""

    def __init__(self, options: dict[str, str]) -> None:
        for name, value in options.items():
            assert isinstance(value, str), "the native provider takes text"
            if name not in KNOWN:
                raise RuntimeError(f"provider_options_utils.h Unknown provider option: {name!r}.")
        external = all(f"gpu_external_{each}" in options for each in ("alloc", "free"))
        if external and int(options.get("user_compute_stream", "0")):
            raise RuntimeError(
                "cuda_execution_provider.cc CUDAExecutionProvider !(info.has_user_compute_stream "
                "&& info.external_allocator_info.UseExternalAllocator()) was false."
            )
        if options.get("device_id", "0") != "0":
            raise RuntimeError("CUDA failure 101: invalid device ordinal ; expr=cudaSetDevice")
        if external:
            self.alloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)(
                int(options["gpu_external_alloc"])
            )
            self.free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(options["gpu_external_free"]))
            self.empty_cache = ctypes.CFUNCTYPE(None)(int(options["gpu_external_empty_cache"]))

    def have(self, nbytes: int) -> int:
        address = self.alloc(nbytes)
        if address is None:
            raise EPFail("[ONNXRuntimeError] : 11 : EP_FAIL : Failed to allocate memory")
        return int(address)


class OnnxRuntime(types.ModuleType):
    """The package onnxruntime-gpu; a model is bytes that tell the size of its weights.

    Attributes
    ----------
    library_is_there : bool
        Whether the provider's library can be loaded; without it onnxruntime logs, and is content
        with the CPU.
    fault : Exception or None
        What the next run meets.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("onnxruntime")
        self.__file__ = str(folder / "onnxruntime" / "__init__.py")
        self.__version__ = "1.31.1"
        self.library_is_there = True
        self.fault: Exception | None = None
        runtime = self

        class InferenceSession(_InferenceSession):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(runtime, *args, **options)

        self.InferenceSession = InferenceSession

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", CUDA, CPU]


class _InferenceSession:
    def __init__(
        self,
        runtime: OnnxRuntime,
        model: bytes,
        sess_options: Any = None,
        providers: Any = None,
        **options: Any,
    ) -> None:
        self.runtime, self.sess_options = runtime, sess_options
        self.falls_back = int(options.get("enable_fallback", 1)) == 1
        self.provider: Provider | None = None
        self.weights: list[int] = []
        if model == b"missing":
            raise NoSuchFile("[ONNXRuntimeError] : 3 : NO_SUCHFILE : Load model failed")
        try:
            if runtime.library_is_there:
                self.provider = Provider(providers[0][1])
                self.weights.append(self.provider.have(int(model)))
        except (ValueError, RuntimeError) as error:
            if not self.falls_back:
                raise
            print(f"EP Error {error}\nFalling back to ['{CPU}'] and retrying.")
            self.provider, self.falls_back = None, False

    def get_providers(self) -> list[str]:
        return [CPU] if self.provider is None else [CUDA, CPU]

    def disable_fallback(self) -> None:
        self.falls_back = False

    def run(self, nbytes: int) -> str:
        """Have an activation and let it go, and tell who ran."""
        try:
            if self.provider is not None:
                self.provider.free(self.provider.have(nbytes))
            if self.runtime.fault is not None:
                raise self.runtime.fault
        except EPFail as error:
            if not self.falls_back:
                raise
            print(f"EP Error: {error}\nFalling back to ['{CPU}'] and retrying.")
            self.provider = None
        return self.get_providers()[0]

    def __del__(self) -> None:
        for address in self.weights:
            if self.provider is not None:
                self.provider.free(address)
