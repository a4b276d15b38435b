// Reductions over a warp, a block and a grid: deterministic, and every thread gets the result.
//
// Threads of a block are whole warps, and all of them must call. Combinations are function objects
// that are commutative in every bit, so that all lanes of a butterfly hold the same.
#pragma once
#include "../arithmetic/portable.h"

namespace nnk {

constexpr unsigned LANES = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr unsigned MAX_WARPS = 32;

NNK_FN unsigned lane() { return threadIdx.x % LANES; }
NNK_FN unsigned warp() { return threadIdx.x / LANES; }
NNK_FN unsigned warps() { return blockDim.x / LANES; }

// --- combinations --------------------------------------------------------------------------------

// neutral(v): what changes nothing beside v.

struct Add {
  template <typename V> NNK_FN V operator()(V a, V b) const { return a + b; }
  template <typename V> NNK_FN V neutral(V) const { return V(0); }
};

// The larger one, NaN if either is; fmax would drop it.
struct Larger {
  template <typename V> NNK_FN V operator()(V a, V b) const { return a > b || a != a ? a : b; }
  template <typename V> NNK_FN V neutral(V v) const { return v; }
};

struct Smaller {
  template <typename V> NNK_FN V operator()(V a, V b) const { return a < b || a != a ? a : b; }
  template <typename V> NNK_FN V neutral(V v) const { return v; }
};

// --- over a warp and a block ---------------------------------------------------------------------

template <typename Combine, typename V> NNK_FN V warp_reduce(V value) {
#pragma unroll
  for (unsigned distance = LANES / 2; distance > 0; distance /= 2)
    value = Combine()(value, __shfl_xor_sync(ALL_LANES, value, distance));
  return value;
}

template <typename Combine, typename V> NNK_FN V block_reduce(V value) {
  __shared__ V partial[MAX_WARPS];
  value = warp_reduce<Combine>(value);
  if (lane() == 0) partial[warp()] = value;
  __syncthreads();
  value = lane() < warps() ? partial[lane()] : Combine().neutral(value);
  __syncthreads();  // the next reduction writes here again
  return warp_reduce<Combine>(value);
}

template <typename V> NNK_FN V warp_sum(V value) { return warp_reduce<Add>(value); }
template <typename V> NNK_FN V block_sum(V value) { return block_reduce<Add>(value); }

// --- long sums -----------------------------------------------------------------------------------

// A sum that carries its rounding error along: exact to a rounding or two for terms of one sign,
// however many a thread adds up.
template <typename V> struct RunningSum {
  V sum = V(0), lost = V(0);

  NNK_FN void add(V term) {
    const V next = sum + term, taken = next - sum;
    lost += term - taken;
    sum = next;
  }
  // Beyond an overflow, what was lost is NaN.
  NNK_FN V value() const { return lost == lost ? sum + lost : sum; }
};

// The sum of an array, by the threads of one block.
template <typename V> NNK_FN V sum_by_block(const V* values, unsigned count) {
  RunningSum<V> total;
  for (unsigned i = threadIdx.x; i < count; i += blockDim.x) total.add(values[i]);
  return block_sum(total.value());
}

// The block's sum goes to its place in `partial`.
template <typename V> NNK_FN void leave_block_sum(V mine, V* partial) {
  const V sum = block_sum(mine);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// --- over a grid ---------------------------------------------------------------------------------

// True in all threads of the block that comes here last: it sees what all others wrote before.
// Which one it is differs from run to run, so it must not matter. `arrived` is 0 before and after.
NNK_FN bool is_last_block(unsigned* arrived) {
  __shared__ unsigned before;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) before = atomicInc(arrived, gridDim.x - 1);
  __syncthreads();
  __threadfence();
  return before == gridDim.x - 1;
}

}  // namespace nnk
