// Loops over elements, rows and columns.
//
// All elements go through the same machine code, a vectorised loop over whole blocks; those of an incomplete
// last block in a padded copy. So an element's bits depend neither on how threads divide the work nor on
// where an array ends.
#pragma once
#include <cstring>
#include <tuple>

#include "kernel.h"

#if defined(__clang__)
#define NNK_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#define NNK_ONE_COPY __attribute__((noinline))
#else
#define NNK_INDEPENDENT _Pragma("GCC ivdep")
#define NNK_ONE_COPY __attribute__((noinline, noclone))
#endif

namespace nnk {

constexpr Cell BLOCK = 64 / sizeof(A);

constexpr Cell smaller(Cell a, Cell b) { return a < b ? a : b; }

// In a copy for a known count the compiler might choose other instructions.
template <typename F, typename... E>
NNK_ONE_COPY void for_blocks(Cell blocks, F f, E*... arrays) {
  NNK_INDEPENDENT
  for (Cell i = 0; i < blocks * BLOCK; ++i) f(arrays[i]...);
}

// f(element of every array) for all `count` of them; it may change elements of arrays that are not
// const. An array may be given twice.
template <typename F, typename... E> inline void for_each(Cell count, F f, E*... arrays) {
  const Cell blocks = count / BLOCK, rest = count % BLOCK;
  if (blocks > 0) for_blocks(blocks, f, arrays...);
  if (rest == 0) return;
  std::tuple<std::remove_const_t<E>[BLOCK]...> padded{};
  std::apply(
      [&](auto&... pads) {
        const Cell begin = count - rest;
        (std::memcpy(pads, arrays + begin, rest * sizeof(E)), ...);
        for_blocks(1, f, static_cast<E*>(pads)...);
        const auto back = [&](auto* array, const auto& pad) {
          if constexpr (!std::is_const_v<std::remove_pointer_t<decltype(array)>>)
            std::memcpy(array + begin, pad, rest * sizeof *array);
        };
        (back(arrays, pads), ...);
      },
      padded);
}

// out[i] = f(in[i]...); `out` may be one of them.
template <typename O, typename F, typename... E>
inline void map(Cell count, O* out, F f, const E*... in) {
  for_each(count, [f](O& to, const E&... v) { to = f(v...); }, out, in...);
}

// The sum of `count` numbers: one sum for each place in a vector of 64 bytes, then these by pairs.
template <typename S> inline S sum_of(const S* numbers, Cell count) {
  typedef S Lanes __attribute__((vector_size(64)));
  typedef S Unaligned __attribute__((vector_size(64), aligned(sizeof(S)), may_alias));
  constexpr Cell WIDTH = 64 / sizeof(S);
  Lanes total{};
  Cell i = 0;
  for (; i + WIDTH <= count; i += WIDTH)
    total += *reinterpret_cast<const Unaligned*>(numbers + i);
  for (Cell k = 0; i + k < count; ++k) total[k] += numbers[i + k];
  S lanes[WIDTH];
  std::memcpy(lanes, &total, sizeof lanes);
#pragma GCC unroll 4
  for (Cell width = WIDTH / 2; width > 0; width /= 2)
    for (Cell k = 0; k < width; ++k) lanes[k] += lanes[k + width];
  return lanes[0];
}

// The sum of f(in[i]...) in S, piece by piece. Its order is decided by `count` alone.
template <typename S, typename F, typename... E>
inline S sum(Cell count, F f, const E*... in) {
  constexpr Cell PIECE = 256;
  S terms[PIECE], total = S(0);
  if (count < BLOCK) {
    for (Cell i = 0; i < count; ++i) total += f(in[i]...);
    return total;
  }
  for (Cell i = 0; i < count; i += PIECE) {
    const Cell size = smaller(count - i, PIECE);
    map(size, terms, f, in + i...);
    total += sum_of(terms, size);
  }
  return total;
}

inline A plain_sum(const A* row, Cell columns) { return sum_of(row, columns); }

// Row by row: f(row number).
template <typename F> inline void for_rows(Items rows, F f) {
  for (Cell r = rows.first; r < rows.last; ++r) f(r);
}

}  // namespace nnk
