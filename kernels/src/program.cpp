// Reading a description: each layer's shape, parameters and place in a row of the model.
#include "program.h"

#include <cmath>
#include <cstring>
#include <map>
#include <stdexcept>

namespace fedthings {

namespace {

const std::map<std::string, Curve> CURVES = {{"linear", Curve::Linear}, {"relu", Curve::Relu}, {"tanh", Curve::Tanh},
                                             {"sigmoid", Curve::Sigmoid}, {"softmax", Curve::Softmax}};
const std::map<std::string, Loss> LOSSES = {{"cross_entropy", Loss::CrossEntropy}, {"binary_cross_entropy", Loss::Binary},
                                            {"mse", Loss::Squared}, {"mae", Loss::Absolute}, {"huber", Loss::Huber},
                                            {"reconstruction", Loss::Squared}};
const Int LARGEST = Int(1) << 31;  // numbers in a sample or parameters in a model

// One layer's description, read field by field.
class Reader {
 public:
  Reader(const std::vector<Field>& fields, std::size_t index) : fields_(fields), index_(index) {}

  [[noreturn]] void wrong(const std::string& what) const {
    std::string name = !fields_.empty() && fields_[0].text ? " (" + fields_[0].word + ")" : "";
    throw std::invalid_argument("layer " + std::to_string(index_) + name + ": " + what);
  }
  void length(std::size_t n) const {
    if (fields_.size() != n) wrong("it has " + std::to_string(fields_.size() - 1) + " fields, expected " + std::to_string(n - 1));
  }
  const std::string& word(std::size_t i) const {
    if (i >= fields_.size() || !fields_[i].text) wrong("field " + std::to_string(i) + " must be text");
    return fields_[i].word;
  }
  double number(std::size_t i) const {
    if (i >= fields_.size() || fields_[i].text) wrong("field " + std::to_string(i) + " must be a number");
    return fields_[i].number;
  }
  Int whole(std::size_t i) const {
    double x = number(i);
    if (!(x >= 1 && x <= 1 << 24) || x != std::floor(x)) wrong("field " + std::to_string(i) + " must be a whole number above 0");
    return (Int)x;
  }
  Curve curve(std::size_t i) const {
    auto found = CURVES.find(word(i));
    if (found == CURVES.end()) wrong("unknown activation " + word(i));
    return found->second;
  }

 private:
  const std::vector<Field>& fields_;
  std::size_t index_;
};

Int places(Int size, Int window, Int stride, const Reader& read) {
  if (size < window) read.wrong("its window is " + std::to_string(window) + ", more than the input has");
  return (size - window) / stride + 1;
}

}  // namespace

bool supports(const std::string& kind) {
  static const char* const layers[] = {"dense", "conv1d", "conv2d", "max_pool", "avg_pool", "flatten", "layer_norm",
                                       "standardise", "impute", "sgd", "momentum"};
  for (const char* name : layers)
    if (kind == name) return true;
  return CURVES.count(kind) || LOSSES.count(kind);
}

Program::Program(const std::vector<Int>& shape, const std::vector<std::vector<Field>>& layers, const std::string& name) {
  if (shape.empty() || shape.size() > 3) throw std::invalid_argument("input must have 1 to 3 axes");
  Int numbers = 1;
  for (Int n : shape) {
    if (n < 1 || n > LARGEST || (numbers *= n) > LARGEST) throw std::invalid_argument("input has an axis that is below 1, or too many numbers");
  }
  auto found = LOSSES.find(name);
  if (found == LOSSES.end()) throw std::invalid_argument("unknown loss " + name);
  loss = found->second;
  labels = loss == Loss::CrossEntropy;
  itself = name == "reconstruction";

  std::size_t rank = shape.size();
  Shape at;
  at.channels = shape.back();
  if (rank > 1) at.width = shape[rank - 2];
  if (rank > 2) at.height = shape[0];
  input = at;
  first = -1;
  bool front = true;

  auto part = [&](std::vector<Int>& own, Int rows, Int width) {
    if (rows > LARGEST / width) throw std::invalid_argument("the model has too many parameters");
    own.push_back((Int)parts.size());
    parts.push_back({dim, 0, rows, width, 0});
    dim += rows * width;
    if (dim > LARGEST) throw std::invalid_argument("the model has too many parameters");
  };

  for (std::size_t i = 0; i < layers.size(); i++) {
    Reader read(layers[i], i);
    const std::string& kind = read.word(0);
    Operation op;
    std::vector<Int> own;
    op.in = op.out = at;
    op.flat = rank == 1;
    if (kind == "dense") {
      read.length(3);
      if (rank != 1) read.wrong("it takes flat samples: put flatten before it");
      op.kind = Kind::Dense;
      op.out.channels = read.whole(1);
      op.curve = read.curve(2);
      part(own, at.channels, op.out.channels);
      part(own, 1, op.out.channels);
      op.learns = true;
    } else if (kind == "conv1d" || kind == "conv2d") {
      read.length(6);
      const bool image = kind == "conv2d";
      if (rank != (image ? 3u : 2u)) read.wrong("it takes samples of another shape");
      op.kind = Kind::Conv;
      op.out.channels = read.whole(1);
      op.wide = read.whole(2);
      op.right = read.whole(3);
      op.curve = read.curve(5);
      if (image) op.tall = op.wide, op.down = op.right;
      if (op.tall * op.wide > LARGEST / at.channels) read.wrong("its window is too large");
      if (read.word(4) == "same") {
        op.out.width = (at.width + op.right - 1) / op.right;
        op.out.height = (at.height + op.down - 1) / op.down;
      } else if (read.word(4) == "valid") {
        op.out.width = places(at.width, op.wide, op.right, read);
        op.out.height = places(at.height, op.tall, op.down, read);
      } else {
        read.wrong("padding must be \"same\" or \"valid\"");
      }
      part(own, op.tall * op.wide * at.channels, op.out.channels);
      part(own, 1, op.out.channels);
      op.learns = true;
    } else if (kind == "max_pool" || kind == "avg_pool") {
      read.length(3);
      if (rank == 1) read.wrong("it takes samples (steps, channels) or (height, width, channels)");
      op.kind = kind == "max_pool" ? Kind::MaxPool : Kind::AvgPool;
      op.wide = read.whole(1);
      op.right = read.whole(2);
      if (rank == 3) op.tall = op.wide, op.down = op.right;
      if (op.tall * op.wide > 65000) read.wrong("its window has more than 65000 cells");
      op.out.width = places(at.width, op.wide, op.right, read);
      op.out.height = places(at.height, op.tall, op.down, read);
    } else if (kind == "flatten") {
      read.length(1);
      if (rank == 1) continue;
      op.out = Shape();
      op.out.channels = at.size();
      rank = 1;
    } else if (kind == "layer_norm") {
      read.length(2);
      op.kind = Kind::Norm;
      op.number = (float)read.number(1);
      part(own, 1, at.channels);
      part(own, 1, at.channels);
      op.learns = true;
    } else if (kind == "standardise") {
      read.length(4);
      op.kind = Kind::Standardise;
      const float** into[] = {&op.mean, &op.deviation, &op.fill};
      for (std::size_t f = 0; f < 3; f++) {
        const std::string& bytes = read.word(f + 1);
        if ((Int)bytes.size() != 4 * at.size()) read.wrong("field " + std::to_string(f + 1) + " must be 4 bytes for each number of a sample");
        constants.emplace_back((std::size_t)at.size());
        std::memcpy(constants.back().data(), bytes.data(), bytes.size());
        *into[f] = constants.back().data();  // the buffer stays where it is when the list grows
      }
    } else if (kind == "impute") {
      read.length(2);
      op.kind = Kind::Impute;
      op.number = (float)read.number(1);
    } else {
      auto curve = CURVES.find(kind);
      if (curve == CURVES.end()) read.wrong("unknown layer");
      read.length(1);
      op.kind = Kind::Activation;
      op.curve = curve->second;
    }
    at = op.out;
    if (at.size() > LARGEST) read.wrong("it gives too many numbers");
    front = front && (op.kind == Kind::Standardise || op.kind == Kind::Impute);
    if (front) stem++;
    if (op.learns && first < 0) first = (Int)operations.size();
    operations.push_back(op);
    owners.push_back(own);
  }
  if (first < 0) throw std::invalid_argument("no layer has parameters");
  if (rank > 1) {  // losses read flat outputs
    Operation op;
    op.in = at;
    op.out.channels = at.size();
    at = op.out;
    operations.push_back(op);
    owners.emplace_back();
  }
  outputs = at.channels;
  if (loss == Loss::Binary && outputs != 1) throw std::invalid_argument("binary_cross_entropy needs 1 output");
  if (itself && outputs != input.size()) throw std::invalid_argument("reconstruction needs as many outputs as the input has numbers");
  flat = (Int)operations.size();
  for (Int i = (Int)operations.size() - 1; i >= stem && operations[(std::size_t)i].flat; i--) flat = i;
  for (std::size_t i = 0; i < operations.size(); i++) operations[i].deep = (Int)i > first;
}

}  // namespace fedthings
