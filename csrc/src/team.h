// A team of threads that share the phases of one job; a late worker never holds the others up.
//
// The caller is worker 0 and runs the job itself. All workers walk through the same phases; the pieces of a phase are
// claimed one by one, and a phase is over when its claimed pieces are done, whether or not every worker has shown up.
// A worker that was not scheduled for a while finds everything claimed, or a newer job, and skips on. So a busy core
// costs its share of the work, not the whole step.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace owled {

class Team;

// One worker's way through the phases of one job.
class Walk {
 public:
  Walk(Team* team, int worker, uint32_t epoch) : worker(worker), team_(team), epoch_(epoch) {}

  // Runs work(begin, end) over [0, count) in pieces of `piece`, together with the other workers. False when this job
  // is already over: return from it at once, nothing that it reads is certain any more.
  template <typename Work>
  bool phase(int count, int piece, Work&& work);

  const int worker;

 private:
  Team* team_;
  uint32_t epoch_;
  int next_ = 0;
};

class Team {
 public:
  using Job = void (*)(void* context, Walk& walk);

  // `phases` is the largest number of phases of any job. Workers spin for spin_us before they sleep.
  Team(int threads, int phases, int spin_us, std::vector<int> cpus);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int threads() const { return threads_; }
  // Ends the previous job for late workers. Only after it may anything change that decides how many phases or pieces
  // a job has; a late worker that reads the new numbers then fails to claim with its old epoch.
  void begin();
  // Runs the job begun. It must not throw. `context` must live as long as the team: a late worker may look at it.
  void run(Job job, void* context);
  // True in a child of fork(), where the other threads do not exist.
  bool orphaned() const;

 private:
  friend class Walk;
  struct alignas(64) Slot {
    std::atomic<uint64_t> claimed{0};   // epoch << 32 | pieces claimed
    std::atomic<uint64_t> done{0};      // epoch << 32 | pieces done
  };
  void serve(int worker);

  const int threads_, phases_, spin_us_;
  const int process_;
  std::unique_ptr<Slot[]> slots_;
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<bool> quit_{false};
  std::atomic<Job> job_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::vector<int> cpus_;
  std::vector<std::thread> workers_;
};

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <typename Work>
bool Walk::phase(int count, int piece, Work&& work) {
  if (team_->threads_ == 1) {
    work(0, count);
    return true;
  }
  Team::Slot& slot = team_->slots_[next_++];
  const uint64_t tag = static_cast<uint64_t>(epoch_) << 32;
  const uint32_t pieces = static_cast<uint32_t>((count + piece - 1) / piece);
  uint64_t seen = slot.claimed.load(std::memory_order_acquire);
  for (;;) {
    if ((seen ^ tag) >> 32 != 0) return false;
    const uint32_t mine = static_cast<uint32_t>(seen);
    if (mine >= pieces) break;
    if (!slot.claimed.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) continue;
    const int begin = static_cast<int>(mine) * piece;
    work(begin, begin + piece < count ? begin + piece : count);
    slot.done.fetch_add(1, std::memory_order_acq_rel);
    seen = slot.claimed.load(std::memory_order_acquire);
  }
  for (int spins = 0;; ++spins) {
    const uint64_t done = slot.done.load(std::memory_order_acquire);
    if ((done ^ tag) >> 32 != 0) return false;
    if (static_cast<uint32_t>(done) >= pieces) return true;
    if (spins < 4000) pause_briefly();
    else std::this_thread::yield();           // somebody who holds a piece lost its core: give way
  }
}

}  // namespace owled
