// Many devices at once: what is asked for, and who does it.
#pragma once
#include "arena.h"

namespace fedthings {

struct Devices {
  Int n;
  const std::uint64_t* X;
  const std::uint64_t* y;
  const Int* sizes;
  const float* received;
  bool shared;  // one row received by all
};

struct Training {
  float* start;                // (n, dim) in and out, or null
  const std::uint64_t* keys;   // or null: samples in their own order
  const Int* steps;
  Int batch, epochs;
  Rates rates;
  float* change;
  Int* seen;
};

void train(const Program& program, Arenas& arenas, const Devices& devices, const Training& training, Int threads);
void outputs(const Program& program, Arenas& arenas, const Devices& devices, const std::uint64_t* out, Int threads);

// Engine::fold and Engine::largest on threads: each takes columns, or rows.
void fold(const float* rows, Int pitch, Int n, Int dim, const Int* weights, double scale, Int* limb, Int threads);
void largest(const float* rows, Int pitch, Int n, Int dim, float* out, Int threads);

}  // namespace fedthings
