// The operators of nnkernels/catalog/bookkeeping.py that more than one kernel runs.
#pragma once
#include "../arithmetic/portable.h"

namespace nnk {

// Begin an update: its learning rate is that of the schedule, or beyond the end the last one.
NNK_FN void tick(long long* step, long long* epoch_step, double* learning_rate,
                 const double* schedule, long long entries) {
  const long long now = *epoch_step;
  *learning_rate = schedule[now < entries ? now : entries - 1];
  *epoch_step = now + 1;
  *step += 1;
}

}  // namespace nnk
