// A pool of threads for loops of a few microseconds: spins briefly, then sleeps in the kernel.
//
// OpenMP is not used: torch brings its own runtime, whose waiting threads would hold the cores that
// the other side of a disaggregated pair needs.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace step3 {

class Pool {
 public:
  // One thread a core works on a loop; the first core is the caller's, who sees to that itself.
  void place(const std::vector<int>& cores);
  // How long an idle worker spins before it sleeps.
  void set_spin_us(int us) { spin_us_.store(us, std::memory_order_relaxed); }
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls fn(item) for every item of [0, items); returns when all are done. The order of items
  // is free, so each must write its own output. If another thread is using the pool, the caller
  // does all of its items itself.
  template <class F>
  void run(int items, const F& fn) {
    if (items <= 1 || workers_.empty() || !busy_.try_lock()) {
      for (int i = 0; i < items; ++i) fn(i);
      return;
    }
    std::lock_guard<std::mutex> guard(busy_, std::adopt_lock);
    run_shared(items, [](const void* f, int i) { (*static_cast<const F*>(f))(i); }, &fn);
  }

  ~Pool() { place({0}); }

 private:
  using Call = void (*)(const void*, int);
  void run_shared(int items, Call call, const void* fn);
  void work();
  void worker_loop(int core);

  // epoch (24 bits) | items (20 bits) | next item (20 bits). A worker takes an item by adding one,
  // and reads call_ and fn_ only while it holds an unfinished item, so they cannot change under it.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<uint32_t> doorbell_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<int> spin_us_{50};
  Call call_ = nullptr;
  const void* fn_ = nullptr;
  std::mutex busy_;
  std::vector<int> cores_;
  std::vector<std::thread> workers_;
};

// The process' pool.
Pool& pool();

}  // namespace step3
