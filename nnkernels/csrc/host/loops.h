// Loops over elements, rows and columns, in blocks of one 64-byte vector.
//
// All elements go through the same machine code, those of an incomplete last block in a padded copy:
// so an element's bits depend neither on how threads divide the work nor on where an array ends.
#pragma once
#include <cstring>
#include <tuple>

#include "kernel.h"

#if defined(__clang__)
#define NNK_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define NNK_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace nnk {

constexpr Cell BLOCK = 64 / sizeof(A);

// f(element of every array) for all `count` of them; it may change elements of arrays that are not
// const. An array may be given twice.
template <typename F, typename... E> inline void for_each(Cell count, F f, E*... arrays) {
  Cell i = 0;
  for (; i + BLOCK <= count; i += BLOCK) {
    NNK_INDEPENDENT
    for (Cell k = 0; k < BLOCK; ++k) f(arrays[i + k]...);
  }
  if (const Cell rest = count - i; rest > 0) {
    std::tuple<std::remove_const_t<E>[BLOCK]...> padded{};
    std::apply(
        [&](auto&... pads) {
          (std::memcpy(pads, arrays + i, rest * sizeof(E)), ...);
          NNK_INDEPENDENT
          for (Cell k = 0; k < BLOCK; ++k) f(static_cast<E&>(pads[k])...);
          const auto back = [&](auto* array, const auto& pad) {
            if constexpr (!std::is_const_v<std::remove_pointer_t<decltype(array)>>)
              std::memcpy(array + i, pad, rest * sizeof *array);
          };
          (back(arrays, pads), ...);
        },
        padded);
  }
}

// out[i] = f(in[i]...); `out` may be one of them.
template <typename O, typename F, typename... E>
inline void map(Cell count, O* out, F f, const E*... in) {
  for_each(count, [&](O& to, const E&... v) { to = f(v...); }, out, in...);
}

// The sum of f(in[i]...) in S: one sum for each place in a block, then these by pairs. Its order is
// decided by `count` alone.
template <typename S, typename F, typename... E>
inline S sum(Cell count, F f, const E*... in) {
  if (count < BLOCK) {
    S total = S(0);
    for (Cell i = 0; i < count; ++i) total += f(in[i]...);
    return total;
  }
  S lanes[BLOCK] = {};
  Cell i = 0;
  for (; i + BLOCK <= count; i += BLOCK) {
    NNK_INDEPENDENT
    for (Cell k = 0; k < BLOCK; ++k) lanes[k] += f(in[i + k]...);
  }
  for (Cell k = 0; i + k < count; ++k) lanes[k] += f(in[i + k]...);
#pragma GCC unroll 8
  for (Cell width = BLOCK / 2; width > 0; width /= 2)
    for (Cell k = 0; k < width; ++k) lanes[k] += lanes[k + width];
  return lanes[0];
}

inline A plain_sum(const A* row, Cell columns) {
  return sum<A>(columns, [](A v) { return v; }, row);
}

// Row by row: f(row number).
template <typename F> inline void for_rows(Items rows, F f) {
  for (Cell r = rows.first; r < rows.last; ++r) f(r);
}

constexpr Cell smaller(Cell a, Cell b) { return a < b ? a : b; }

}  // namespace nnk
