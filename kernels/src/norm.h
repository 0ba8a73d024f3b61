// Layer normalisation over the channels of each place (Ba et al. 2016, eq. 4), and the layers that scale and fill.
#pragma once
#include "curves.h"
#include "rates.h"

namespace fedthings {
namespace {

void norm_forward(const Operation& op, const Work& work, Int b) {
  const Int n = op.in.channels;
  const float *weight = work.theta + op.weight, *bias = work.theta + op.bias;
  float* kept = work.arena + op.kept + b * op.keeps;
  for (Int h = 0; h < op.in.height; h++)
    for (Int w = 0; w < op.in.width; w++, kept += 2) {
      const float* x = at(work, op.x, b) + h * op.x.row + w * op.x.col;
      float* y = to(work, op.y, b) + h * op.y.row + w * op.y.col;
      float mean = 0, square = 0;
      for (Int c = 0; c < n; c++) mean += x[c];
      mean /= (float)n;
      for (Int c = 0; c < n; c++) square += (x[c] - mean) * (x[c] - mean);
      const float scale = 1 / sqrtf(square / (float)n + op.number);
      for (Int c = 0; c < n; c++) y[c] = (x[c] - mean) * scale * weight[c] + bias[c];
      kept[0] = mean, kept[1] = scale;
    }
}

// Before the weights change: their copy.
void norm_copy(const Operation& op, const Work& work) {
  memcpy(work.arena + op.copy, work.theta + op.weight, sizeof(float) * (size_t)op.columns);
}

void norm_backward(const Operation& op, const Work& work, Int b, const Rates& rates) {
  const Int n = op.in.channels;
  const float* old = work.arena + op.copy;
  const float* kept = work.arena + op.kept + b * op.keeps;
  float *weight = aim(work, rates) + op.weight, *bias = aim(work, rates) + op.bias;
  for (Int h = 0; h < op.in.height; h++)
    for (Int w = 0; w < op.in.width; w++, kept += 2) {
      const float* x = at(work, op.x, b) + h * op.x.row + w * op.x.col;
      const float* d = at(work, op.dy, b) + h * op.dy.row + w * op.dy.col;
      const float mean = kept[0], scale = kept[1];
      for (Int c = 0; c < n; c++) {
        weight[c] += d[c] * (x[c] - mean) * scale;
        bias[c] += d[c];
      }
      if (!op.deep) continue;
      float first = 0, second = 0;
      for (Int c = 0; c < n; c++) {
        first += d[c] * old[c];
        second += d[c] * old[c] * (x[c] - mean) * scale;
      }
      first /= (float)n, second /= (float)n;
      float* dx = to(work, op.dx, b) + h * op.dx.row + w * op.dx.col;
      for (Int c = 0; c < n; c++) dx[c] = (d[c] * old[c] - first - (x[c] - mean) * scale * second) * scale;
    }
}

// Scaling and imputation of one sample as a flat run of numbers, from the i-th on.
INLINE void prepare(const Operation& op, const float* x, float* y, Int i, Int n) {
  if (op.kind == Kind::Impute)
    for (Int k = 0; k < n; k++) y[k] = x[k] != x[k] ? op.number : x[k];
  else
    for (Int k = 0; k < n; k++) y[k] = ((x[k] != x[k] ? op.fill[i + k] : x[k]) - op.mean[i + k]) / op.deviation[i + k];
}

INLINE void unprepare(const Operation& op, const float* x, const float* d, float* dx, Int i, Int n) {
  if (op.kind == Kind::Impute)
    for (Int k = 0; k < n; k++) dx[k] = x[k] != x[k] ? 0 : d[k];
  else
    for (Int k = 0; k < n; k++) dx[k] = x[k] != x[k] ? 0 : d[k] / op.deviation[i + k];
}

// What does one thing to each place by itself: an activation, a copy, scaling or imputation amid a model.
void place_forward(const Operation& op, const Work& work, Int b) {
  const Int n = op.in.channels;
  for (Int h = 0; h < op.in.height; h++)
    for (Int w = 0; w < op.in.width; w++) {
      const float* x = at(work, op.x, b) + h * op.x.row + w * op.x.col;
      Int i = (h * op.in.width + w) * n;
      // A copy flattens: its output is one place.
      float* y = to(work, op.y, b) + (op.kind == Kind::Copy ? i : h * op.y.row + w * op.y.col);
      if (op.kind == Kind::Copy || op.kind == Kind::Activation) memcpy(y, x, sizeof(float) * (size_t)n);
      else prepare(op, x, y, i, n);
    }
  if (op.kind == Kind::Activation) bend(op, work, b);
}

void place_backward(const Operation& op, const Work& work, Int b) {
  const Int n = op.in.channels;
  if (op.kind == Kind::Activation) unbend(op, work, b);
  for (Int h = 0; h < op.in.height; h++)
    for (Int w = 0; w < op.in.width; w++) {
      Int i = (h * op.in.width + w) * n;
      const float* d = at(work, op.dy, b) + (op.kind == Kind::Copy ? i : h * op.dy.row + w * op.dy.col);
      float* dx = to(work, op.dx, b) + h * op.dx.row + w * op.dx.col;
      if (op.kind == Kind::Copy || op.kind == Kind::Activation) memcpy(dx, d, sizeof(float) * (size_t)n);
      else unprepare(op, at(work, op.x, b) + h * op.x.row + w * op.x.col, d, dx, i, n);
    }
}

}  // namespace
}  // namespace fedthings
