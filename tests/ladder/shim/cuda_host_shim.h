// Runs CUDA C++ kernels on a CPU: g++ -include cuda_host_shim.h.
//
// One block at a time. Every thread of it is a fiber, which runs until it comes to a barrier or a
// warp operation; so runs repeat, and a seed chooses the order of the threads and of the blocks. A
// kernel that lacks a barrier gives other results for other seeds. Refused are barriers that not all
// threads reach, or at different places, and warp operations that wait for lanes that never come.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define SHIM_ASAN 1
#else
#define SHIM_ASAN 0
#endif

// NVRTC has no standard headers.
#undef INFINITY
#undef NAN

// --- the language ---------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static  // of the one block that runs

struct dim3 {
  unsigned x, y, z;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

using std::max;
using std::min;

// --- threads --------------------------------------------------------------------------------------

namespace shim {

constexpr unsigned LANES = 32;
constexpr size_t STACK = 64 * 1024;
constexpr unsigned NO_LANE = LANES;

enum class State { ready, at_barrier, in_warp, done };

struct Fiber {
  ucontext_t context;
  unsigned thread = 0;
  State state = State::ready;
  int place = 0;           // line of the barrier where it waits
  unsigned mask = 0;       // lanes that its warp operation waits for
  uint64_t value = 0;      // what it gives to a warp operation
  char* stack = nullptr;
  void* fake_stack = nullptr;
};

// What is running; there is one launch at a time.
struct Machine {
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  std::function<void()> kernel;
  dim3 grid{1, 1, 1}, block{1, 1, 1}, at{0, 0, 0};
  std::string fault;

  ucontext_t scheduler;
  void* scheduler_fake = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_size = 0;
};

inline Machine machine;

inline void fault(const std::string& what) {
  if (machine.fault.empty()) machine.fault = what;
}

// --- switching ------------------------------------------------------------------------------------

inline void leave_to(const void* stack, size_t size, void** fake) {
#if SHIM_ASAN
  __sanitizer_start_switch_fiber(fake, stack, size);
#endif
}

// A fiber that is done leaves its frames behind.
inline void forget_frames(char* stack) {
#if SHIM_ASAN
  __asan_unpoison_memory_region(stack, STACK);
#endif
}

inline void arrive(void* fake, const void** stack, size_t* size) {
#if SHIM_ASAN
  __sanitizer_finish_switch_fiber(fake, stack, size);
#endif
}

// Leave the current fiber in `state`; returns when it runs again.
inline void suspend(State state) {
  Fiber& fiber = *machine.current;
  fiber.state = state;
  leave_to(machine.scheduler_stack, machine.scheduler_size,
           state == State::done ? nullptr : &fiber.fake_stack);
  swapcontext(&fiber.context, &machine.scheduler);
  arrive(fiber.fake_stack, &machine.scheduler_stack, &machine.scheduler_size);
}

inline void fiber_main() {
  arrive(nullptr, &machine.scheduler_stack, &machine.scheduler_size);
  machine.kernel();
  suspend(State::done);
}

inline void resume(Fiber& fiber) {
  machine.current = &fiber;
  leave_to(fiber.stack, STACK, &machine.scheduler_fake);
  swapcontext(&machine.scheduler, &fiber.context);
  arrive(machine.scheduler_fake, nullptr, nullptr);
}

// --- scheduling -----------------------------------------------------------------------------------

inline unsigned waiting(State state) {
  return std::count_if(machine.fibers.begin(), machine.fibers.end(),
                       [=](const Fiber& fiber) { return fiber.state == state; });
}

// Let go the warps whose operation has all its lanes; false if there are none.
inline bool release_warps() {
  bool released = false;
  for (size_t first = 0; first < machine.fibers.size(); first += LANES) {
    const size_t last = std::min(first + LANES, machine.fibers.size());
    unsigned arrived = 0;
    for (size_t i = first; i < last; ++i)
      if (machine.fibers[i].state == State::in_warp) arrived |= 1u << (i - first);
    for (size_t i = first; i < last; ++i) {
      Fiber& fiber = machine.fibers[i];
      if (!(arrived >> (i - first) & 1) || (fiber.mask & ~arrived)) continue;
      fiber.state = State::ready;
      released = true;
    }
  }
  return released;
}

// Let go a barrier that all threads have reached.
inline bool release_barrier() {
  const unsigned at_barrier = waiting(State::at_barrier);
  if (at_barrier < machine.fibers.size()) {
    fault("barrier divergence: " + std::to_string(at_barrier) + " of " +
          std::to_string(machine.fibers.size()) + " threads wait, others are done or in a warp");
    return false;
  }
  for (Fiber& fiber : machine.fibers) {
    if (fiber.place != machine.fibers[0].place) fault("threads wait at different barriers");
    fiber.state = State::ready;
  }
  return true;
}

inline void run_block(const std::vector<unsigned>& order) {
  while (machine.fault.empty() && waiting(State::done) < machine.fibers.size()) {
    bool ran = false;
    for (unsigned i : order) {
      if (machine.fibers[i].state != State::ready) continue;
      resume(machine.fibers[i]);
      ran = true;
      if (!machine.fault.empty()) return;
    }
    if (ran || release_warps()) continue;
    if (waiting(State::in_warp)) return fault("a warp operation waits for lanes that never come");
    if (!release_barrier()) return;
  }
}

// 0, 1, ..., in an order that `seed` chooses; 0 keeps it.
inline std::vector<unsigned> shuffled(unsigned count, unsigned seed) {
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), 0u);
  std::mt19937 draw(seed);
  if (seed) std::shuffle(order.begin(), order.end(), draw);
  return order;
}

inline void start(Fiber& fiber, unsigned thread, char* stack) {
  fiber = Fiber();
  fiber.thread = thread;
  fiber.stack = stack;
  forget_frames(stack);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = STACK;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
}

// Run `count` blocks of a kernel from block `first` on; what went wrong, or nothing.
inline std::string launch(std::function<void()> kernel, dim3 grid, unsigned threads,
                          unsigned first, unsigned count, unsigned seed) {
  machine.kernel = std::move(kernel);
  machine.grid = grid;
  machine.block = {threads, 1, 1};
  machine.fault.clear();
  machine.fibers.assign(threads, Fiber());
  const std::unique_ptr<char[]> stacks(new char[threads * STACK]);
  for (unsigned ahead : shuffled(count, seed)) {
    const unsigned number = first + ahead;
    machine.at = {number % grid.x, number / grid.x, 0};
    for (unsigned i = 0; i < threads; ++i) start(machine.fibers[i], i, &stacks[i * STACK]);
    run_block(shuffled(threads, seed ? seed + number : 0));
    if (!machine.fault.empty()) break;
  }
  for (unsigned i = 0; i < threads; ++i) forget_frames(&stacks[i * STACK]);
  return machine.fault;
}

// --- barriers and warps -----------------------------------------------------------------------------

inline void barrier(int place) {
  machine.current->place = place;
  suspend(State::at_barrier);
}

// The value that lane `source` of the warp gives, or one's own for NO_LANE.
inline uint64_t exchange(unsigned mask, uint64_t value, unsigned source) {
  Fiber& fiber = *machine.current;
  const unsigned lane = fiber.thread % LANES, first = fiber.thread - lane;
  if (!(mask >> lane & 1)) fault("a lane takes part in a warp operation that leaves it out");
  if (source != NO_LANE && !(mask >> source & 1)) fault("a shuffle reads a lane outside its mask");
  fiber.mask = mask;
  fiber.value = value;
  suspend(State::in_warp);  // until all have given theirs
  const uint64_t result = source == NO_LANE ? value : machine.fibers[first + source].value;
  suspend(State::in_warp);  // until all have read
  return result;
}

template <typename V> V exchange(unsigned mask, V value, unsigned source) {
  static_assert(sizeof(V) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(mask, bits, source);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline unsigned lane() { return machine.current->thread % LANES; }
inline dim3 thread_index() { return {machine.current->thread, 0, 0}; }

}  // namespace shim

#define threadIdx (shim::thread_index())
#define blockIdx (shim::machine.at)
#define blockDim (shim::machine.block)
#define gridDim (shim::machine.grid)
#define warpSize 32
#define __syncthreads() shim::barrier(__LINE__)

inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::exchange(mask, 0, shim::NO_LANE); }

template <typename V> V __shfl_xor_sync(unsigned mask, V value, unsigned distance) {
  return shim::exchange(mask, value, shim::lane() ^ distance);
}

template <typename V> V __shfl_down_sync(unsigned mask, V value, unsigned distance) {
  const unsigned source = shim::lane() + distance;
  return shim::exchange(mask, value, source < shim::LANES ? source : shim::NO_LANE);
}

template <typename V> V __shfl_sync(unsigned mask, V value, unsigned source) {
  return shim::exchange(mask, value, source % shim::LANES);
}

// Blocks run one after the other, and fibers are never interrupted.
inline void __threadfence() {}

inline unsigned atomicInc(unsigned* address, unsigned last) {
  const unsigned before = *address;
  *address = before >= last ? 0 : before + 1;
  return before;
}

inline unsigned atomicAdd(unsigned* address, unsigned value) {
  const unsigned before = *address;
  *address += value;
  return before;
}

inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float __uint_as_float(unsigned bits) { return __int_as_float(int(bits)); }
