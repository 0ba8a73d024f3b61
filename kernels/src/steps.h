// One step of one device: gather the samples, forward, loss, backward with the change of the parameters.
#pragma once
#include "conv.h"
#include "dual.h"
#include "loss.h"
#include "norm.h"
#include "pool.h"

namespace fedthings {
namespace {

// Put the samples of a batch, scaled and filled, where they are `pitch` apart.
void place(const Plan& plan, const Work& work, const Batch& batch, float* first, Int pitch) {
  const Int n = plan.input.size();
  for (Int b = 0; b < batch.count; b++) {
    const float* from = batch.X + sample(batch, b) * n;
    float* flat = plan.itself ? work.arena + plan.target + b * n : nullptr;
    float* into = first + b * pitch;
    const Int row = plan.input.width * plan.input.channels;
    for (Int h = 0; h < plan.input.height; h++, from += row, into += plan.samples.row) {
      memcpy(into, from, sizeof(float) * (size_t)row);
      for (Int i = 0; i < plan.stem; i++) prepare(plan.operations[i], into, into, h * row, row);
      if (flat) memcpy(flat + h * row, into, sizeof(float) * (size_t)row);
    }
  }
}

// Put the samples of a batch where the model reads them; where they lie already is good if it can be.
void gather(const Plan& plan, Work& work, const Batch& batch) {
  if (plan.direct && !batch.order) {
    work.input = batch.X + batch.begin * plan.input.size();
    return;
  }
  work.input = work.arena + plan.room;
  place(plan, work, batch, work.arena + plan.room + plan.samples.base, plan.samples.sample);
}

// Begin a device in dual form: `all` are its samples.
void dual_begin(const Plan& plan, Work& work, const Batch& all) {
  const Dual& dual = plan.dual;
  if (dual.direct) {
    work.input = all.X;
  } else {
    float* into = work.arena + dual.room;
    place(plan, work, all, into, dual.pitch);
    const Int n = plan.input.size();
    for (Int b = 0; b < all.count; b++)
      memset(into + b * dual.pitch + n, 0, sizeof(float) * (size_t)(dual.numbers - n));
    work.input = into;
  }
  dual_products(plan, work);
}

void forward(const Plan& plan, const Work& work, const Batch& batch) {
  const Int B = batch.count;
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
    if (work.samples && i == plan.first) dual_forward(plan, work, batch);
    else if (op.kind == Kind::Dense) dense_forward(op, work, B);
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

void backward(const Plan& plan, const Work& work, const Batch& batch, const Rates& rates) {
  const Int B = batch.count;
  const Int flat = plan.flat > plan.first ? plan.flat : plan.first;
  for (Int i = plan.count - 1; i >= flat; i--) {
    const Operation& op = plan.operations[i];
    turn(op, work, rates);
    if (!op.back) continue;
    if (work.samples && i == plan.first) dual_backward(plan, work, batch, rates);
    else if (op.kind == Kind::Dense) dense_backward(op, work, B, rates);
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
  if (!work.samples) gather(plan, work, batch);
  forward(plan, work, batch);
  judge(plan, work, batch, rates.moving ? 1.0f : -rates.lr, costs);
  if (rates.moving) slow(plan, work, rates);
  backward(plan, work, batch, rates);
  if (rates.moving) move(plan, work, rates);
}

void outputs(const Plan& plan, Work& work, const Batch& batch, float* out) {
  gather(plan, work, batch);
  forward(plan, work, batch);
  for (Int b = 0; b < batch.count; b++)
    memcpy(out + b * plan.outputs, at(work, plan.out, b), sizeof(float) * (size_t)plan.outputs);
}

}  // namespace
}  // namespace fedthings
