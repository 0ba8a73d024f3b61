// Threads over devices: each takes the next device that is left, and trains it alone, from its first step to its last.
#include "train.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>

#include "dispatch.h"
#include "philox.h"
#include "threads.h"

namespace fedthings {

namespace {

const double MOST = 4503599627370496.0;  // 2**52: no device's sum of costs goes beyond
const double MEGABYTE = 1 << 18;         // in floats
const Int NEAR = Int(1) << 22;           // numbers that the caches may still hold when all devices are done

// Run work(arena, device) for each of n devices in `order` (or as they stand), on the caller's thread and up to threads - 1 more.
template <class Each>
void share(const Program& program, Arenas& arenas, Int capacity, Int whole, Int n, const std::vector<Int>& order, Int threads, Each each) {
  threads = std::max<Int>(1, std::min(threads, n));
  const Int portion = std::max<Int>(1, std::min<Int>(16, n / (threads * 32)));
  std::vector<std::unique_ptr<Arena>> own;
  for (Int t = 0; t < threads; t++) own.push_back(arenas.take(program, engine().lanes, capacity, whole));
  std::atomic<Int> next{0};
  run(threads, [&](Int t) {
    Arena& arena = *own[std::size_t(t)];
    try {
      for (;;) {
        const Int from = next.fetch_add(portion, std::memory_order_relaxed);
        if (from >= n) return;
        for (Int i = from; i < std::min(n, from + portion); i++) each(arena, order.empty() ? i : order[std::size_t(i)]);
      }
    } catch (...) {  // no memory: the others need not go on
      next = n;
      throw;
    }
  });
  for (auto& arena : own) arenas.give(std::move(arena));
}

// A row that all received, laid out once.
class Shared {
 public:
  Shared(const Plan& plan, const float* row) : room_(std::size_t(plan.padded + ROOM) + 16) {
    const auto place = reinterpret_cast<std::uintptr_t>(room_.data());
    row_ = room_.data() + (64 - place % 64) % 64 / sizeof(float);
    engine().spread(plan, row, row_);
  }
  const float* row() const { return row_; }

 private:
  std::vector<float> room_;
  float* row_;
};

// Whether all parameters are those of dense layers.
bool dense(const Plan& plan) {
  for (Int i = 0; i < plan.count; i++)
    if (plan.operations[i].learns && plan.operations[i].kind != Kind::Dense) return false;
  return true;
}

bool plain(const Rates& rates) { return !rates.moving && rates.decay == 0 && rates.mu == 0; }

// Whether the first layer of device i, of n samples, is trained in dual form: where that takes fewer operations, and no
// more memory than two more copies of the layer, or a megabyte (dual.h).
bool in_dual(const Program& program, const Training& training, Int i, Int n) {
  const Operation& op = program.operations[std::size_t(program.first)];
  if (op.kind != Kind::Dense || training.start || training.rates.moving || training.rates.decay != 0 || n == 0) return false;
  const Int batch = training.batch ? std::min(training.batch, n) : n;
  const double epochs = double(training.steps[i]) / double((n + batch - 1) / batch), samples = double(n);
  const double rows = double(op.in.channels), columns = double(op.out.channels), weights = rows * columns;
  return 4 * weights + samples * rows + 2 * epochs * samples * columns < 4 * epochs * weights &&
         samples * (samples + 2 * columns + rows) <= std::max(2 * weights, MEGABYTE);
}

void one(const Program& program, const Devices& devices, const Training& training, const float* shared, Arena& arena, Int i) {
  const Plan& plan = arena.placed.plan;
  const Engine& code = engine();
  const Rates& rates = training.rates;
  const float* received = devices.received + (devices.shared ? 0 : i * plan.dim);
  float* start = training.start ? training.start + i * plan.dim : nullptr;
  Work work{arena.numbers, arena.theta, arena.theta, shared ? shared : arena.near, arena.speed, nullptr};
  const std::size_t bytes = sizeof(float) * std::size_t(plan.padded);
  const Int size = devices.sizes[i];
  if (start) code.spread(plan, start, work.theta);
  else if (!shared) code.spread(plan, received, work.theta);
  else if (dense(plan) && !plan.holes && plain(rates) && size > 0 && training.steps[i] > 0) work.read = shared;
  else std::memcpy(work.theta, shared, bytes);
  if (!shared) code.spread(plan, received, arena.near);
  if (rates.moving) std::memset(work.speed, 0, bytes);

  const Int most = training.batch ? std::min(training.batch, size) : size;
  Int seen = 0;
  double total = 0;
  if (size > 0 && training.steps[i] > 0) {
    const Int length = (size + most - 1) / most;
    const bool mixed = training.keys && length > 1;
    if (mixed && Int(arena.order.size()) < size) {
      arena.order.resize(std::size_t(size));
      arena.draws.resize(std::size_t(size) + 4);
    }
    Batch batch{reinterpret_cast<const float*>(devices.X[i]), reinterpret_cast<const void*>(devices.y[i]),
                mixed ? arena.order.data() : nullptr, 0, 0};
    if (plan.dual.capacity && in_dual(program, training, i, size)) {
      work.samples = size;
      code.dual_begin(plan, work, {batch.X, batch.y, nullptr, 0, size});
    }
    Int left = training.steps[i];
    for (Int epoch = 0; epoch < training.epochs && left; epoch++) {
      if (mixed) shuffle(training.keys[i], epoch, size, arena.draws.data(), arena.order.data());
      double costs = 0;
      for (Int s = 0; s < length && left; s++, left--) {
        batch.begin = s * most;
        batch.count = std::min(most, size - batch.begin);
        code.step(plan, work, batch, rates, &costs);
        work.read = work.theta;
        seen += batch.count;
      }
      total = std::clamp(total + std::clamp(costs, -MOST, MOST), -MOST, MOST);
    }
    if (work.samples) code.dual_end(plan, work);
  }
  training.seen[2 * i] = seen;
  training.seen[2 * i + 1] = Int(total);
  code.change(plan, work.theta, work.near, training.change + i * plan.dim, start, devices.n * plan.dim > NEAR);
}

}  // namespace

void train(const Program& program, Arenas& arenas, const Devices& devices, const Training& training, Int threads) {
  const Int n = devices.n;
  Int capacity = 1, whole = 0;
  bool equal = true;
  for (Int i = 0; i < n; i++) {
    capacity = std::max(capacity, training.batch ? std::min(training.batch, devices.sizes[i]) : devices.sizes[i]);
    if (in_dual(program, training, i, devices.sizes[i])) whole = std::max(whole, devices.sizes[i]);
    equal = equal && devices.sizes[i] == devices.sizes[0] && training.steps[i] == training.steps[0];
  }
  // The longest first, so that the threads end together.
  std::vector<Int> order;
  if (!equal && threads > 1) {
    auto work = [&](Int i) {
      return double(training.steps[i]) * double(training.batch ? std::min(training.batch, devices.sizes[i]) : devices.sizes[i]);
    };
    order.resize(std::size_t(n));
    std::iota(order.begin(), order.end(), Int(0));
    std::stable_sort(order.begin(), order.end(), [&](Int a, Int b) { return work(a) > work(b); });
  }
  std::unique_ptr<Shared> shared;
  if (devices.shared) {
    const Placed placed(program, engine().lanes, 1);
    shared = std::make_unique<Shared>(placed.plan, devices.received);
  }
  share(program, arenas, capacity, whole, n, order, threads,
        [&](Arena& arena, Int i) { one(program, devices, training, shared ? shared->row() : nullptr, arena, i); });
}

void outputs(const Program& program, Arenas& arenas, const Devices& devices, const std::uint64_t* out, Int threads) {
  const Int CHUNK = 32;
  std::unique_ptr<Shared> shared;
  if (devices.shared) {
    const Placed placed(program, engine().lanes, 1);
    shared = std::make_unique<Shared>(placed.plan, devices.received);
  }
  // Devices of one row may be cut into pieces; a sample's outputs do not depend on them.
  share(program, arenas, CHUNK, 0, devices.n, {}, threads, [&](Arena& arena, Int i) {
    const Plan& plan = arena.placed.plan;
    const float* row = shared ? shared->row() : arena.theta;
    if (!shared) engine().spread(plan, devices.received + i * plan.dim, arena.theta);
    Work work{arena.numbers, const_cast<float*>(row), row, row, nullptr, nullptr};
    Batch batch{reinterpret_cast<const float*>(devices.X[i]), nullptr, nullptr, 0, 0};
    const Int chunk = std::min(plan.capacity, CHUNK);
    for (; batch.begin < devices.sizes[i]; batch.begin += chunk) {
      batch.count = std::min(chunk, devices.sizes[i] - batch.begin);
      engine().outputs(plan, work, batch, reinterpret_cast<float*>(out[i]) + batch.begin * plan.outputs);
    }
  });
}

void fold(const float* rows, Int pitch, Int n, Int dim, const Int* weights, double scale, Int* limb, float* largest, Int threads) {
  const Int FEW = 1 << 18;  // numbers for which it does not pay to start a thread
  threads = std::max<Int>(1, std::min(threads, n * dim / FEW));
  const Int columns = (dim + threads - 1) / threads;
  std::vector<std::int32_t> most(std::size_t(threads * n), 0);
  run(threads, [&](Int t) {
    const Int from = std::min(dim, t * columns);
    engine().fold(rows + from, pitch, n, std::min(columns, dim - from), weights, scale, limb + from, most.data() + t * n);
  });
  for (Int i = 0; i < n; i++) {
    std::int32_t bits = most[std::size_t(i)];
    for (Int t = 1; t < threads; t++) bits = std::max(bits, most[std::size_t(t * n + i)]);
    std::memcpy(largest + i, &bits, sizeof bits);
  }
}

}  // namespace fedthings
