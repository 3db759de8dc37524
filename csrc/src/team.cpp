// A team of threads: starting, waking, sleeping.
#include "team.h"

#include <sched.h>
#include <unistd.h>

#include <chrono>

namespace owled {

Team::Team(int threads, int phases, int spin_us, std::vector<int> cpus)
: threads_(threads), phases_(phases), spin_us_(spin_us), process_(getpid()), slots_(new Slot[phases]),
  cpus_(std::move(cpus)) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
}

Team::~Team() {
  if (orphaned()) {                           // the threads are in another process: nothing to join
    for (auto& worker : workers_) worker.detach();
    return;
  }
  quit_.store(true, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_acq_rel);
  epoch_.notify_all();
  for (auto& worker : workers_) worker.join();
}

bool Team::orphaned() const { return process_ != getpid(); }

void Team::begin() {
  if (threads_ == 1) return;
  const uint64_t tag = static_cast<uint64_t>(epoch_.load(std::memory_order_relaxed) + 1) << 32;
  for (int i = 0; i < phases_; ++i) {
    slots_[i].claimed.store(tag, std::memory_order_relaxed);
    slots_[i].done.store(tag, std::memory_order_relaxed);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void Team::run(Job job, void* context) {
  const uint32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
  if (threads_ > 1) {
    job_.store(job, std::memory_order_release);
    context_.store(context, std::memory_order_release);
    epoch_.store(epoch, std::memory_order_release);
    epoch_.notify_all();
  }
  Walk walk(this, 0, epoch);
  job(context, walk);
}

void Team::serve(int worker) {
  if (static_cast<size_t>(worker) < cpus_.size()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpus_[worker], &set);
    sched_setaffinity(0, sizeof(set), &set);  // a core that does not exist pins nothing
  }
  uint32_t seen = 0;
  while (!quit_.load(std::memory_order_acquire)) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 1; epoch_.load(std::memory_order_acquire) == seen; ++i) {
      pause_briefly();
      if (i % 64 == 0 && std::chrono::steady_clock::now() - start > std::chrono::microseconds(spin_us_)) {
        epoch_.wait(seen, std::memory_order_acquire);
        break;
      }
    }
    const uint32_t epoch = epoch_.load(std::memory_order_acquire);
    if (epoch == seen || quit_.load(std::memory_order_acquire)) continue;
    seen = epoch;
    const Job job = job_.load(std::memory_order_acquire);
    void* const context = context_.load(std::memory_order_acquire);
    Walk walk(this, worker, epoch);
    if (job != nullptr) job(context, walk);
  }
}

}  // namespace owled
