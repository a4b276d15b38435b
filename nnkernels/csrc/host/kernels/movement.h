// Moving and counting: rows of a batch, labels, hits.
#pragma once
#include <cstring>
#include <limits>

#include "../loops.h"

namespace nnk::kernels {

using Flag = unsigned char;

// Position of the first of the largest elements, or of the first NaN. A block is first compared as a
// whole; most hold nothing larger.
inline Cell largest(const A* row, Cell columns) {
  A best = -std::numeric_limits<A>::infinity();
  Cell place = 0;
  for (Cell start = 0; start < columns; start += BLOCK) {
    const Cell stop = smaller(start + BLOCK, columns);
    int found = columns < BLOCK;
    for (Cell j = start; j < stop; ++j) found |= !(row[j] <= best);
    if (!found) continue;
    for (Cell j = start; j < stop; ++j) {
      if (row[j] <= best) continue;
      best = row[j];
      place = j;
      if (best != best) return place;
    }
  }
  return place;
}

inline void gather_rows(Items items, const A* x, const Cell* rows, A* out, Cell d) {
  for (Cell i = items.first; i < items.last; ++i)
    std::memcpy(out + i * d, x + rows[i] * d, d * sizeof(A));
}

inline void gather_numbers(Items items, const Cell* x, const Cell* rows, Cell* out) {
  for (Cell i = items.first; i < items.last; ++i) out[i] = x[rows[i]];
}

inline void one_hot(Items items, const Cell* labels, A* out, Cell classes) {
  map(items.count() * classes, out + items.first * classes, [] { return A(0); });
  for (Cell i = items.first; i < items.last; ++i) out[i * classes + labels[i]] = A(1);
}

inline void argmax(Items items, const A* x, Cell* out, Cell c) {
  for (Cell i = items.first; i < items.last; ++i) out[i] = largest(x + i * c, c);
}

inline void hits_of_labels(Items items, const A* scores, const Cell* targets, Flag* hits, Cell c) {
  for (Cell i = items.first; i < items.last; ++i)
    hits[i] = largest(scores + i * c, c) == targets[i];
}

// Both rows are largest in the same column; of one column, both are above a threshold.
inline void hits_of_rows(Items items, const A* scores, const A* targets, Flag* hits,
                         double threshold, Cell c) {
  for (Cell i = items.first; i < items.last; ++i)
    hits[i] = c == 1 ? (scores[i] > threshold) == (targets[i] > A(0.5))
                     : largest(scores + i * c, c) == largest(targets + i * c, c);
}

inline void count_correct(Items, const Flag* hits, Cell* out, Cell b) {
  Cell total = 0;
  for (Cell i = 0; i < b; ++i) total += hits[i];
  *out = total;
}

inline constexpr nnk_kernel movement[] = {
    NNK_KERNEL("gather_rows", gather_rows, "x rows out d_size", "b", nullptr, 0),
    NNK_KERNEL("gather_rows", gather_numbers, "x rows out", "b", nullptr, 1),
    NNK_KERNEL("one_hot", one_hot, "labels out classes", "b", nullptr, -1),
    NNK_KERNEL("argmax", argmax, "x out c_size", "b", nullptr, -1),
    NNK_KERNEL("count_correct", hits_of_labels, "scores targets hits c_size", "b", "hits", 0),
    NNK_KERNEL("count_correct", hits_of_rows, "scores targets hits threshold c_size", "b", "hits",
               1),
    NNK_KERNEL("count_correct", count_correct, "hits out b_size", nullptr, "", -1),
};

}  // namespace nnk::kernels
