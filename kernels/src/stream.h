// A row written past the caches: what is larger than they are need not be read into them first, to be written over.
#pragma once
#include "simd.h"

namespace fedthings {
namespace {

// `into` is aligned and n counts whole vectors. Without an instruction for it, it is a copy like any other.
INLINE void pass(float* into, const float* from, Int n) {
  for (Int i = 0; i < n; i += LANES) {
#if LANES == 16
    _mm512_stream_ps(into + i, (__m512)load(from + i));
#elif LANES == 8
    _mm256_stream_ps(into + i, (__m256)load(from + i));
#elif defined(__SSE__)
    _mm_stream_ps(into + i, (__m128)load(from + i));
#else
    store(into + i, load(from + i));
#endif
  }
}

// Numbers on their way to a row, gathered to whole lines of the cache; the row's two ends may share theirs with others.
class Stream {
 public:
  explicit Stream(float* row) : at_(row), head_((LINE - (Int)((uintptr_t)row / sizeof(float)) % LINE) % LINE) {}

  // Put a - b, n numbers, behind what came before.
  INLINE void put(const float* a, const float* b, Int n) {
    while (n > 0) {
      const Int room = PIECE - held_, some = n < room ? n : room;
      for (Int i = 0; i < some; i++) piece_[held_ + i] = a[i] - b[i];
      held_ += some;
      a += some;
      b += some;
      n -= some;
      if (held_ == PIECE) drain();
    }
  }

  void end() {
    drain();
#if defined(__SSE__)
    _mm_sfence();  // before another thread reads the row
#endif
  }

 private:
  static const Int LINE = 16, PIECE = 1024;

  // Write what is held. A piece is as long as some lines, so that all begin at the same place within one.
  void drain() {
    const Int head = head_ < held_ ? head_ : held_, whole = (held_ - head) / LINE * LINE;
    memcpy(at_, piece_, sizeof(float) * (size_t)head);
    pass(at_ + head, piece_ + head, whole);
    memcpy(at_ + head + whole, piece_ + head + whole, sizeof(float) * (size_t)(held_ - head - whole));
    at_ += held_;
    held_ = 0;
  }

  float* at_;
  Int head_;  // numbers before the first line that is the row's alone
  Int held_ = 0;
  float piece_[PIECE] __attribute__((aligned(64)));
};

}  // namespace
}  // namespace fedthings
