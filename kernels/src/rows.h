// Rows of a model: laid out for the products and back, summed in fixed point, searched for their largest number.
#pragma once
#include "stream.h"

namespace fedthings {
namespace {

// A row `(dim,)` with each matrix's rows as long as whole vectors, zeros after.
void spread(const Plan& plan, const float* row, float* padded) {
  if (plan.holes) memset(padded, 0, sizeof(float) * (size_t)plan.padded);
  for (Int s = 0; s < plan.parts; s++) {
    const Span& span = plan.spans[s];
    const float* from = row + span.from;
    float* into = padded + span.to;
    if (span.width == span.pitch) {
      memcpy(into, from, sizeof(float) * (size_t)(span.rows * span.width));
      continue;
    }
    for (Int r = 0; r < span.rows; r++, from += span.width, into += span.pitch) {
      memcpy(into, from, sizeof(float) * (size_t)span.width);
      memset(into + span.width, 0, sizeof(float) * (size_t)(span.pitch - span.width));
    }
  }
}

// What came of training less what was received, both padded, and, where it is wanted, what came of it. `far`: nothing
// reads the change before the caches have had to give it up.
void change(const Plan& plan, const float* theta, const float* near, float* change, float* final, bool far) {
  Stream row(change);
  for (Int s = 0; s < plan.parts; s++) {
    const Span& span = plan.spans[s];
    const float *from = theta + span.to, *less = near + span.to;
    Int i = span.from, rows = span.rows, width = span.width;
    if (width == span.pitch) width *= rows, rows = 1;
    for (Int r = 0; r < rows; r++, from += span.pitch, less += span.pitch, i += width) {
      if (far) row.put(from, less, width);
      else
        for (Int c = 0; c < width; c++) change[i + c] = from[c] - less[c];
      if (final) memcpy(final + i, from, sizeof(float) * (size_t)width);
    }
  }
  if (far) row.end();
}

// total += rint(row * scale), in whole numbers that wrap, as NumPy does it bit by bit. Returns the bits of the largest.
// `next` will be read soon (where products are slower than memory it gains nothing to say so).
int32_t add(const float* row, const float* next, Int size, double scale, uint64_t* total) {
  const double magic = 6755399441055744.0;  // 1.5 * 2**52: adding it rounds to whole numbers in the low bits
  int32_t most = 0;
  Int j = 0;
#if LANES == 16
  const float times = (float)scale;
  if (times >= 0x1p-126f && times <= 0x1p127f) {  // a product with it is exact, or rounds to 0, or is out of range
    I largest{};
    for (; j + LANES <= size; j += LANES) {
      V x = load(row + j);
      __builtin_prefetch(next + j);
      I bits = (I)x & 0x7fffffff;
      largest = bits > largest ? bits : largest;
      const __m512 y = (__m512)(x * times);
      for (int half = 0; half < 2; half++) {
        const __m256 some = half ? _mm512_extractf32x8_ps(y, 1) : _mm512_castps512_ps256(y);
        uint64_t* into = total + j + half * LANES / 2;
        _mm512_storeu_si512(into, _mm512_add_epi64(_mm512_loadu_si512(into), _mm512_cvtps_epi64(some)));
      }
    }
    UNROLL for (int i = 0; i < LANES; i++) most = largest[i] > most ? largest[i] : most;
  }
#else
  (void)next;
#endif
  for (Int i = j; i < size; i++) {
    int32_t bits;
    memcpy(&bits, row + i, 4);
    bits &= 0x7fffffff;
    most = bits > most ? bits : most;
  }
  float largest;
  memcpy(&largest, &most, 4);
  if ((double)largest * scale < 1125899906842624.0) {  // 2**50: false for NaN
    for (; j < size; j++) {
      double shifted = (double)row[j] * scale + magic;
      uint64_t bits;
      memcpy(&bits, &shifted, 8);
      total[j] += bits - 0x4338000000000000u;
    }
  } else {
    for (; j < size; j++) {
      double fixed = __builtin_rint((double)row[j] * scale);
      Int whole = fixed >= -9223372036854775808.0 && fixed < 9223372036854775808.0 ? (Int)fixed : INT64_MIN;
      total[j] += (uint64_t)whole;
    }
  }
  return most;
}

// limb += sum over rows of weight * rint(row * scale): a product for each run of equal weights, not for each row.
// `largest` gets the bits of the largest absolute value of each row, where they are more than what is there.
void fold(const float* rows, Int pitch, Int n, Int dim, const Int* weights, double scale, Int* limb, int32_t* largest) {
  const Int BLOCK = 512, AHEAD = 4;  // numbers of a row; rows between what is asked for and what is read
  uint64_t sum[BLOCK] __attribute__((aligned(64)));
  for (Int start = 0; start < dim; start += BLOCK) {
    const Int size = dim - start < BLOCK ? dim - start : BLOCK;
    uint64_t* total = (uint64_t*)limb + start;
    for (Int i = 0; i < n;) {
      const uint64_t weight = (uint64_t)weights[i];
      memset(sum, 0, sizeof(uint64_t) * (size_t)size);
      for (; i < n && (uint64_t)weights[i] == weight; i++) {
        const Int next = i + AHEAD < n ? i + AHEAD : i;
        const int32_t most = add(rows + i * pitch + start, rows + next * pitch + start, size, scale, sum);
        largest[i] = most > largest[i] ? most : largest[i];
      }
      for (Int j = 0; j < size; j++) total[j] += weight * sum[j];
    }
  }
}

}  // namespace
}  // namespace fedthings
