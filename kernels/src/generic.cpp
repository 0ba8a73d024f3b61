// The kernels for one instruction set: this file is compiled with its flags.
// No header of the C++ library may be included below: its functions would be shared with code for other machines.
#include "rows.h"
#include "steps.h"

namespace fedthings {
extern const Engine generic_engine;
const Engine generic_engine = {"generic", LANES, spread, change, step, outputs, dual_begin, dual_end, fold};
}  // namespace fedthings
