# CUDA's headers, needed only to build: from the package nvidia-cuda-runtime, else from a toolkit.
# Sets VRAMX_CUDA_INCLUDE.
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
message(STATUS "CUDA headers: ${VRAMX_CUDA_INCLUDE}")
