// Pooling of one sample; the largest remembers which cell of its window it was.
#pragma once
#include "curves.h"

namespace fedthings {
namespace {

// Numbers of cells to what is kept of them, and back: GCC turns a vector into one of another size number by number.
template <class Index>
INLINE void keep(I which, Index* kept) {
#if LANES == 16
  if constexpr (sizeof(Index) == 1) return _mm_storeu_si128((__m128i*)kept, _mm512_cvtepi32_epi8((__m512i)which));
#endif
  UNROLL for (int i = 0; i < LANES; i++) kept[i] = (Index)which[i];
}

template <class Index>
INLINE I cells_of(const Index* kept) {
#if LANES == 16
  if constexpr (sizeof(Index) == 1) return (I)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)kept));
#elif LANES == 8
  if constexpr (sizeof(Index) == 1) return (I)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)kept));
#endif
  I which;
  UNROLL for (int i = 0; i < LANES; i++) which[i] = kept[i];
  return which;
}

// `Index` counts cells; its largest value says that no cell has a slope (relu before was closed).
template <class Index>
void largest_forward(const Operation& op, const Work& work, Int b) {
  const float* x = at(work, op.x, b);
  float* y = to(work, op.y, b);
  Index* kept = (Index*)(work.arena + op.kept + b * op.keeps);
  const Int C = op.out.channels, cells = op.tall * op.wide;
  const int32_t closed = (Index)-1;
  for (Int h = 0; h < op.out.height; h++)
    for (Int w = 0; w < op.out.width; w++, kept += C) {
      const float* p = x + h * op.down * op.x.row + w * op.right * op.x.col;
      float* to = y + h * op.y.row + w * op.y.col;
      Int c = 0;
      for (; c + LANES <= C; c += LANES) {
        V top = load(p + c);
        I which = I{};
        int32_t q = 1;
        for (Int i = 0; i < op.tall; i++)
          for (Int j = i == 0; j < op.wide; j++, q++) {
            V z = load(p + i * op.x.row + j * op.x.col + c);
            I more = (z > top) | (z != z);  // NaN stays
            top = choose(more, z, top);
            which = (more & q) | (~more & which);
          }
        if (op.masked) which |= (top <= 0.0f) & closed;
        keep(which, kept + c);
        store(to + c, top);
      }
      for (; c < C; c++) {
        float top = p[c];
        Int which = 0;
        for (Int q = 1; q < cells; q++) {
          float z = p[q / op.wide * op.x.row + q % op.wide * op.x.col + c];
          if (z > top || z != z) top = z, which = q;
        }
        kept[c] = (Index)(op.masked && top <= 0 ? closed : which);
        to[c] = top;
      }
    }
}

template <class Index>
void largest_backward(const Operation& op, const Work& work, Int b, bool apart) {
  const float* dy = at(work, op.dy, b);
  float* dx = to(work, op.dx, b);
  const Index* kept = (const Index*)(work.arena + op.kept + b * op.keeps);
  const Int C = op.out.channels;
  for (Int h = 0; h < op.out.height; h++)
    for (Int w = 0; w < op.out.width; w++, kept += C) {
      float* p = dx + h * op.down * op.dx.row + w * op.right * op.dx.col;
      const float* from = dy + h * op.dy.row + w * op.dy.col;
      Int c = 0;
      for (; c + LANES <= C; c += LANES) {
        const I which = cells_of(kept + c);
        V d = load(from + c);
        int32_t q = 0;
        for (Int i = 0; i < op.tall; i++)
          for (Int j = 0; j < op.wide; j++, q++) {
            float* cell = p + i * op.dx.row + j * op.dx.col + c;
            V part = (V)((which == q) & (I)d);
            store(cell, apart ? part : load(cell) + part);
          }
      }
      for (; c < C; c++) {
        Int q = 0;
        for (Int i = 0; i < op.tall; i++)
          for (Int j = 0; j < op.wide; j++, q++) {
            float* cell = p + i * op.dx.row + j * op.dx.col + c;
            float part = kept[c] == q ? from[c] : 0;
            *cell = apart ? part : *cell + part;
          }
      }
    }
}

void mean_forward(const Operation& op, const Work& work, Int b) {
  const float* x = at(work, op.x, b);
  float* y = to(work, op.y, b);
  const float cells = (float)(op.tall * op.wide);
  for (Int h = 0; h < op.out.height; h++)
    for (Int w = 0; w < op.out.width; w++) {
      const float* p = x + h * op.down * op.x.row + w * op.right * op.x.col;
      float* to = y + h * op.y.row + w * op.y.col;
      for (Int c = 0; c < op.out.channels; c++) to[c] = p[c];
      for (Int q = 1; q < op.tall * op.wide; q++) {
        const float* cell = p + q / op.wide * op.x.row + q % op.wide * op.x.col;
        for (Int c = 0; c < op.out.channels; c++) to[c] += cell[c];
      }
      for (Int c = 0; c < op.out.channels; c++) to[c] /= cells;
    }
}

void mean_backward(const Operation& op, const Work& work, Int b) {
  const float* dy = at(work, op.dy, b);
  float* dx = to(work, op.dx, b);
  const float cells = (float)(op.tall * op.wide);
  for (Int h = 0; h < op.out.height; h++)
    for (Int w = 0; w < op.out.width; w++) {
      float* p = dx + h * op.down * op.dx.row + w * op.right * op.dx.col;
      const float* from = dy + h * op.dy.row + w * op.dy.col;
      for (Int q = 0; q < op.tall * op.wide; q++) {
        float* cell = p + q / op.wide * op.dx.row + q % op.wide * op.dx.col;
        for (Int c = 0; c < op.out.channels; c++) cell[c] += from[c] / cells;
      }
    }
}

void pool_forward(const Operation& op, const Work& work, Int b) {
  if (op.kind == Kind::AvgPool) return mean_forward(op, work, b);
  if (op.tall * op.wide < 255) largest_forward<uint8_t>(op, work, b);
  else largest_forward<uint16_t>(op, work, b);
}

void pool_backward(const Operation& op, const Work& work, Int b) {
  // Windows that tile the input write each place once.
  bool apart = op.kind == Kind::MaxPool && op.right == op.wide && op.down == op.tall &&
               op.out.width * op.wide == op.in.width && op.out.height * op.tall == op.in.height;
  if (!apart) {
    float* dx = to(work, op.dx, b);
    runs(op.in, op.dx, op.dx, true, [=](Int i, Int, Int n) { memset(dx + i, 0, sizeof(float) * (size_t)n); });
  }
  if (op.kind == Kind::AvgPool) return mean_backward(op, work, b);
  if (op.tall * op.wide < 255) largest_backward<uint8_t>(op, work, b, apart);
  else largest_backward<uint16_t>(op, work, b, apart);
}

}  // namespace
}  // namespace fedthings
