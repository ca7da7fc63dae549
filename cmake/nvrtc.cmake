# The compiler of the card's kernels, needed only to build: from the package
# nvidia-cuda-nvrtc-cu12, else from another package or a toolkit. Sets VRAMX_NVRTC, which is empty
# where there is none: then the library has no kernels, and weights stay unpacked.
# -DVRAMX_NVRTC= builds without.
set(VRAMX_KERNELS_SCRIPT "${CMAKE_CURRENT_LIST_DIR}/kernels.py")
if(NOT DEFINED CACHE{VRAMX_NVRTC})
  execute_process(
    COMMAND "${Python_EXECUTABLE}" "${VRAMX_KERNELS_SCRIPT}" find
    OUTPUT_VARIABLE VRAMX_NVRTC
    OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
message(STATUS "NVRTC: ${VRAMX_NVRTC}")

# vramx_kernels(target nvrtc root source headers...) compiles a source below a root, which includes
# these headers and no others, and adds its PTX to the target: none where `nvrtc` is empty.
function(vramx_kernels target nvrtc root)
  set(output "${CMAKE_CURRENT_BINARY_DIR}/${target}_kernels.cpp")
  list(TRANSFORM ARGN PREPEND "${root}/" OUTPUT_VARIABLE files)
  add_custom_command(
    OUTPUT "${output}"
    COMMAND "${Python_EXECUTABLE}" "${VRAMX_KERNELS_SCRIPT}" compile "${nvrtc}" "${output}"
            "${root}" ${ARGN}
    DEPENDS "${VRAMX_KERNELS_SCRIPT}" ${files}
    COMMENT "Compiling the card's kernels for ${target}"
    VERBATIM)
  target_sources(${target} PRIVATE "${output}")
endfunction()
