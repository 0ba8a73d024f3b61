// A model as compiled code sees it: operations on numbers at known places, for batches up to a capacity.
// Plain structures only: they are shared with code compiled for one instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fedthings {

using Int = std::int64_t;

const Int ROOM = 16;  // numbers behind a padded row that may be read: a line of the cache that begins with its last

enum class Kind { Dense, Conv, MaxPool, AvgPool, Copy, Activation, Norm, Standardise, Impute };
enum class Curve { Linear, Relu, Tanh, Sigmoid, Softmax };
enum class Loss { CrossEntropy, Binary, Squared, Absolute, Huber };

// Where the numbers of one sample lie, channels last: sample b, place (h, w) begins at base + b*sample + h*row + w*col.
// Counted in floats from the arena's start, or from the samples that are in work (outside).
struct Plane {
  Int base = 0, sample = 0, row = 0, col = 0;
  bool outside = false;
};

struct Shape {
  Int height = 1, width = 1, channels = 0;
  __attribute__((always_inline)) Int size() const { return height * width * channels; }
};

struct Operation {
  Kind kind = Kind::Copy;
  Curve curve = Curve::Linear;
  Shape in, out;
  Int tall = 1, wide = 1;          // the window
  Int down = 1, right = 1;         // its stride
  Plane x, y;                      // values before (of a convolution with its zeros around) and after
  Plane dx, dy;                    // the loss's slope by them
  Plane around;                    // of a convolution: dy with its zeros around
  Int weight = 0, bias = 0;        // in the padded row
  Int rows = 0, columns = 0;       // the weight's matrix in the padded row: columns is a multiple of the lanes,
  Int pitch = 0;                   // and the rows are so far apart
  Int kept = 0;                    // in the arena: what backward needs of forward, for each sample
  Int keeps = 0;                   // ... floats of it for each sample
  Int copy = 0;                    // in the arena: weights as they were before the step
  bool learns = false;             // has parameters
  bool deep = false;               // something before it learns, so the slope by its input is needed
  bool masked = false;             // the slope that comes back has already passed through the curve
  bool flat = false;               // works on the whole batch at once
  bool still = false;              // forward: its input and output are the same numbers, there is nothing to do
  bool back = true;                // backward: there is something to do
  float number = 0;                // eps of a norm, value of an imputation
  const float* mean = nullptr;     // standardise
  const float* deviation = nullptr;
  const float* fill = nullptr;
};

// A matrix of parameters: `rows` of `width` numbers, one after the other in a row of the model, `pitch` apart here.
struct Span {
  Int from, to, rows, width, pitch;
};

// Room for a first layer in dual form (dual.h), counted in floats from the arena's start.
struct Dual {
  Int capacity = 0;     // samples of a device; 0 where no device is trained so
  Int numbers = 0;      // of a sample, rounded up to whole vectors
  Int pitch = 0;        // samples are so far apart
  bool direct = false;  // they can be read where they are
  Int room = 0;         // or else are copied here
  Int products = 0;     // of samples with each other `(n, n)`
  Int values = 0;       // of samples with the weights received
  Int slopes = 0;       // the loss's slopes of each sample, times -lr, added up
  Int chosen = 0;       // products of the samples of a batch
};

struct Plan {
  const Operation* operations = nullptr;
  Int count = 0;
  Int stem = 0;         // operations at the front that only prepare a sample, as it is gathered
  Int first = 0;        // the first that learns
  Int flat = 0;         // the first that works on whole batches
  const Span* spans = nullptr;
  Int parts = 0;
  Int dim = 0;          // of a row
  Int padded = 0;       // of a padded row
  bool holes = false;   // rows of zeros stand between its matrices
  Shape input;
  Plane samples;        // what the first operation behind the stem reads
  Int room = 0;         // in the arena: where samples are gathered
  bool direct = false;  // samples can be read where they are, unless they are mixed or prepared
  Loss loss = Loss::Squared;
  bool labels = false, itself = false;  // the target: a label, or the sample itself
  Int outputs = 0;
  Plane out, slope;     // outputs, and the loss's slope by them
  Int target = 0;       // in the arena: the prepared sample, where it is the target
  Int capacity = 0;     // samples of a batch
  Dual dual;
  Int floats = 0;       // of the arena
};

// How a step is made.
struct Rates {
  float lr, momentum, decay, mu;
  bool moving;  // momentum is on
};

// What one thread has in its hands.
struct Work {
  float* arena;
  float* theta;        // padded row
  const float* read;   // where dense layers find it: in a first step they may make it of what was received
  const float* near;   // padded row that was received
  float* speed;        // padded row, with momentum
  const float* input;  // samples that are in work
  Int samples = 0;     // of the device, where its first layer is in dual form; otherwise 0
};

// Samples of a step: `order` says which, or they are those from `begin` on.
struct Batch {
  const float* X;
  const void* y;
  const Int* order;
  Int begin, count;
};

// The code for one instruction set.
struct Engine {
  const char* name;
  Int lanes;
  void (*spread)(const Plan&, const float* row, float* padded);
  void (*change)(const Plan&, const float* theta, const float* near, float* change, float* final, bool far);
  void (*step)(const Plan&, Work&, const Batch&, const Rates&, double* costs);
  void (*outputs)(const Plan&, Work&, const Batch&, float* out);
  void (*dual_begin)(const Plan&, Work&, const Batch& all);
  void (*dual_end)(const Plan&, const Work&);
  void (*fold)(const float* rows, Int pitch, Int n, Int dim, const Int* weights, double scale, Int* limb, std::int32_t* largest);
};

}  // namespace fedthings
