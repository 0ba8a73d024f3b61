// Activations in place, and the slope before one from the slope and the values after it.
#pragma once
#include "simd.h"

namespace fedthings {
namespace {

void softmax(float* z, Int n) {
  float top = z[0];
  for (Int i = 1; i < n; i++) top = !(z[i] <= top) ? z[i] : top;  // NaN stays
  each(z, n, [=](V x) { return exponential(x - top); });
  float total = 0;
  for (Int i = 0; i < n; i++) total += z[i];
  for (Int i = 0; i < n; i++) z[i] /= total;
}

void bend(Curve curve, float* y, Int n) {
  switch (curve) {
    case Curve::Linear: return;
    case Curve::Relu: return each(y, n, [](V x) { return choose(x < 0.0f, V{}, x); });
    case Curve::Tanh: return each(y, n, [](V x) { return hyperbolic(x); });
    case Curve::Sigmoid: return each(y, n, [](V x) { return sigmoid(x); });
    case Curve::Softmax: return softmax(y, n);
  }
}

void unbend(Curve curve, const float* y, float* d, Int n) {
  switch (curve) {
    case Curve::Linear: return;
    case Curve::Relu:
      for (Int i = 0; i < n; i++) d[i] = y[i] <= 0 ? 0 : d[i];
      return;
    case Curve::Tanh:
      for (Int i = 0; i < n; i++) d[i] *= 1 - y[i] * y[i];
      return;
    case Curve::Sigmoid:
      for (Int i = 0; i < n; i++) d[i] *= y[i] * (1 - y[i]);
      return;
    case Curve::Softmax: {
      float both = 0;
      for (Int i = 0; i < n; i++) both += d[i] * y[i];
      for (Int i = 0; i < n; i++) d[i] = (d[i] - both) * y[i];
    }
  }
}

// Call body(offset by a, offset by b, n) for runs of n numbers of a sample that lie side by side on both planes.
template <class Body>
INLINE void runs(const Shape& s, const Plane& a, const Plane& b, bool whole, Body body) {
  bool joined = whole && a.col == s.channels && b.col == s.channels;
  for (Int h = 0; h < s.height; h++) {
    if (joined) body(h * a.row, h * b.row, s.width * s.channels);
    else
      for (Int w = 0; w < s.width; w++) body(h * a.row + w * a.col, h * b.row + w * b.col, s.channels);
  }
}

// The activation of an operation on its values, of one sample.
INLINE void bend(const Operation& op, const Work& work, Int b) {
  float* y = to(work, op.y, b);
  runs(op.out, op.y, op.y, op.curve != Curve::Softmax, [=, &op](Int i, Int, Int n) { bend(op.curve, y + i, n); });
}

INLINE void unbend(const Operation& op, const Work& work, Int b) {
  if (op.curve == Curve::Linear || op.masked) return;
  const float* y = at(work, op.y, b);
  float* d = to(work, op.dy, b);
  runs(op.out, op.y, op.dy, op.curve != Curve::Softmax,
       [=, &op](Int i, Int j, Int n) { unbend(op.curve, y + i, d + j, n); });
}

}  // namespace
}  // namespace fedthings
