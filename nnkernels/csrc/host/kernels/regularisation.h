// Dropout by Philox, and penalties.
#pragma once
#include <cmath>

#include "../../arithmetic/philox.h"
#include "../loops.h"
#include "movement.h"
#include "sums.h"

namespace nnk::kernels {

constexpr Cell LANES_OF_BLOCK = 4;  // words of a Philox block

// 1 where the stream's word reaches the threshold, for `count` elements from number `first` on.
// `flags` has room for a block more.
inline const Flag* kept_flags(const Philox& stream, unsigned long long threshold, Cell first, Cell count,
                              Flag* flags) {
  const Cell lane = first % LANES_OF_BLOCK, block = first / LANES_OF_BLOCK;
  const Cell blocks = (lane + count + LANES_OF_BLOCK - 1) / LANES_OF_BLOCK;
  NNK_INDEPENDENT
  for (Cell i = 0; i < blocks; ++i) {
    const PhiloxBlock found = stream.block((unsigned long long)(block + i));
    for (Cell k = 0; k < LANES_OF_BLOCK; ++k)
      flags[LANES_OF_BLOCK * i + k] = found.words[k] >= threshold;
  }
  return flags + lane;
}

inline void dropout(Items items, const A* x, const Cell* seed, const Cell* step, A* y, Flag* mask,
                    double p, Cell layer, Cell first_row, Cell row_size) {
  constexpr Cell CHUNK = 1024;
  Flag flags[CHUNK + 2 * LANES_OF_BLOCK];
  const Philox stream{(unsigned long long)(*seed), unsigned(layer), unsigned(*step)};
  const unsigned long long threshold = (unsigned long long)std::ceil(p * 4294967296.0);
  const A scale = A(1 / (1 - p));
  for (Cell i = items.first; i < items.last; i += CHUNK) {
    const Cell count = smaller(items.last - i, CHUNK);
    const Flag* kept = kept_flags(stream, threshold, first_row * row_size + i, count, flags);
    if (mask != nullptr) std::memcpy(mask + i, kept, count);
    if (y == nullptr) continue;
    map(count, y + i, [=](A v, Flag k) { return v * (k ? scale : A(0)); }, x + i, kept);
  }
}

inline void dropout_backward(Items items, const A* grad, const Flag* mask, A* out, double p) {
  const A scale = A(1 / (1 - p));
  map(items.count(), out + items.first, [=](A g, Flag k) { return g * (k ? scale : A(0)); },
      grad + items.first, mask + items.first);
}

inline void penalty(Items, const double* partial, A* out, double strength) {
  *out = A(strength * sum_of_partial(partial));
}

// The sign of w; 0 or NaN where it is neither above nor below 0.
inline void l1_penalty_backward(Items items, const A* grad, const A* w, A* out, double strength) {
  const A slope = A(double(*grad) * strength);
  map(items.count(), out + items.first,
      [=](A v) { return v > A(0) ? slope : v < A(0) ? -slope : slope * v; }, w + items.first);
}

inline void l2_penalty_backward(Items items, const A* grad, const A* w, A* out, double strength) {
  const A slope = A(2 * double(*grad) * strength);
  map(items.count(), out + items.first, [=](A v) { return slope * v; }, w + items.first);
}

inline constexpr nnk_kernel regularisation[] = {
    NNK_KERNEL("dropout", dropout, "x seed step y mask p layer first_row row_size", "...", nullptr,
               -1),
    NNK_KERNEL("dropout_backward", dropout_backward, "grad mask out p", "...", nullptr, -1),
    NNK_KERNEL("l1_penalty", sizes_of_segments, "w partial ..._size", "64", "partial", -1),
    NNK_KERNEL("l1_penalty", penalty, "partial out strength", nullptr, nullptr, -1),
    NNK_KERNEL("l1_penalty_backward", l1_penalty_backward, "grad w out strength", "...", nullptr,
               -1),
    NNK_KERNEL("l2_penalty", squares_of_segments, "w partial ..._size", "64", "partial", -1),
    NNK_KERNEL("l2_penalty", penalty, "partial out strength", nullptr, nullptr, -1),
    NNK_KERNEL("l2_penalty_backward", l2_penalty_backward, "grad w out strength", "...", nullptr,
               -1),
};

}  // namespace nnk::kernels
