// The Python module: checks what it is given, lets go of the interpreter's lock, and works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cmath>

#include "dispatch.h"
#include "train.h"

namespace nb = nanobind;
using namespace fedthings;

namespace {

struct Compiled {
  Compiled(const std::vector<Int>& input, const std::vector<std::vector<Field>>& layers, const std::string& loss)
      : program(input, layers, loss) {}
  Program program;
  Arenas arenas;
};

[[noreturn]] void wrong(const std::string& what) { throw nb::value_error(what.c_str()); }

// An array with its numbers side by side; `rows` may be further apart where that is said to be good.
template <class T>
struct Array {
  T* data;
  Int ndim, shape[2], row;
};

template <class T>
Array<T> array(nb::handle object, const char* name, bool writable, bool strided = false) {
  nb::ndarray<> a;
  nb::ndarray<nb::ro> r;
  const std::string n(name);
  if (writable ? !nb::try_cast(object, a) : !nb::try_cast(object, r)) wrong(n + (writable ? " must be a writable array" : " must be an array"));
  auto take = [&](const auto& x) {
    if (x.dtype() != nb::dtype<std::remove_const_t<T>>()) wrong(n + " has the wrong dtype");
    if (x.device_type() != nb::device::cpu::value) wrong(n + " must be in main memory");
    if (x.ndim() < 1 || x.ndim() > 2) wrong(n + " must have 1 or 2 axes");
    Array<T> out{(T*)x.data(), (Int)x.ndim(), {(Int)x.shape(0), x.ndim() > 1 ? (Int)x.shape(1) : 1}, 0};
    if ((std::uintptr_t)x.data() % alignof(T)) wrong(n + " is not aligned");
    const std::size_t last = x.ndim() - 1;
    out.row = x.ndim() > 1 ? (Int)x.stride(0) : 1;
    if (!x.size()) return out;
    if (x.shape(last) > 1 && x.stride(last) != 1) wrong(n + " must be contiguous along its last axis");
    if (!strided && x.ndim() > 1 && x.shape(0) > 1 && out.row != out.shape[1]) wrong(n + " must be contiguous");
    return out;
  };
  return writable ? take(a) : take(r);
}

template <class T>
Array<T> vector(nb::handle object, const char* name, Int n, bool writable = false) {
  Array<T> a = array<T>(object, name, writable);
  if (a.ndim != 1 || a.shape[0] != n) wrong(std::string(name) + " must have shape (" + std::to_string(n) + ",)");
  return a;
}

template <class T>
Array<T> matrix(nb::handle object, const char* name, Int n, Int m, bool writable) {
  Array<T> a = array<T>(object, name, writable);
  if (a.ndim != 2 || a.shape[0] != n || a.shape[1] != m)
    wrong(std::string(name) + " must have shape (" + std::to_string(n) + ", " + std::to_string(m) + ")");
  return a;
}

std::vector<std::vector<Field>> described(nb::sequence layers) {
  std::vector<std::vector<Field>> out;
  for (nb::handle layer : layers) {
    std::vector<Field> fields;
    for (nb::handle item : layer) {
      Field field{true, 0, ""};
      if (nb::isinstance<nb::str>(item)) field.word = nb::cast<std::string>(item);
      else if (nb::isinstance<nb::bytes>(item)) {
        nb::bytes bytes = nb::borrow<nb::bytes>(item);
        field.word.assign(bytes.c_str(), bytes.size());
      } else if (!nb::try_cast(item, field.number)) {
        wrong("a layer's fields must be text, bytes or numbers");
      } else {
        field.text = false;
      }
      fields.push_back(field);
    }
    out.push_back(fields);
  }
  return out;
}

Devices devices(const Compiled& compiled, nb::handle X, nb::handle sizes, nb::handle received) {
  const Program& program = compiled.program;
  Array<const Int> size = array<const Int>(sizes, "sizes", false);
  if (size.ndim != 1) wrong("sizes must have 1 axis");
  const Int n = size.shape[0];
  Array<const float> rows = array<const float>(received, "received", false);
  const Int dim = rows.ndim == 1 ? rows.shape[0] : rows.shape[1];
  if (dim != program.dim || (rows.ndim == 2 && rows.shape[0] != n))
    wrong("received must have shape (" + std::to_string(program.dim) + ",) or (" + std::to_string(n) + ", " + std::to_string(program.dim) + ")");
  Devices out{n, vector<const std::uint64_t>(X, "X", n).data, nullptr, size.data, rows.data, rows.ndim == 1};
  for (Int i = 0; i < n; i++) {
    if (out.sizes[i] < 0) wrong("sizes has a number below 0");
    if (out.sizes[i] > 0 && !out.X[i]) wrong("X has a null address of a device with samples");
    if (out.X[i] % alignof(float)) wrong("X has an address that is not a multiple of 4");
  }
  return out;
}

void py_train(Compiled& compiled, nb::handle X, nb::handle y, nb::handle sizes, nb::handle received, nb::handle start,
              nb::handle keys, nb::handle steps, Int batch, Int epochs, double lr, double momentum, double decay, double mu,
              nb::handle change, nb::handle seen, Int threads) {
  const Program& program = compiled.program;
  Devices them = devices(compiled, X, sizes, received);
  const Int n = them.n, dim = program.dim;
  them.y = vector<const std::uint64_t>(y, "y", n).data;
  Training training{};
  if (!start.is_none()) training.start = matrix<float>(start, "start", n, dim, true).data;
  if (!keys.is_none()) training.keys = vector<const std::uint64_t>(keys, "keys", n).data;
  training.steps = vector<const Int>(steps, "steps", n).data;
  training.change = matrix<float>(change, "change", n, dim, true).data;
  training.seen = matrix<Int>(seen, "seen", n, 2, true).data;
  if (batch < 0) wrong("batch must not be below 0");
  if (epochs < 1) wrong("epochs must be above 0");
  if (threads < 1) wrong("threads must be above 0");
  training.batch = batch;
  training.epochs = epochs;
  training.rates = {(float)lr, (float)std::max(momentum, 0.0), (float)decay, (float)mu, momentum >= 0};
  for (Int i = 0; i < n; i++) {
    if (training.steps[i] < 0) wrong("steps has a number below 0");
    if (them.sizes[i] > 0 && !program.itself && !them.y[i]) wrong("y has a null address of a device with samples");
    if (them.sizes[i] > (Int(1) << 31)) wrong("sizes has a number above 2**31");
    if (!program.itself && them.y[i] % (program.labels ? alignof(Int) : alignof(float))) wrong("y has an address that is not aligned");
  }
  Int worst = -1;
  {
    nb::gil_scoped_release released;
    if (program.labels)
      for (Int i = 0; i < n && worst < 0; i++) {
        const Int* labels = reinterpret_cast<const Int*>(them.y[i]);
        std::uint64_t most = 0;
        for (Int j = 0; j < them.sizes[i]; j++) most = std::max(most, std::uint64_t(labels[j]));
        if (most >= std::uint64_t(program.outputs)) worst = i;
      }
    if (worst < 0) train(program, compiled.arenas, them, training, threads);
  }
  if (worst >= 0)
    wrong("device " + std::to_string(worst) + " has a label outside 0.." + std::to_string(program.outputs - 1) + ", the model's outputs");
}

void py_outputs(Compiled& compiled, nb::handle X, nb::handle sizes, nb::handle received, nb::handle out, Int threads) {
  Devices them = devices(compiled, X, sizes, received);
  const std::uint64_t* places = vector<const std::uint64_t>(out, "out", them.n).data;
  if (threads < 1) wrong("threads must be above 0");
  for (Int i = 0; i < them.n; i++)
    if (them.sizes[i] > 0 && (!places[i] || places[i] % alignof(float))) wrong("out has an address that is null or not a multiple of 4");
  nb::gil_scoped_release released;
  outputs(compiled.program, compiled.arenas, them, places, threads);
}

void py_fold(nb::handle rows, nb::handle weights, Int scale, nb::handle limb, nb::handle largest, Int threads) {
  Array<const float> x = array<const float>(rows, "rows", false, true);
  if (x.ndim != 2) wrong("rows must have 2 axes");
  const Int* w = vector<const Int>(weights, "weights", x.shape[0]).data;
  Int* total = vector<Int>(limb, "limb", x.shape[1], true).data;
  float* most = vector<float>(largest, "largest", x.shape[0], true).data;
  if (scale < -1000 || scale > 1000) wrong("scale must be from -1000 to 1000");
  if (threads < 1) wrong("threads must be above 0");
  nb::gil_scoped_release released;
  fold(x.data, x.row, x.shape[0], x.shape[1], w, std::ldexp(1.0, (int)scale), total, most, threads);
}

}  // namespace

NB_MODULE(_native, m) {
  engine();  // an instruction set that cannot be is refused at import
  m.attr("version") = FEDTHINGS_VERSION;
  m.def("instructions", [] { return engine().name; });
  m.def("sets", [] {
    nb::list names;
    for (const Engine* one : engines()) names.append(one->name);
    return names;
  });
  m.def("supports", [](const std::string& kind) { return supports(kind); }, nb::arg("kind"));
  nb::class_<Compiled>(m, "Program")
      .def("__init__",
           [](Compiled* self, nb::sequence input, nb::sequence layers, const std::string& loss) {
             std::vector<Int> shape;
             for (nb::handle n : input) shape.push_back(nb::cast<Int>(n));
             auto fields = described(layers);
             try {
               new (self) Compiled(shape, fields, loss);
             } catch (const std::invalid_argument& error) {
               wrong(error.what());
             }
           },
           nb::arg("input"), nb::arg("layers"), nb::arg("loss"))
      .def_prop_ro("dim", [](const Compiled& self) { return self.program.dim; })
      .def_prop_ro("outputs", [](const Compiled& self) { return self.program.outputs; });
  m.def("train", py_train, nb::arg("program"), nb::arg("X"), nb::arg("y"), nb::arg("sizes"), nb::arg("received"), nb::kw_only(),
        nb::arg("start") = nb::none(), nb::arg("keys") = nb::none(), nb::arg("steps"), nb::arg("batch"), nb::arg("epochs"),
        nb::arg("lr"), nb::arg("momentum"), nb::arg("decay"), nb::arg("mu"), nb::arg("change"), nb::arg("seen"), nb::arg("threads"));
  m.def("outputs", py_outputs, nb::arg("program"), nb::arg("X"), nb::arg("sizes"), nb::arg("received"), nb::arg("out"), nb::arg("threads"));
  m.def("fold", py_fold, nb::arg("rows"), nb::arg("weights"), nb::arg("scale"), nb::arg("limb"), nb::arg("largest"), nb::arg("threads") = 1);
}
