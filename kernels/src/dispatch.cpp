// Which instruction set is used: the widest that the processor has, unless the environment narrows it.
#include <cstdlib>
#include <cstring>

#include "plan.h"

namespace fedthings {

extern const Engine generic_engine;
#if defined(__x86_64__)
extern const Engine avx2_engine, avx512_engine;
#endif

static const Engine& chosen() {
#if defined(__x86_64__)
  const char* most = std::getenv("FEDTHINGS_INSTRUCTIONS");
  const bool generic = most && !std::strcmp(most, "generic");
  const bool narrow = generic || (most && !std::strcmp(most, "avx2"));
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (!narrow && avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
    return avx512_engine;
  if (!generic && avx2) return avx2_engine;
#endif
  return generic_engine;
}

const Engine& engine() {
  static const Engine& the = chosen();
  return the;
}

}  // namespace fedthings
