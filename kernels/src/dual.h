// The first dense layer in dual form: its weights stay W, as they were received, and what training has changed is X^T A,
// with a row of A for each of the device's samples X. X (W + X^T A) = X W + (X X^T) A: the first product is made once for
// all samples, and a step needs only products of samples with each other. The steps are the same (Schoelkopf et al. 2001,
// "A generalized representer theorem"), and where a few samples are gone through several times they take fewer
// operations (`in_dual` in train.cpp). X is `work.input`, W `near`; A are the `slopes`, X W the `values` and X X^T the
// `products` of `plan.dual`. Samples whose squares add up beyond float32 diverge, whatever the weights.
#pragma once
#include "dense.h"

namespace fedthings {
namespace {

INLINE const Operation& front(const Plan& plan) { return plan.operations[plan.first]; }

// Before the first step: `work.input` are all samples.
void dual_products(const Plan& plan, const Work& work) {
  const Operation& op = front(plan);
  const Dual& dual = plan.dual;
  const Int n = work.samples;
  const float* X = work.input;
  float* products = work.arena + dual.products;
  product(n, op.columns, op.rows, {X, dual.pitch, 0}, {work.near + op.weight, op.pitch, 0},
          {work.arena + dual.values, op.pitch, Start::Zero, nullptr, false});
  for (Int i = 0; i < n; i += 2 * DEEPEST) {
    const Int some = n - i < 2 * DEEPEST ? n - i : 2 * DEEPEST;
    transposed(some, i + some, dual.numbers, X + i * dual.pitch, dual.pitch, X, dual.pitch, products + i * n, n);
  }
  for (Int i = 1; i < n; i++)
    for (Int j = 0; j < i; j++) products[j * n + i] = products[i * n + j];
  memset(work.arena + dual.slopes, 0, sizeof(float) * (size_t)(n * op.pitch));
}

void dual_forward(const Plan& plan, const Work& work, const Batch& batch) {
  const Operation& op = front(plan);
  const Dual& dual = plan.dual;
  const Int n = work.samples;
  const float* bias = work.read + op.bias;
  float* chosen = work.arena + dual.chosen;
  for (Int b = 0; b < batch.count; b++) {
    const Int s = sample(batch, b);
    const float* value = work.arena + dual.values + s * op.pitch;
    float* y = to(work, op.y, b);
    for (Int c = 0; c < op.columns; c += LANES) store(y + c, load(value + c) + load(bias + c));
    memcpy(chosen + b * n, work.arena + dual.products + s * n, sizeof(float) * (size_t)n);
  }
  const bool relu = op.curve == Curve::Relu;
  product(batch.count, op.columns, n, {chosen, n, 0}, {work.arena + dual.slopes, op.pitch, 0},
          {to(work, op.y, 0), op.y.sample, Start::Sum, nullptr, relu});
  if (!relu && op.curve != Curve::Linear)
    for (Int b = 0; b < batch.count; b++) bend(op, work, b);
}

void dual_backward(const Plan& plan, const Work& work, const Batch& batch, const Rates& rates) {
  const Operation& op = front(plan);
  float* slopes = work.arena + plan.dual.slopes;
  const float kept = 1 - rates.lr * rates.mu;
  if (kept != 1)
    for (Int i = 0; i < work.samples * op.pitch; i++) slopes[i] *= kept;
  for (Int b = 0; b < batch.count; b++) {
    unbend(op, work, b);
    const float* d = at(work, op.dy, b);
    float* slope = slopes + sample(batch, b) * op.pitch;
    for (Int c = 0; c < op.columns; c += LANES) store(slope + c, load(slope + c) + load(d + c));
  }
  dense_bias(op, work, batch.count, rates);
}

// After the last: the weights that came of it.
void dual_end(const Plan& plan, const Work& work) {
  const Operation& op = front(plan);
  update(op.rows, op.columns, 1, work.samples, {work.input, plan.dual.pitch, 0}, {work.arena + plan.dual.slopes, op.pitch, 0},
         {work.theta + op.weight, work.near + op.weight, op.pitch});
}

}  // namespace
}  // namespace fedthings
