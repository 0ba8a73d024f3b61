// Rows of a model: laid out for the products and back, summed in fixed point, searched for their largest number.
#pragma once
#include "simd.h"

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

// What came of training less what was received, both padded, and, where it is wanted, what came of it.
void change(const Plan& plan, const float* theta, const float* near, float* change, float* final) {
  for (Int s = 0; s < plan.parts; s++) {
    const Span& span = plan.spans[s];
    const float *from = theta + span.to, *less = near + span.to;
    Int i = span.from, rows = span.rows, width = span.width;
    if (width == span.pitch) width *= rows, rows = 1;
    for (Int r = 0; r < rows; r++, from += span.pitch, less += span.pitch, i += width) {
      for (Int c = 0; c < width; c++) change[i + c] = from[c] - less[c];
      if (final) memcpy(final + i, from, sizeof(float) * (size_t)width);
    }
  }
}

// limb += sum over rows of weight * rint(row * scale), as NumPy does it bit by bit.
void fold(const float* rows, Int pitch, Int n, Int dim, const Int* weights, double scale, Int* limb) {
  const Int BLOCK = 2048;
  const double magic = 6755399441055744.0;  // 1.5 * 2**52: adding it rounds to whole numbers in the low bits
  for (Int start = 0; start < dim; start += BLOCK) {
    const Int size = dim - start < BLOCK ? dim - start : BLOCK;
    uint64_t* total = (uint64_t*)limb + start;  // sums that wrap, as in NumPy
    for (Int i = 0; i < n; i++) {
      const float* row = rows + i * pitch + start;
      const uint64_t weight = (uint64_t)weights[i];
      int32_t most = 0;
      for (Int j = 0; j < size; j++) {
        int32_t bits;
        memcpy(&bits, row + j, 4);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
      }
      float largest;
      memcpy(&largest, &most, 4);
      if ((double)largest * scale < 1125899906842624.0) {  // 2**50: false for NaN
        for (Int j = 0; j < size; j++) {
          double shifted = (double)row[j] * scale + magic;
          uint64_t bits;
          memcpy(&bits, &shifted, 8);
          total[j] += weight * (bits - 0x4338000000000000u);
        }
      } else {
        for (Int j = 0; j < size; j++) {
          double fixed = __builtin_rint((double)row[j] * scale);
          Int whole = fixed >= -9223372036854775808.0 && fixed < 9223372036854775808.0 ? (Int)fixed : INT64_MIN;
          total[j] += weight * (uint64_t)whole;
        }
      }
    }
  }
}

// The largest absolute value of each row; NaN before infinity before numbers, as their bits are ordered.
void largest(const float* rows, Int pitch, Int n, Int dim, float* out) {
  for (Int i = 0; i < n; i++) {
    int32_t most = 0;
    const float* row = rows + i * pitch;
    for (Int j = 0; j < dim; j++) {
      int32_t bits;
      memcpy(&bits, row + j, 4);
      bits &= 0x7fffffff;
      most = bits > most ? bits : most;
    }
    memcpy(out + i, &most, 4);
  }
}

}  // namespace
}  // namespace fedthings
