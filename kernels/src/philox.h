// Philox 4x32-10 (Salmon et al. 2011, section 3.3), and the order of a device's samples that follows from its key.
#pragma once
#include <algorithm>
#include <cstdint>

#include "plan.h"

namespace fedthings {

inline void philox(std::uint32_t (&counter)[4], std::uint32_t low, std::uint32_t high) {
  for (int round = 0; round < 10; round++) {
    const std::uint64_t left = std::uint64_t(0xD2511F53) * counter[0], right = std::uint64_t(0xCD9E8D57) * counter[2];
    const std::uint32_t next[4] = {std::uint32_t(right >> 32) ^ counter[1] ^ low, std::uint32_t(right),
                                   std::uint32_t(left >> 32) ^ counter[3] ^ high, std::uint32_t(left)};
    for (int i = 0; i < 4; i++) counter[i] = next[i];
    low += 0x9E3779B9;
    high += 0xBB67AE85;
  }
}

// Samples sorted by their draws: that of sample j is word j % 4 of the block with the counter (j / 4, epoch, 0, 0).
// `draws` has room for n numbers, rounded up to whole blocks.
inline void shuffle(std::uint64_t key, Int epoch, Int n, std::uint64_t* draws, Int* order) {
  for (Int block = 0; 4 * block < n; block++) {
    std::uint32_t words[4] = {std::uint32_t(block), std::uint32_t(epoch), 0, 0};
    philox(words, std::uint32_t(key), std::uint32_t(key >> 32));
    for (Int i = 0; i < 4; i++) draws[4 * block + i] = std::uint64_t(words[i]) << 32 | std::uint64_t(4 * block + i);
  }
  std::sort(draws, draws + n);
  for (Int j = 0; j < n; j++) order[j] = Int(draws[j] & 0xFFFFFFFF);
}

}  // namespace fedthings
