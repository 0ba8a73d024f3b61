// The memory that one thread works in: in large pages where the system has them, zero at first.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "program.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace fedthings {

class Arena {
 public:
  Arena(const Program& program, Int lanes, Int capacity, Int whole) : placed(program, lanes, capacity, whole), whole(whole) {
    const Int row = placed.plan.padded + 2 * ROOM;
    const Int floats = placed.plan.floats + 3 * row + 64;
    const std::size_t page = std::size_t(2) << 20;
    bytes_ = sizeof(float) * std::size_t(floats);
    const bool large = bytes_ >= page / 2;
    bytes_ = large ? (bytes_ + page - 1) / page * page + page : bytes_;
    void* found = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    mapped_ = found;
    auto begin = reinterpret_cast<std::uintptr_t>(found);
    if (large) {
      begin = (begin + page - 1) / page * page;
#ifdef MADV_HUGEPAGE
      madvise(reinterpret_cast<void*>(begin), bytes_ - page, MADV_HUGEPAGE);
#endif
    }
    theta = reinterpret_cast<float*>(begin);
    near = theta + row;
    numbers = near + row;
    speed = numbers + placed.plan.floats + 16;
#if defined(__SANITIZE_ADDRESS__)
    for (std::size_t i = 0; i < placed.gaps.size(); i += 2) forbid(numbers + placed.gaps[i], numbers + placed.gaps[i + 1]);
    forbid(theta + placed.plan.padded + ROOM, near);
    forbid(near + placed.plan.padded + ROOM, numbers);
    forbid(numbers + placed.plan.floats, speed);
    forbid(speed + placed.plan.padded, speed + row);
#endif
  }
  ~Arena() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(mapped_, bytes_);
#endif
    munmap(mapped_, bytes_);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  Placed placed;
  const Int whole;  // samples of a device whose first layer is in dual form
  float *theta, *near, *numbers, *speed;
  std::vector<std::uint64_t> draws;
  std::vector<Int> order;

 private:
#if defined(__SANITIZE_ADDRESS__)
  static void forbid(const float* begin, const float* end) {
    __asan_poison_memory_region(begin, sizeof(float) * std::size_t(end - begin));
  }
#endif
  void* mapped_;
  std::size_t bytes_;
};

// Arenas of a program that no thread has at the moment.
class Arenas {
 public:
  std::unique_ptr<Arena> take(const Program& program, Int lanes, Int capacity, Int whole) {
    {
      std::lock_guard<std::mutex> guard(lock_);
      while (!free_.empty()) {
        std::unique_ptr<Arena> last = std::move(free_.back());
        free_.pop_back();
        if (last->placed.plan.capacity >= capacity && last->whole >= whole) return last;
        capacity = std::max(capacity, last->placed.plan.capacity);  // the next has room for both
        whole = std::max(whole, last->whole);
      }
    }
    return std::make_unique<Arena>(program, lanes, capacity, whole);
  }
  void give(std::unique_ptr<Arena> arena) {
    std::lock_guard<std::mutex> guard(lock_);
    if (free_.size() < 64) free_.push_back(std::move(arena));
  }

 private:
  std::mutex lock_;
  std::vector<std::unique_ptr<Arena>> free_;
};

}  // namespace fedthings
