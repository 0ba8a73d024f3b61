// Matrix products on strided views: a tile of sums stays in registers while the products go by.
#pragma once
#include "simd.h"

namespace fedthings {
namespace {

// What a tile begins with: nothing, a bias for each column, or what is there already.
enum class Start { Zero, Bias, Sum };

// A(m, k) of segment s lies at at[m*row + k + s*segment].
struct Left {
  const float* at;
  Int row, segment;
};

// B(k, n) of segment s lies at at[k*row + s*segment + n]; n counts whole vectors.
struct Right {
  const float* at;
  Int row, segment;
};

struct Result {
  float* at;
  Int row;
  Start start;
  const float* bias;
  bool relu;
};

// C += sum over segments and k of A(m, k) B(k, n), for M rows and N vectors of columns.
template <int M, int N>
__attribute__((noinline)) void tile(const Left& A, const Right& B, Int segments, Int K, const Result& C) {
  V acc[M][N];
  if (C.start == Start::Sum) {
    UNROLL for (int m = 0; m < M; m++)
      UNROLL for (int n = 0; n < N; n++) acc[m][n] = load(C.at + m * C.row + n * LANES);
  } else {
    UNROLL for (int n = 0; n < N; n++) {
      V begin = C.start == Start::Bias ? load(C.bias + n * LANES) : V{};
      UNROLL for (int m = 0; m < M; m++) acc[m][n] = begin;
    }
  }
  // Three rows share a pointer, which the compiler may not take apart again: one each would be more than there are
  // registers, and the way to them and back is that of the products.
  const Int GROUPS = (M + 2) / 3, ar = A.row, br = B.row;
  for (Int s = 0; s < segments; s++) {
    const float* a[GROUPS];
    UNROLL for (int g = 0; g < GROUPS; g++) a[g] = A.at + s * A.segment + 3 * g * ar;
    const float* b = B.at + s * B.segment;
    for (Int k = 0; k < K; k++, b += br) {
      V v[N];
      UNROLL for (int n = 0; n < N; n++) {
        v[n] = load(b + n * LANES);
        __builtin_prefetch(b + 8 * br + n * LANES);
      }
      UNROLL for (int m = 0; m < M; m++) {
        float x = a[m / 3][m % 3 * ar];
        UNROLL for (int n = 0; n < N; n++) acc[m][n] += x * v[n];
      }
      UNROLL for (int g = 0; g < GROUPS; g++) {
        a[g]++;
        asm("" : "+r"(a[g]));
      }
    }
  }
  // The place is read before the first store: the compiler must take it that a store might change it.
  float* into = C.at;
  const Int row = C.row;
  if (C.relu)
    UNROLL for (int m = 0; m < M; m++)
      UNROLL for (int n = 0; n < N; n++) acc[m][n] = choose(acc[m][n] < 0.0f, V{}, acc[m][n]);  // NaN stays
  UNROLL for (int m = 0; m < M; m++, into += row)
    UNROLL for (int n = 0; n < N; n++) store(into + n * LANES, acc[m][n]);
}

#if TALLEST > 10
#define EVERY_HEIGHT ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14)
#elif TALLEST > 6
#define EVERY_HEIGHT ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10)
#else
#define EVERY_HEIGHT ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6)
#endif

template <int N>
INLINE void tiles(int m, const Left& A, const Right& B, Int segments, Int K, const Result& C) {
#define ROWS(M) case M: tile<M, N>(A, B, segments, K, C); return;
  switch (m) {
    EVERY_HEIGHT
  }
#undef ROWS
}

const Int PANEL = 2 * LANES;

// One panel of columns, one or two vectors wide: as few tiles as can be, as even as can be.
INLINE void panel(Int M, bool two, Left A, const Right& B, Int segments, Int K, Result C) {
  Int count = (M + TALLEST - 1) / TALLEST;
  for (Int t = 0; t < count; t++) {
    Int m = (M + count - t - 1) / (count - t);
    if (two) tiles<2>((int)m, A, B, segments, K, C);
    else tiles<1>((int)m, A, B, segments, K, C);
    A.at += m * A.row;
    C.at += m * C.row;
    M -= m;
  }
}

const Int NEAR = 24 << 10;  // bytes of B that stay in the first cache

// C (M x columns); panels of columns outside, and where several tiles share them parts of K that stay in the cache.
void product(Int M, Int columns, Int K, const Left& A, const Right& B, const Result& C) {
  Int part = K;
  if (M > TALLEST && K * PANEL * 4 > NEAR) {
    Int most = NEAR / (PANEL * 4), count = (K + most - 1) / most;
    part = (K + count - 1) / count;
  }
  for (Int k = 0; k < K; k += part)
    for (Int n = 0; n < columns; n += PANEL) {
      Int some = K - k < part ? K - k : part;
      Left a = A;
      a.at += k;
      Right b = B;
      b.at += k * B.row + n;
      Result c = C;
      c.at += n;
      if (c.bias) c.bias += n;
      if (k) c.start = Start::Sum;
      c.relu = C.relu && k + some == K;
      panel(M, n + LANES < columns, a, b, 1, some, c);
    }
}

// The slope by a matrix of weights: C += sum over segments and k of A(k, m) B(k, n), where A(k, m) lies at
// at[k*row + s*segment + m], as B does. What there is already lies at `from`.
struct Slope {
  float* at;
  const float* from;
  Int row;
};

// Of N vectors of columns, `count` tiles of M rows, one below the other: few k make a tile short, and a call for each
// would cost as much as half of it. What is there is added at the end: a tile that began with it would have to wait for
// the stores of the one before.
template <int M, int N>
__attribute__((noinline)) void strip(const Right& A, const Right& B, Int segments, Int K, const Slope& C, Int count) {
  const float *left = A.at, *from = C.from;
  float* into = C.at;
  const Int ar = A.row, br = B.row, row = C.row;
  for (; count > 0; count--, left += M) {
    V acc[M][N];
    UNROLL for (int m = 0; m < M; m++)
      UNROLL for (int n = 0; n < N; n++) acc[m][n] = V{};
    for (Int s = 0; s < segments; s++) {
      const float* a = left + s * A.segment;
      const float* b = B.at + s * B.segment;
      for (Int k = 0; k < K; k++, a += ar, b += br) {
        V v[N];
        UNROLL for (int n = 0; n < N; n++) v[n] = load(b + n * LANES);
        UNROLL for (int m = 0; m < M; m++) {
          float x = a[m];
          UNROLL for (int n = 0; n < N; n++) acc[m][n] += x * v[n];
        }
      }
    }
    UNROLL for (int m = 0; m < M; m++, into += row, from += row)
      UNROLL for (int n = 0; n < N; n++) store(into + n * LANES, load(from + n * LANES) + acc[m][n]);
  }
}

template <int N>
INLINE void strips(Int m, const Right& A, const Right& B, Int segments, Int K, const Slope& C, Int count) {
#define ROWS(M) case M: strip<M, N>(A, B, segments, K, C, count); return;
  switch (m) {
    EVERY_HEIGHT
  }
#undef ROWS
}

// Block by block of rows, so that A and B stay in the cache; tiles as few as can be and as even as can be.
void update(Int M, Int columns, Int segments, Int K, Right A, const Right& B, Slope C) {
  const Int block = 8 * SHORTER;
  for (; M > 0; M -= block) {
    const Int rows = M < block ? M : block, count = (rows + SHORTER - 1) / SHORTER, least = rows / count, taller = rows % count;
    for (Int n = 0; n < columns; n += PANEL) {
      Right a = A, b = B;
      b.at += n;
      Slope c{C.at + n, C.from + n, C.row};
      for (Int up = 1; up >= 0; up--) {
        const Int m = least + up, some = up ? taller : count - taller;
        if (!some) continue;
        if (n + LANES < columns) strips<2>(m, a, b, segments, K, c, some);
        else strips<1>(m, a, b, segments, K, c, some);
        a.at += some * m;
        c.at += some * m * C.row;
        c.from += some * m * C.row;
      }
    }
    A.at += rows;
    C.at += rows * C.row;
    C.from += rows * C.row;
  }
}

// X(b, i) = sum over o of D(b, o) W(i, o): tiles of dot products, four rows of W and a few samples.
template <int T, int S>
__attribute__((noinline)) void dots(const float* D, Int dr, const float* W, Int wr, Int columns, float* X, Int xr) {
  V acc[S][T];
  UNROLL for (int s = 0; s < S; s++)
    UNROLL for (int t = 0; t < T; t++) acc[s][t] = V{};
  for (Int o = 0; o < columns; o += LANES) {
    V w[T];
    UNROLL for (int t = 0; t < T; t++) w[t] = load(W + t * wr + o);
    UNROLL for (int s = 0; s < S; s++) {
      V d = load(D + s * dr + o);
      UNROLL for (int t = 0; t < T; t++) acc[s][t] += d * w[t];
    }
  }
  UNROLL for (int s = 0; s < S; s++) {
    if constexpr (T == 4) sums(acc[s][0], acc[s][1], acc[s][2], acc[s][3], X + s * xr);
    else X[s * xr] = sum(acc[s][0]);
  }
}

template <int T>
INLINE void samples(int s, const float* D, Int dr, const float* W, Int wr, Int columns, float* X, Int xr) {
  switch (s) {
    case 1: dots<T, 1>(D, dr, W, wr, columns, X, xr); return;
    case 2: dots<T, 2>(D, dr, W, wr, columns, X, xr); return;
#if DEEPEST > 2
    case 3: dots<T, 3>(D, dr, W, wr, columns, X, xr); return;
    case 4: dots<T, 4>(D, dr, W, wr, columns, X, xr); return;
#endif
#if DEEPEST > 4
    case 5: dots<T, 5>(D, dr, W, wr, columns, X, xr); return;
#endif
  }
}

void transposed(Int B, Int rows, Int columns, const float* D, Int dr, const float* W, Int wr, float* X, Int xr) {
  Int groups = (B + DEEPEST - 1) / DEEPEST;
  Int i = 0;
  while (i < rows) {
    bool four = i + 4 <= rows;
    Int left = B;
    const float* d = D;
    float* x = X + i;
    for (Int g = 0; g < groups; g++) {
      Int s = (left + groups - g - 1) / (groups - g);
      if (four) samples<4>((int)s, d, dr, W + i * wr, wr, columns, x, xr);
      else samples<1>((int)s, d, dr, W + i * wr, wr, columns, x, xr);
      d += s * dr;
      x += s * xr;
      left -= s;
    }
    i += four ? 4 : 1;
  }
}

}  // namespace
}  // namespace fedthings
