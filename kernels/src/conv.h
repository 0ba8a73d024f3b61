// Convolutions of one sample: windows overlap in memory, so a strided view of the input is the matrix, not a copy.
#pragma once
#include "curves.h"
#include "gemm.h"
#include "rates.h"

namespace fedthings {
namespace {

// Rows of windows times a kernel: for each output row one product over `tall` segments of K numbers.
// Part by part of the kernel, so that it stays in the cache while all rows go by.
INLINE void slide(Int rows, Int places, Int columns, Int tall, Int K, const float* A, Int step, Int down, Int segment,
                  const float* kernel, Int pitch, Result C, Int C_row) {
  bool small = tall * K * PANEL * 4 <= NEAR;
  Int parts = small ? 1 : (K * PANEL * 4 + NEAR - 1) / NEAR, part = (K + parts - 1) / parts;
  for (Int n = 0; n < columns; n += PANEL) {
    bool two = n + LANES < columns;
    Result c = C;
    c.at += n;
    if (c.bias) c.bias += n;
    if (small) {
      for (Int h = 0; h < rows; h++, c.at += C_row)
        panel(places, two, {A + h * down, step, segment}, {kernel + n, pitch, K * pitch}, tall, K, c);
      continue;
    }
    for (Int s = 0; s < tall; s++)
      for (Int k = 0; k < K; k += part) {
        Int some = K - k < part ? K - k : part;
        Result r = c;
        r.relu = C.relu && s + 1 == tall && k + some == K;
        if (s || k) r.start = Start::Sum;
        for (Int h = 0; h < rows; h++, r.at += C_row)
          panel(places, two, {A + h * down + s * segment + k, step, 0}, {kernel + (s * K + k) * pitch + n, pitch, 0},
                1, some, r);
      }
  }
}

void conv_forward(const Operation& op, const Work& work, Int b) {
  const Plane &x = op.x, &y = op.y;
  bool relu = op.curve == Curve::Relu;
  slide(op.out.height, op.out.width, op.columns, op.tall, op.wide * x.col, at(work, x, b), op.right * x.col, op.down * x.row, x.row,
        work.theta + op.weight, op.pitch, {to(work, y, b), y.col, Start::Bias, work.theta + op.bias, relu}, y.row);
  if (!relu && op.curve != Curve::Linear) bend(op, work, b);
}

// Before the weights change: their copy with the window turned around, inputs and filters exchanged.
void conv_turn(const Operation& op, const Work& work) {
  const Int filters = op.columns, wide = (op.in.channels + LANES - 1) / LANES * LANES;
  const Int window = op.tall * op.wide, channels = op.rows / window;
  for (Int q = 0; q < window; q++) {
    const float* from = work.theta + op.weight + q * channels * op.pitch;
    float* into = work.arena + op.copy + (window - 1 - q) * filters * wide;
    for (Int f = 0; f < filters; f++)
      for (Int c = 0; c < op.in.channels; c++) into[f * wide + c] = from[c * op.pitch + f];
  }
}

void conv_backward(const Operation& op, const Work& work, Int b, const Rates& rates) {
  unbend(op, work, b);
  const Plane &x = op.x, &d = op.dy;
  const Int filters = op.columns;
  const float* D = at(work, d, b);
  if (op.deep) {
    // Slopes stand a stride apart between zeros; the turned window slides over them.
    const Int row = d.row / op.down, wide = (op.in.channels + LANES - 1) / LANES * LANES;
    slide(op.in.height, op.in.width, wide, op.tall, op.wide * filters, at(work, op.around, b), filters, row, row,
          work.arena + op.copy, wide, {to(work, op.dx, b), op.dx.col, Start::Zero, nullptr, false}, op.dx.row);
  }
  float* aimed = aim(work, rates);
  const Int K = op.wide * x.col;
  for (Int s = 0; s < op.tall; s++) {
    float* part = aimed + op.weight + s * K * op.pitch;
    update(K, filters, op.out.height, op.out.width, {at(work, x, b) + s * x.row, op.right * x.col, op.down * x.row},
           {D, d.col, d.row}, {part, part, op.pitch});
  }
  for (Int h = 0; h < op.out.height; h++) down(op.out.width, filters, D + h * d.row, d.col, aimed + op.bias);
}

}  // namespace
}  // namespace fedthings
