// What a step does to parameters beside the loss's slope: decay, the pull toward what was received, momentum.
//
// The slope by the outputs is multiplied by -lr at once, all that follows is linear in it, and so the products of
// backward add the step to the parameters themselves (with momentum to the speed, and nothing is multiplied).
#pragma once
#include "simd.h"

namespace fedthings {
namespace {

INLINE float* aim(const Work& work, const Rates& rates) { return rates.moving ? work.speed : work.theta; }

// Decay and pull of parameters [from, from + n) of plain SGD, once nothing needs their old values.
INLINE void relax(const Work& work, const Rates& rates, Int from, Int n) {
  if (rates.moving || (rates.decay == 0 && rates.mu == 0)) return;
  float* theta = work.theta + from;
  const float* near = work.near + from;
  const float pull = rates.lr * rates.mu, decay = rates.lr * rates.decay;
  for (Int i = 0; i < n; i++) theta[i] -= pull * (theta[i] - near[i]) + decay * theta[i];
}

// Before a step with momentum: speed = momentum speed + decay theta + mu (theta - near).
INLINE void slow(const Plan& plan, const Work& work, const Rates& rates) {
  const float* theta = work.theta;
  const float* near = work.near;
  float* v = work.speed;
  if (rates.decay == 0 && rates.mu == 0)
    for (Int i = 0; i < plan.padded; i++) v[i] *= rates.momentum;
  else
    for (Int i = 0; i < plan.padded; i++)
      v[i] = rates.momentum * v[i] + rates.decay * theta[i] + rates.mu * (theta[i] - near[i]);
}

// After it: theta -= lr speed.
INLINE void move(const Plan& plan, const Work& work, const Rates& rates) {
  for (Int i = 0; i < plan.padded; i++) work.theta[i] -= rates.lr * work.speed[i];
}

// Add the rows of D `(count, columns)` to a bias.
INLINE void down(Int count, Int columns, const float* D, Int row, float* bias) {
  for (Int n = 0; n < columns; n += LANES) {
    V total = load(bias + n);
    for (Int k = 0; k < count; k++) total += load(D + k * row + n);
    store(bias + n, total);
  }
}

}  // namespace
}  // namespace fedthings
