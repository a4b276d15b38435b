// How a kernel is declared and called. One C signature serves all: a record of 64-bit cells with the
// addresses of its arrays, then its parameters (doubles by their bits), then the sizes that it asks
// for, and the items [first, last) that it is to compute. The Python side of it is
// nnkernels/backends/_compiled/record.py.
#pragma once
#include <cstdint>
#include <type_traits>
#include <utility>

#include "library.h"

namespace nnk {

using Cell = std::int64_t;

// The items to compute, along the dimension that a kernel is divided over.
struct Items {
  Cell first, last;

  Cell count() const { return last - first; }
};

template <typename V> inline V from_cell(Cell cell) {
  if constexpr (std::is_pointer_v<V>) {
    return reinterpret_cast<V>(cell);
  } else {
    return __builtin_bit_cast(V, cell);
  }
}

// A function (Items, arguments...) as one that takes a record.
template <auto FUNCTION> struct Recorded;

template <typename... V, void (*FUNCTION)(Items, V...)> struct Recorded<FUNCTION> {
  static Cell call(const Cell* record, Cell first, Cell last) {
    unpack(record, Items{first, last}, std::index_sequence_for<V...>());
    return 0;
  }

 private:
  template <std::size_t... I>
  static void unpack(const Cell* record, Items items, std::index_sequence<I...>) {
    FUNCTION(items, from_cell<V>(record[I])...);
  }
};

}  // namespace nnk

// An entry of a table: operator, function, names of the arguments, the dimension that is divided (null:
// everything at once), what it is run for (null: the outputs among its arguments), alternative (-1: any).
#define NNK_KERNEL(op, function, arguments, over, makes, alternative)                             \
  {op, arguments, over, makes, alternative, &nnk::Recorded<&function>::call}
