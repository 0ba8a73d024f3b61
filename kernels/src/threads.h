// Threads: the same work by the caller and some others, and what goes wrong in any of them.
#pragma once
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace fedthings {

// Run work(t) for t = 0 on the caller's thread and for 1 .. threads - 1 on others; where the system gives fewer, the
// caller does theirs too. The first exception is raised when all have ended: nothing may leave a thread.
template <class Work>
void run(std::int64_t threads, Work work) {
  std::vector<std::exception_ptr> failed(std::size_t(threads), nullptr);
  auto guarded = [&](std::int64_t t) {
    try {
      work(t);
    } catch (...) {
      failed[std::size_t(t)] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  others.reserve(std::size_t(threads));
  std::int64_t started = 1;
  try {
    for (; started < threads; started++) others.emplace_back(guarded, started);
  } catch (const std::system_error&) {
  }
  guarded(0);
  for (std::int64_t t = started; t < threads; t++) guarded(t);
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& error : failed)
    if (error) std::rethrow_exception(error);
}

}  // namespace fedthings
