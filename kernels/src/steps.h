// One step of one device: gather the samples, forward, loss, backward with the change of the parameters.
#pragma once
#include "conv.h"
#include "dense.h"
#include "loss.h"
#include "norm.h"
#include "pool.h"

namespace fedthings {
namespace {

// Put the samples of a batch where the model reads them, scaled and filled; where they lie already is good if it can be.
void gather(const Plan& plan, Work& work, const Batch& batch) {
  const Int n = plan.input.size();
  if (plan.direct && !batch.order) {
    work.input = batch.X + batch.begin * n;
    return;
  }
  work.input = work.arena + plan.room;
  for (Int b = 0; b < batch.count; b++) {
    const float* from = batch.X + (batch.order ? batch.order[batch.begin + b] : batch.begin + b) * n;
    float* flat = plan.itself ? work.arena + plan.target + b * n : nullptr;
    float* into = work.arena + plan.room + plan.samples.base + b * plan.samples.sample;
    const Int row = plan.input.width * plan.input.channels;
    for (Int h = 0; h < plan.input.height; h++, from += row, into += plan.samples.row) {
      memcpy(into, from, sizeof(float) * (size_t)row);
      for (Int i = 0; i < plan.stem; i++) prepare(plan.operations[i], into, into, h * row, row);
      if (flat) memcpy(flat + h * row, into, sizeof(float) * (size_t)row);
    }
  }
}

void forward(const Plan& plan, const Work& work, Int B) {
  for (Int b = 0; b < B; b++)
    for (Int i = plan.stem; i < plan.flat; i++) {
      const Operation& op = plan.operations[i];
      if (op.still) continue;
      switch (op.kind) {
        case Kind::Conv: conv_forward(op, work, b); break;
        case Kind::MaxPool: case Kind::AvgPool: pool_forward(op, work, b); break;
        case Kind::Norm: norm_forward(op, work, b); break;
        default: place_forward(op, work, b);
      }
    }
  for (Int i = plan.flat > plan.stem ? plan.flat : plan.stem; i < plan.count; i++) {
    const Operation& op = plan.operations[i];
    if (op.still) continue;
    if (op.kind == Kind::Dense) dense_forward(op, work, B);
    else
      for (Int b = 0; b < B; b++)
        if (op.kind == Kind::Norm) norm_forward(op, work, b);
        else place_forward(op, work, b);
  }
}

// Old weights that slopes need when the weights have changed already; decay and pull.
INLINE void turn(const Operation& op, const Work& work, const Rates& rates) {
  if (op.kind == Kind::Conv && op.deep) conv_turn(op, work);
  if (op.kind == Kind::Norm) norm_copy(op, work);
  if (op.kind == Kind::Conv || op.kind == Kind::Norm) {
    relax(work, rates, op.weight, op.rows * op.pitch);
    relax(work, rates, op.bias, op.columns);
  }
}

void backward(const Plan& plan, const Work& work, Int B, const Rates& rates) {
  const Int flat = plan.flat > plan.first ? plan.flat : plan.first;
  for (Int i = plan.count - 1; i >= flat; i--) {
    const Operation& op = plan.operations[i];
    turn(op, work, rates);
    if (!op.back) continue;
    if (op.kind == Kind::Dense) dense_backward(op, work, B, rates);
    else
      for (Int b = 0; b < B; b++)
        if (op.kind == Kind::Norm) norm_backward(op, work, b, rates);
        else place_backward(op, work, b);
  }
  for (Int i = plan.first; i < plan.flat; i++) turn(plan.operations[i], work, rates);
  if (plan.flat <= plan.first) return;
  for (Int b = 0; b < B; b++)
    for (Int i = plan.flat - 1; i >= plan.first; i--) {
      const Operation& op = plan.operations[i];
      if (!op.back) continue;
      switch (op.kind) {
        case Kind::Conv: conv_backward(op, work, b, rates); break;
        case Kind::MaxPool: case Kind::AvgPool: pool_backward(op, work, b); break;
        case Kind::Norm: norm_backward(op, work, b, rates); break;
        default: place_backward(op, work, b);
      }
    }
}

void step(const Plan& plan, Work& work, const Batch& batch, const Rates& rates, double* costs) {
  gather(plan, work, batch);
  forward(plan, work, batch.count);
  judge(plan, work, batch, rates.moving ? 1.0f : -rates.lr, costs);
  if (rates.moving) slow(plan, work, rates);
  backward(plan, work, batch.count, rates);
  if (rates.moving) move(plan, work, rates);
}

void outputs(const Plan& plan, Work& work, const Batch& batch, float* out) {
  gather(plan, work, batch);
  forward(plan, work, batch.count);
  for (Int b = 0; b < batch.count; b++)
    memcpy(out + b * plan.outputs, at(work, plan.out, b), sizeof(float) * (size_t)plan.outputs);
}

}  // namespace
}  // namespace fedthings
