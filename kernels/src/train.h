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

// Engine::fold on threads, each with its columns; `largest` becomes the largest absolute value of each row.
void fold(const float* rows, Int pitch, Int n, Int dim, const Int* weights, double scale, Int* limb, float* largest, Int threads);

}  // namespace fedthings
