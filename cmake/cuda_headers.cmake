# CUDA's and NVTX's headers, needed only to build: from the packages nvidia-cuda-runtime and
# nvidia-nvtx, else from a toolkit. Sets VRAMX_CUDA_INCLUDE and VRAMX_NVTX_INCLUDE.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import importlib.metadata as m; f = m.files('nvidia-cuda-runtime') or []; print(next((str(p.locate().parent) for p in f if p.name == 'cuda.h'), ''))"
  OUTPUT_VARIABLE vramx_packaged_cuda
  OUTPUT_STRIP_TRAILING_WHITESPACE
  ERROR_QUIET)
find_path(
  VRAMX_CUDA_INCLUDE cuda.h
  HINTS "${vramx_packaged_cuda}" ENV CUDA_PATH ENV CUDA_HOME
  PATHS /usr/local/cuda /opt/cuda
  PATH_SUFFIXES include targets/x86_64-linux/include REQUIRED)
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import importlib.metadata as m; f = m.files('nvidia-nvtx') or []; print(next((str(p.locate().parents[1]) for p in f if p.name == 'nvToolsExt.h'), ''))"
  OUTPUT_VARIABLE vramx_packaged_nvtx
  OUTPUT_STRIP_TRAILING_WHITESPACE
  ERROR_QUIET)
find_path(
  VRAMX_NVTX_INCLUDE nvtx3/nvToolsExt.h
  HINTS "${vramx_packaged_nvtx}" "${VRAMX_CUDA_INCLUDE}" REQUIRED)
message(STATUS "CUDA headers: ${VRAMX_CUDA_INCLUDE}")
