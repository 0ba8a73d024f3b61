// Which instruction set is used.
#pragma once
#include <vector>

#include "plan.h"

namespace fedthings {

// What this processor can run, the widest first.
std::vector<const Engine*> engines();

// The widest, or the one named in FEDTHINGS_KERNELS_SET. Raises std::runtime_error where that cannot be.
const Engine& engine();

}  // namespace fedthings
