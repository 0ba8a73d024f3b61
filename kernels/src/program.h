// A model and its loss as they were described, and the shapes that follow; it never changes.
#pragma once
#include <string>
#include <vector>

#include "plan.h"

namespace fedthings {

// A field of a layer: a number, or text (a word, or bytes).
struct Field {
  bool text;
  double number;
  std::string word;
};

bool supports(const std::string& kind);

class Program {
 public:
  // Raises std::invalid_argument, with the layer, where the description does not fit.
  Program(const std::vector<Int>& input, const std::vector<std::vector<Field>>& layers, const std::string& loss);
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  std::vector<Operation> operations;  // without places in memory
  std::vector<Span> parts;            // from, rows and width: where each matrix lies in a row
  std::vector<std::vector<Int>> owners;  // for each operation, its parts
  std::vector<std::vector<float>> constants;
  Shape input;
  Int dim = 0, stem = 0, first = 0, flat = 0, outputs = 0;
  Loss loss = Loss::Squared;
  bool labels = false, itself = false;
};

// A program with a place in memory for everything, for batches of up to `capacity` samples, and devices of up to `whole`
// samples whose first layer is in dual form.
class Placed {
 public:
  Placed(const Program& program, Int lanes, Int capacity, Int whole = 0);
  Placed(const Placed&) = delete;
  Placed& operator=(const Placed&) = delete;

  Plan plan;
  std::vector<Int> gaps;  // begin, end, begin, ...: floats that nothing may touch (for the sanitizer)

 private:
  Int take(Int floats);
  std::vector<Operation> operations_;
  std::vector<Span> spans_;
};

}  // namespace fedthings
