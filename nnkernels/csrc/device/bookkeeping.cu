// What a step keeps count of: single numbers of the State, each changed by one thread.
#include "bookkeeping.cuh"

extern "C" __global__ void NNK_BOUNDS(32)
    accumulate(double* __restrict__ total, const A* __restrict__ value, double weight,
               const long long* skip) {
  if (skip && *skip) return;
  *total += weight * double(*value);
}

extern "C" __global__ void NNK_BOUNDS(32)
    count(double* __restrict__ total, const long long* __restrict__ value, const long long* skip) {
  if (skip && *skip) return;
  *total += double(*value);
}

extern "C" __global__ void NNK_BOUNDS(32)
    advance(long long* __restrict__ row, long long rows, const long long* skip) {
  if (skip && *skip) return;
  *row += rows;
}

extern "C" __global__ void NNK_BOUNDS(32)
    tick(long long* __restrict__ step, long long* __restrict__ epoch_step,
         double* __restrict__ learning_rate, const double* __restrict__ schedule,
         long long entries, const long long* skip) {
  if (skip && *skip) return;
  nnk::tick(step, epoch_step, learning_rate, schedule, entries);
}

// Keep all update kernels from a step whose loss is not finite.
extern "C" __global__ void NNK_BOUNDS(32)
    guard(const A* __restrict__ loss, long long* __restrict__ diverged) {
  if (!nnk::is_finite(*loss)) *diverged = 1;
}
