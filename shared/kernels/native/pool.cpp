#include "pool.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>

namespace step3 {
namespace {

constexpr uint64_t kCountMask = (1u << 20) - 1;
uint64_t next_of(uint64_t ticket) { return ticket & kCountMask; }
uint64_t items_of(uint64_t ticket) { return (ticket >> 20) & kCountMask; }

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

void futex(std::atomic<uint32_t>* word, int operation, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation, value, nullptr, nullptr, 0);
}

}  // namespace

Pool& pool() {
  static Pool instance;
  return instance;
}

void Pool::place(const std::vector<int>& cores) {
  std::lock_guard<std::mutex> guard(busy_);
  if (cores == cores_) return;
  cores_ = cores;
  stopping_.store(true);
  doorbell_.fetch_add(1);
  futex(&doorbell_, FUTEX_WAKE_PRIVATE, INT32_MAX);
  for (auto& worker : workers_) worker.join();
  workers_.clear();
  stopping_.store(false);
  for (size_t i = 1; i < cores.size(); ++i)
    workers_.emplace_back([this, core = cores[i]] { worker_loop(core); });
}

void Pool::run_shared(int items, Call call, const void* fn) {
  call_ = call;
  fn_ = fn;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t epoch = (ticket_.load(std::memory_order_relaxed) >> 40) + 1;
  ticket_.store(epoch << 40 | static_cast<uint64_t>(items) << 20, std::memory_order_release);
  doorbell_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0)
    futex(&doorbell_, FUTEX_WAKE_PRIVATE, INT32_MAX);
  work();
  while (done_.load(std::memory_order_acquire) != items) relax();
}

// Takes items until none is left.
void Pool::work() {
  for (;;) {
    uint64_t seen = ticket_.load(std::memory_order_relaxed);
    if (next_of(seen) >= items_of(seen)) return;
    const uint64_t mine = ticket_.fetch_add(1, std::memory_order_acq_rel);
    if (next_of(mine) >= items_of(mine)) return;
    call_(fn_, static_cast<int>(next_of(mine)));
    done_.fetch_add(1, std::memory_order_release);
  }
}

void Pool::worker_loop(int core) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(core, &only);
  sched_setaffinity(0, sizeof only, &only);  // if it is refused, the worker runs anywhere
  using Clock = std::chrono::steady_clock;
  while (!stopping_.load(std::memory_order_relaxed)) {
    const uint32_t bell = doorbell_.load(std::memory_order_seq_cst);
    work();
    const auto until =
        Clock::now() + std::chrono::microseconds(spin_us_.load(std::memory_order_relaxed));
    while (doorbell_.load(std::memory_order_acquire) == bell && Clock::now() < until)
      for (int i = 0; i < 16; ++i) relax();
    if (doorbell_.load(std::memory_order_acquire) != bell) continue;
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    if (doorbell_.load(std::memory_order_seq_cst) == bell)
      futex(&doorbell_, FUTEX_WAIT_PRIVATE, bell);
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }
}

}  // namespace step3
