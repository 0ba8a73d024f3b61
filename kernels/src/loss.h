// Losses: what each sample costs, and the slope of the batch's mean cost by the outputs, times `factor`.
#pragma once
#include "simd.h"

namespace fedthings {
namespace {

const double ONE = 1048576, MOST = 4503599627370496.0;  // costs are summed in units of 2**-20, up to 2**52

INLINE double units(float cost) {
  double u = __builtin_rint((double)cost * ONE);
  if (u != u) return MOST;
  return u > MOST ? MOST : u < -MOST ? -MOST : u;
}

// Slope (softmax - onehot) * factor of one sample; returns its cost.
float cross_entropy(const float* z, Int n, Int label, float factor, float* d) {
  const Int vectors = (n + LANES - 1) / LANES;
  const V none = all(-INFINITY);
  float last[LANES];
  const Int whole = n / LANES * LANES;
  for (Int i = 0; i < LANES; i++) last[i] = whole + i < n ? z[whole + i] : -INFINITY;
  V tops = none;
  for (Int v = 0; v < vectors; v++) {
    V x = v * LANES < whole ? load(z + v * LANES) : load(last);
    tops = choose((x > tops) | (x != x), x, tops);
  }
  float top = tops[0];
  for (int i = 1; i < LANES; i++) top = tops[i] > top || tops[i] != tops[i] ? tops[i] : top;
  V totals = V{};
  for (Int v = 0; v < vectors; v++) {
    V p = exponential((v * LANES < whole ? load(z + v * LANES) : load(last)) - top);
    totals += p;
    if (v * LANES < whole) store(d + v * LANES, p);
    else store(last, p);
  }
  const float total = sum(totals), share = factor / total;
  const float cost = logf(total) - (z[label] - top);
  for (Int v = 0; v < whole / LANES; v++) store(d + v * LANES, load(d + v * LANES) * share);
  for (Int i = whole; i < n; i++) d[i] = last[i - whole] * share;
  d[label] -= factor;
  return cost;
}

float binary(float z, float y, float factor, float* d) {
  float small = expf(-fabsf(z));
  d[0] = ((z >= 0 ? 1 : small) / (1 + small) - y) * factor;
  return (z < 0 ? 0 : z) - z * y + log1pf(small);
}

float distance(Loss loss, const float* z, const float* y, Int n, float factor, float* d) {
  const float share = factor / (float)n;
  double total = 0;
  for (Int i = 0; i < n; i++) {
    const float e = z[i] - y[i], size = fabsf(e);
    if (loss == Loss::Squared) {
      total += e * e;
      d[i] = e * 2 * share;
    } else if (loss == Loss::Absolute) {
      total += size;
      d[i] = (e > 0 ? 1.0f : e < 0 ? -1.0f : e) * share;  // NaN stays
    } else {
      total += size < 1 ? e * e / 2 : size - 0.5f;
      d[i] = (e < -1 ? -1.0f : e > 1 ? 1.0f : e) * share;
    }
  }
  return (float)(total / (double)n);
}

void judge(const Plan& plan, const Work& work, const Batch& batch, float alpha, double* costs) {
  const float factor = alpha / (float)batch.count;
  const Int n = plan.outputs;
  for (Int b = 0; b < batch.count; b++) {
    const Int which = sample(batch, b);
    const float* z = at(work, plan.out, b);
    float* d = to(work, plan.slope, b);
    float cost;
    if (plan.labels) {
      cost = cross_entropy(z, n, ((const Int*)batch.y)[which], factor, d);
    } else {
      const float* y = plan.itself ? work.arena + plan.target + b * plan.input.size() : (const float*)batch.y + which * n;
      cost = plan.loss == Loss::Binary ? binary(z[0], y[0], factor, d) : distance(plan.loss, z, y, n, factor, d);
    }
    *costs += units(cost);
  }
}

}  // namespace
}  // namespace fedthings
