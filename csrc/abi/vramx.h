/* The C symbols that frameworks call. No exception crosses them. */
#ifndef VRAMX_H
#define VRAMX_H

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

#ifdef __cplusplus
}
#endif

#endif
