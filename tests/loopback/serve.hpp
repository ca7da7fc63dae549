// How an entry point is served: counted, failed where a test asked for that, checked, under the
// lock.
#pragma once

#include <cuda.h>

#include <utility>

#include "state.hpp"

namespace loopback {

using Lock = std::unique_lock<std::mutex>;

inline thread_local std::vector<CUcontext> contexts;

inline std::uintptr_t number(const void* handle) {
  return reinterpret_cast<std::uintptr_t>(handle);
}

// A card's primary context is its number plus one.
inline CUcontext context_of(int card) {
  return reinterpret_cast<CUcontext>(static_cast<std::uintptr_t>(card) + 1);
}

inline bool is_card(const State& s, int card) { return card >= 0 && card < s.cards; }

inline bool is_live(const State& s, CUcontext context) {
  const std::uintptr_t card = number(context) - 1;
  return (card < most_cards && s.retained[card] > 0) ||
         s.created_contexts.count(number(context)) > 0;
}

inline bool has_context(const State& s) { return !contexts.empty() && is_live(s, contexts.back()); }

inline Stream* find(State& s, CUstream stream) {
  const auto it = s.streams.find(number(stream));
  return it == s.streams.end() ? nullptr : &it->second;
}

// Counts the call, fails it where a test asked for that, and serves it under the lock.
template <class Body>
CUresult serve(const char* entry, const Body& body) {
  State& s = state();
  Lock lock(s.mutex);
  ++s.calls[entry];
  if (const auto it = s.failing.find(entry); it != s.failing.end() && --it->second.first == 0) {
    const int result = it->second.second;
    s.failing.erase(it);
    return static_cast<CUresult>(result);
  }
  return body(s, lock);
}

template <class Body>
CUresult serve_initialised(const char* entry, const Body& body) {
  return serve(entry, [&](State& s, Lock& lock) {
    return s.initialised ? body(s, lock) : CUDA_ERROR_NOT_INITIALIZED;
  });
}

// For calls that act on the current context; a stream of one's own brings its context along.
template <class Body>
CUresult serve_current(const char* entry, const Body& body, CUstream stream = nullptr) {
  return serve_initialised(entry, [&](State& s, Lock& lock) {
    if (stream == nullptr && !has_context(s)) return CUDA_ERROR_INVALID_CONTEXT;
    return body(s, lock);
  });
}

}  // namespace loopback
