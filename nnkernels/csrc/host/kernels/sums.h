// Sums over a whole array that do not depend on how threads divide it: the array is cut into a fixed
// number of segments, a phase over these leaves the sum of each, and another adds these up in order.
#pragma once
#include "../loops.h"

namespace nnk::kernels {

constexpr Cell SEGMENTS = 64;

struct Segment {
  const A* first;
  Cell count;
};

inline Segment segment(const A* x, Cell count, Cell number) {
  const Cell begin = number * count / SEGMENTS, end = (number + 1) * count / SEGMENTS;
  return {x + begin, end - begin};
}

// In short blocks: squares of floats have 48 bits, whose last ones longer sums would always round down. Each
// term is taken in double, where no square overflows.
template <typename F> inline double sum_of_segment(Segment s, F f) {
  constexpr Cell PIECE = 1024;
  double total = 0;
  for (Cell i = 0; i < s.count; i += PIECE)
    total += sum<double>(smaller(s.count - i, PIECE), f, s.first + i);
  return total;
}

inline void squares_of_segments(Items items, const A* x, double* partial, Cell count) {
  for (Cell i = items.first; i < items.last; ++i)
    partial[i] = sum_of_segment(segment(x, count, i), [](A v) { return double(v) * double(v); });
}

inline void sizes_of_segments(Items items, const A* x, double* partial, Cell count) {
  for (Cell i = items.first; i < items.last; ++i)
    partial[i] = sum_of_segment(segment(x, count, i), [](A v) { return double(nnk::abs(v)); });
}

inline double sum_of_partial(const double* partial) {
  double total = 0;
  for (Cell i = 0; i < SEGMENTS; ++i) total += partial[i];
  return total;
}

}  // namespace nnk::kernels
