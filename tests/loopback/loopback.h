/* A stand-in for NVIDIA's driver library, for tests on machines without a card.
 *
 * It exports the entry points that vramx looks up, under the same names, over host memory. Managed
 * memory has one address for both sides, as the real one has; what the stand-in keeps is where each
 * 2 MiB page lies: on the host, on cards, or on several. A fresh page counts as written by the
 * host. Physical memory is a file, so what is mapped is there and what is not faults. It is
 * stricter than the real driver: it refuses ranges that are not 2 MiB-aligned, dead handles,
 * calls that want a context and find none, events on streams of another context, destroying a
 * context that still has either, and freeing or unmapping memory that work in flight still names.
 * Work on a stream is carried out at any moment that its order allows: VRAMX_TEST_SEED says as soon
 * as may be ("earliest"), once something waits for it ("latest"), or at random moments (their
 * seed). What is given to a stream of the program's is carried out at once unless kernels wait
 * there: the processor does the program's work, and comes next. An entry point that the real driver
 * has and this one does not aborts with its name.
 *
 * These functions are for tests. They may be called from any thread at any time. */
#ifndef VRAMX_TESTS_LOOPBACK_H
#define VRAMX_TESTS_LOOPBACK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  uint64_t on_card;       /* bytes of pages on cards, and of mapped memory of theirs, now */
  uint64_t peak_on_card;  /* the most there were */
  uint64_t to_card;       /* bytes that prefetches and copies took to a card */
  uint64_t to_host;       /* bytes that they took back */
  uint64_t pageable;      /* bytes of both that copies took from or to memory that is not pinned */
  uint64_t faulted;       /* bytes that a card touched without having them or a mapping of them */
  uint64_t over_link;     /* bytes that a card read or wrote in place on the host */
  uint64_t managed;       /* bytes allocated and not freed */
  uint64_t mapped;        /* bytes of cards' physical memory that is mapped; on_card has them too */
  uint64_t card_memory;   /* bytes of physical memory of cards, mapped or not */
  uint64_t registered;    /* bytes of the program's memory that are pinned */
  uint64_t reserved;      /* bytes of reserved addresses */
  uint64_t live_events;   /* created and not destroyed */
  uint64_t live_streams;  /* created and not destroyed */
  uint64_t live_contexts; /* retained or created, and not released */
  uint64_t live_modules;  /* loaded and not unloaded */
} LoopbackCounts;

/* Of all work that nothing holds up, which is carried out first. */
void loopback_counts(LoopbackCounts* counts);
/* Forgets the peak: what is on cards now is the most there were. */
void loopback_reset_peak(void);
/* How often an entry point was called, failures included. */
uint64_t loopback_calls(const char* entry);

/* The `nth` call from now (1 is the next) of an entry point returns `result` and does nothing. */
void loopback_fail(const char* entry, uint64_t nth, int result);
/* Before the `nth` copy from now from the host to a card, a bit of what it reads flips there. */
void loopback_damage(uint64_t nth, uint64_t bit);
/* What the driver says of itself. The defaults: 13000, one card, 1, 1, 1, 8 GiB. */
void loopback_set_name(const char* name);
void loopback_set_version(int version);
void loopback_set_cards(int count);
/* Without concurrent access the real driver takes advice and prefetches for no device, and so does
 * this one; without managed memory, as on virtual GPUs, it allocates none. */
void loopback_set_concurrent_access(int value);
void loopback_set_managed_memory(int value);
void loopback_set_maps_memory(int value);
void loopback_set_uses_registered(int value);
void loopback_set_capacity(uint64_t bytes);
/* The host memory that can be pinned in all. No limit unless set. */
void loopback_set_pinnable(uint64_t bytes);
/* Whether copies may name host memory that is not pinned, as with the real driver: those to the
 * card read it when they are given, and those to the host return when it is written. Not so unless
 * set. */
void loopback_set_copies_pageable(int value);

/* Work on a stream waits until let_go. Streams are CUstream handles; 0 is the default stream. */
void loopback_hold(uintptr_t stream);
void loopback_let_go(uintptr_t stream);
/* A stream is the program's, as the default stream is. */
void loopback_set_programs(uintptr_t stream);
/* A kernel on `stream` that reads or writes bytes of a range, and calls nothing here. */
void loopback_launch(uintptr_t stream, uintptr_t address, uint64_t size, void (*work)(void*),
                     void* argument);
/* Carries out what a stream was given, as far as nothing holds it up. */
void loopback_finish(uintptr_t stream);
/* Whether a card's memory is mapped at an address, so that the card may use it. */
int loopback_maps(uintptr_t address);
/* A kernel on `stream` of card 0 that reads, or writes, whole pages of managed, mapped or pinned
 * memory. */
void loopback_touch(uintptr_t stream, uintptr_t address, uint64_t size, int write);

#ifdef __cplusplus
}
#endif

#endif
