// Which instruction set is used: the widest that the processor has, or the one that the environment names.
#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fedthings {

extern const Engine generic_engine;
#if defined(__x86_64__)
extern const Engine avx2_engine, avx512_engine;
#endif

std::vector<const Engine*> engines() {
  std::vector<const Engine*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
    found.push_back(&avx512_engine);
  if (avx2) found.push_back(&avx2_engine);
#endif
  found.push_back(&generic_engine);
  return found;
}

static const Engine& chosen() {
  const std::vector<const Engine*> found = engines();
  const char* name = std::getenv("FEDTHINGS_KERNELS_SET");
  if (!name || !*name) return *found.front();
  std::string names;
  for (const Engine* one : found) {
    if (!std::string(name).compare(one->name)) return *one;
    names += (names.empty() ? "" : ", ") + std::string(one->name);
  }
  throw std::runtime_error("FEDTHINGS_KERNELS_SET is \"" + std::string(name) + "\": this processor runs " + names +
                           "; choose one, or unset it");
}

const Engine& engine() {
  static const Engine& the = chosen();
  return the;
}

}  // namespace fedthings
