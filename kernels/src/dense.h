// Dense layers on a whole batch.
#pragma once
#include "curves.h"
#include "gemm.h"
#include "rates.h"

namespace fedthings {
namespace {

FLAT void dense_forward(const Operation& op, const Work& work, Int B) {
  bool relu = op.curve == Curve::Relu;
  product(B, op.columns, op.rows, {at(work, op.x, 0), op.x.sample, 0}, {work.read + op.weight, op.pitch, 0},
          {to(work, op.y, 0), op.y.sample, Start::Bias, work.read + op.bias, relu});
  if (!relu && op.curve != Curve::Linear)
    for (Int b = 0; b < B; b++) bend(op, work, b);
}

void dense_bias(const Operation& op, const Work& work, Int B, const Rates& rates) {
  relax(work, rates, op.bias, op.columns);
  if (work.read != work.theta) memcpy(work.theta + op.bias, work.read + op.bias, sizeof(float) * (size_t)op.columns);
  down(B, op.columns, at(work, op.dy, 0), op.dy.sample, aim(work, rates) + op.bias);
}

FLAT void dense_backward(const Operation& op, const Work& work, Int B, const Rates& rates) {
  for (Int b = 0; b < B; b++) unbend(op, work, b);
  float* aimed = aim(work, rates);
  const float* X = at(work, op.x, 0);
  const float* D = at(work, op.dy, 0);
  // A block of rows serves the slope by the input and is then changed while it is in the cache.
  const Int block = op.deep ? 2 * SHORTER : op.rows;
  for (Int i = 0; i < op.rows; i += block) {
    Int some = op.rows - i < block ? op.rows - i : block;
    Int from = op.weight + i * op.pitch;
    if (op.deep)
      transposed(B, some, op.columns, D, op.dy.sample, work.read + from, op.pitch, to(work, op.dx, 0) + i, op.dx.sample);
    relax(work, rates, from, some * op.pitch);
    update(some, op.columns, 1, B, {X + i, op.x.sample, 0}, {D, op.dy.sample, 0},
           {aimed + from, (work.read == work.theta ? aimed : work.read) + from, op.pitch});
  }
  dense_bias(op, work, B, rates);
}

}  // namespace
}  // namespace fedthings
