// A row written past the caches: what is larger than they are need not be read into them first, to be written over.
#pragma once
#include "simd.h"

namespace fedthings {
namespace {

const Int LINE = 16;  // numbers in a line of the cache

// Write a line past the caches, to an aligned place. Without an instruction for it, it is a copy like any other.
INLINE void pass(float* into, const float* from) {
  UNROLL for (int i = 0; i < LINE; i += LANES) {
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

  // Put a - b, n numbers, behind what came before. A line from the last of them on may be read (`ROOM`).
  INLINE void put(const float* a, const float* b, Int n) {
    for (; head_ && n; head_--, n--) *at_++ = *a++ - *b++;
    if (held_) {
      less(a, b, held_);
      const Int some = LINE - held_;
      if (n < some) {
        held_ += n;
        return;
      }
      drain();
      a += some;
      b += some;
      n -= some;
    }
    for (; n >= LINE; n -= LINE, a += LINE, b += LINE) {
      less(a, b, 0);
      drain();
    }
    if (n) less(a, b, 0);
    held_ = n;
  }

  void end() {
    memcpy(at_, line_, sizeof(float) * (size_t)held_);
#if defined(__SSE__)
    _mm_sfence();  // before another thread reads the row
#endif
  }

 private:
  INLINE void less(const float* a, const float* b, Int from) {
    UNROLL for (int i = 0; i < LINE; i += LANES) store(line_ + from + i, load(a + i) - load(b + i));
  }
  INLINE void drain() {
    pass(at_, line_);
    at_ += LINE;
    held_ = 0;
  }

  float* at_;
  Int head_;  // numbers before the first line that is the row's alone
  Int held_ = 0;
  float line_[2 * LINE] __attribute__((aligned(64)));  // what is held of a line, and room behind it
};

}  // namespace
}  // namespace fedthings
