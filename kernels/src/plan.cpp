// A place in memory for everything: values, slopes with the zeros that convolutions want around them, parameters.
#include <algorithm>
#include <new>

#include "program.h"

namespace fedthings {

namespace {

Int up(Int n, Int unit) { return (n + unit - 1) / unit * unit; }

// Rows of matrices begin in different sets of a cache: an odd number of lines of 16 floats apart, if they are several.
Int apart(Int columns, Int lanes) {
  if (columns <= 2 * lanes) return columns;
  Int lines = up(columns, 16) / 16;
  return 16 * (lines % 2 ? lines : lines + 1);
}

#if defined(__SANITIZE_ADDRESS__)
const Int GAP = 64;
#else
const Int GAP = 0;
#endif

}  // namespace

Int Placed::take(Int floats) {
  if (floats > Int(1) << 48 || plan.floats > Int(1) << 48) throw std::bad_alloc();
  Int from = plan.floats;
  plan.floats += up(floats, 16);
  if (GAP) {
    gaps.push_back(from + floats);
    gaps.push_back(plan.floats + GAP);
    plan.floats += GAP;
  }
  return from;
}

Placed::Placed(const Program& program, Int lanes, Int capacity, Int whole)
    : operations_(program.operations), spans_(program.parts) {
  std::vector<Operation>& ops = operations_;
  const Int count = (Int)ops.size(), stem = program.stem, first = program.first;
  plan.count = count;
  plan.stem = stem;
  plan.first = first;
  plan.flat = std::max(program.flat, stem);
  plan.dim = program.dim;
  plan.input = program.input;
  plan.loss = program.loss;
  plan.labels = program.labels;
  plan.itself = program.itself;
  plan.outputs = program.outputs;
  plan.capacity = capacity;
  auto op = [&](Int i) -> Operation& { return ops[(std::size_t)i]; };
  auto is = [&](Int i, Kind kind) { return i >= stem && i < count && op(i).kind == kind; };

  // Values at boundary i, before operation i.
  std::vector<Plane> values((std::size_t)count + 1), slopes((std::size_t)count + 1);
  auto shape = [&](Int i) { return i < count ? op(i).in : op(count - 1).out; };
  auto flat = [&](Int i) { return i >= plan.flat; };
  for (Int i = stem; i <= count; i++) {
    const Shape s = shape(i);
    const bool outside = i == stem, after = i > stem;
    Plane& plane = values[(std::size_t)i];
    if (after && is(i - 1, Kind::Copy)) {
      const Plane& before = values[(std::size_t)i - 1];
      const Shape b = shape(i - 1);
      if (before.col == b.channels && before.row == b.width * b.channels) {
        plane = before;
        plane.row = plane.col = 0;
        op(i - 1).still = true;
        continue;
      }
    }
    const bool conv = is(i, Kind::Conv), vectors = after && (is(i - 1, Kind::Conv) || is(i - 1, Kind::Dense));
    plane.col = vectors || (after && conv) ? up(s.channels, lanes) : s.channels;
    Int height = s.height, width = s.width, top = 0, left = 0;
    if (conv) {
      const Operation& c = op(i);
      const Int high = (c.out.height - 1) * c.down + c.tall, broad = (c.out.width - 1) * c.right + c.wide;
      top = std::max<Int>(high - s.height, 0) / 2;
      left = std::max<Int>(broad - s.width, 0) / 2;
      height = std::max(top + s.height, high);
      width = std::max(left + s.width, broad);
    }
    plane.row = width * plane.col;
    plane.base = top * plane.row + left * plane.col;
    plane.outside = outside;
    Int sample = height * plane.row;
    const bool compact = !conv && outside;
    if (!compact) {
      sample = up(sample, 16);
      if (sample % 256 == 0) sample += 16;  // samples begin in different sets of a cache
    }
    const Curve curve = after ? op(i - 1).curve : Curve::Linear;
    // What a convolution gives is not kept where the pooling after it keeps all that backward needs.
    const bool passing = after && is(i - 1, Kind::Conv) && is(i, Kind::MaxPool) && (curve == Curve::Linear || curve == Curve::Relu);
    if (passing && curve == Curve::Relu) op(i).masked = op(i - 1).masked = true;
    plane.sample = passing ? 0 : sample;
    const Int room = take(passing ? sample : sample * capacity);
    if (outside) plan.room = room;
    else plane.base += room;
    if (outside) plan.direct = compact && stem == 0 && !program.itself;
  }
  plan.samples = values[(std::size_t)stem];
  if (program.itself) plan.target = take(program.input.size() * capacity);

  // The loss's slopes, back to the first operation that learns.
  for (Int i = count; i > first; i--) {
    const Shape s = shape(i);
    Plane& plane = slopes[(std::size_t)i];
    const Operation& before = op(i - 1);
    const bool conv = before.kind == Kind::Conv;
    const bool wide = conv || before.kind == Kind::Dense || is(i, Kind::Conv);
    plane.col = wide ? up(s.channels, lanes) : s.channels;
    if (is(i, Kind::Copy) && plane.col == s.channels && !(conv && before.deep)) {
      plane = slopes[(std::size_t)i + 1];
      plane.col = s.channels;
      plane.row = s.width * s.channels;
      op(i).back = false;
      continue;
    }
    if (conv && before.deep) {
      const Int top = std::max<Int>((s.height - 1) * before.down + before.tall - before.in.height, 0) / 2;
      const Int left = std::max<Int>((s.width - 1) * before.right + before.wide - before.in.width, 0) / 2;
      const Int down = before.tall - 1 - top, right = before.wide - 1 - left;
      const Int height = std::max(before.in.height + before.tall - 1, down + (s.height - 1) * before.down + 1);
      const Int width = std::max(before.in.width + before.wide - 1, right + (s.width - 1) * before.right + 1);
      const Int room = take(height * width * plane.col);
      op(i - 1).around.base = room;
      plane.base = room + (down * width + right) * plane.col;
      plane.row = before.down * width * plane.col;
      plane.col *= before.right;
      continue;
    }
    plane.row = s.width * plane.col;
    Int sample = up(s.height * plane.row, 16);
    if (sample % 256 == 0) sample += 16;
    plane.sample = flat(i) ? sample : 0;
    plane.base = take(flat(i) ? sample * capacity : sample);
  }
  plan.out = values[(std::size_t)count];
  plan.slope = slopes[(std::size_t)count];

  for (Int i = stem; i < count; i++) {
    Operation& o = op(i);
    o.x = values[(std::size_t)i];
    o.y = values[(std::size_t)i + 1];
    o.dx = slopes[(std::size_t)i];
    o.dy = slopes[(std::size_t)i + 1];
    if (o.kind == Kind::Conv) {  // its windows begin in the margin
      const Int top = std::max<Int>((o.out.height - 1) * o.down + o.tall - o.in.height, 0) / 2;
      const Int left = std::max<Int>((o.out.width - 1) * o.right + o.wide - o.in.width, 0) / 2;
      o.x.base -= top * o.x.row + left * o.x.col;
    }
    if (o.kind == Kind::MaxPool) o.keeps = (o.out.size() * (o.tall * o.wide < 255 ? 1 : 2) + 3) / 4;
    if (o.kind == Kind::Norm) o.keeps = 2 * o.in.width * o.in.height;
    if (o.keeps) o.kept = take(o.keeps * capacity);
  }

  // Parameters: matrices one after the other, their rows as long as whole vectors.
  std::vector<Span> spans;
  for (Int i = stem; i < count; i++) {
    Operation& o = op(i);
    if (!o.learns) continue;
    const std::vector<Int>& own = program.owners[(std::size_t)i];
    const Span weight = spans_[(std::size_t)own[0]], bias = spans_[(std::size_t)own[1]];
    o.columns = up(weight.width, lanes);
    o.pitch = apart(o.columns, lanes);
    o.weight = plan.padded;
    o.rows = weight.rows;
    if (o.kind == Kind::Conv) {
      const Int window = o.tall * o.wide, channels = o.in.channels;
      o.rows = window * o.x.col;
      plan.holes = plan.holes || o.x.col != channels;
      if (o.x.col == channels) spans.push_back({weight.from, o.weight, weight.rows, weight.width, o.pitch});
      else
        for (Int q = 0; q < window; q++)
          spans.push_back({weight.from + q * channels * weight.width, o.weight + q * o.x.col * o.pitch, channels, weight.width, o.pitch});
      if (o.deep) o.copy = take(window * o.columns * up(channels, lanes));
    } else {
      spans.push_back({weight.from, o.weight, weight.rows, weight.width, o.pitch});
    }
    if (o.kind == Kind::Norm) o.copy = take(o.columns);
    o.bias = up(o.weight + o.rows * o.pitch, 16);
    spans.push_back({bias.from, o.bias, 1, bias.width, o.columns});
    plan.padded = up(o.bias + o.columns, 16);
  }
  spans_ = spans;

  const Operation& front = op(first);
  Dual& dual = plan.dual;
  bool fits = front.kind == Kind::Dense && !program.itself;
  for (Int i = stem; i < first; i++) fits = fits && op(i).still;
  if (fits && whole) {
    dual.capacity = whole;
    dual.numbers = dual.pitch = up(front.rows, lanes);
    if (dual.pitch % 256 == 0) dual.pitch += 16;
    dual.direct = plan.direct && dual.pitch == front.rows;
    if (!dual.direct) dual.room = take(dual.pitch * whole);
    dual.products = take(whole * whole);
    dual.values = take(front.pitch * whole);
    dual.slopes = take(front.pitch * whole);
    dual.chosen = take(std::min(capacity, whole) * whole);
  }
  plan.operations = ops.data();
  plan.spans = spans_.data();
  plan.parts = (Int)spans_.size();
}

}  // namespace fedthings
