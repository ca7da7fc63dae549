/* The C symbols that frameworks call. No exception crosses them. */
#ifndef VRAMX_H
#define VRAMX_H

#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* torch's pluggable allocator: cudaStream_t is passed as a pointer. Returns null where the memory
   cannot be had; vramx_last_failure then says why, for the calling thread. */
__attribute__((visibility("default"))) void* vramx_malloc(ssize_t size, int device, void* stream);
__attribute__((visibility("default"))) void vramx_free(void* pointer, ssize_t size, int device,
                                                       void* stream);
__attribute__((visibility("default"))) void vramx_record_stream(void* pointer, void* stream);
__attribute__((visibility("default"))) const char* vramx_last_failure(void);

/* ONNX Runtime's external allocator, which names no stream: its work must be on the default one.
   Null for no bytes, and where the memory cannot be had. */
__attribute__((visibility("default"))) void* vramx_ort_alloc(size_t size);
__attribute__((visibility("default"))) void vramx_ort_free(void* pointer);
/* Gives back memory in which nothing lives, of the session that serves the calling thread. */
__attribute__((visibility("default"))) void vramx_ort_empty_cache(void);

#ifdef __cplusplus
}
#endif

#endif
