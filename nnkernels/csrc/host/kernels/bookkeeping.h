// Counters and sums of a step: single numbers.
#pragma once
#include "../loops.h"

namespace nnk::kernels {

inline void accumulate(Items, double* total, const A* value, double weight) {
  *total += weight * double(*value);
}
inline void count(Items, double* total, const Cell* value) { *total += double(*value); }
inline void advance(Items, Cell* row, Cell rows) { *row += rows; }

// The learning rate is the schedule's entry of this step, or its last one; both counters grow by one.
inline void tick(Items, Cell* step, Cell* epoch_step, double* learning_rate,
                 const double* schedule, Cell entries) {
  *learning_rate = schedule[smaller(*epoch_step, entries - 1)];
  ++*step;
  ++*epoch_step;
}

inline constexpr nnk_kernel bookkeeping[] = {
    NNK_KERNEL("accumulate", accumulate, "total value weight", nullptr, "", -1),
    NNK_KERNEL("count", count, "total value", nullptr, "", -1),
    NNK_KERNEL("advance", advance, "row rows", nullptr, "", -1),
    NNK_KERNEL("tick", tick, "step epoch_step learning_rate schedule s_size", nullptr, "", -1),
};

}  // namespace nnk::kernels
