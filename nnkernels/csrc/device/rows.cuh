// The rows of a matrix: one to a warp, which keeps it in registers, or one to a block, which reads
// it anew on every pass. Kernels are written once, for a Team that is either.
#pragma once
#include "reduce.cuh"
#include "vector.cuh"

namespace nnk {

constexpr unsigned KEPT = 4;  // elements of a row in a lane: a warp takes up to 128 columns

// A row's elements are what read(column) gives; each(f) calls f(column, element) for those of the
// calling thread.
template <typename Element> struct WarpRow {
  Element kept[KEPT] = {};  // the compiler may compute with what no lane reads
  unsigned columns;

  template <typename Read> NNK_FN WarpRow(Read read, unsigned columns) : columns(columns) {
#pragma unroll
    for (unsigned k = 0; k < KEPT; ++k)
      if (lane() + k * LANES < columns) kept[k] = read(lane() + k * LANES);
  }
  template <typename Function> NNK_FN void each(Function f) const {
#pragma unroll
    for (unsigned k = 0; k < KEPT; ++k)
      if (lane() + k * LANES < columns) f(lane() + k * LANES, kept[k]);
  }
};

template <typename Read> struct BlockRow {
  Read read;
  unsigned columns;

  template <typename Function> NNK_FN void each(Function f) const {
    for (unsigned c = threadIdx.x; c < columns; c += blockDim.x) f(c, read(c));
  }
};

// first() and count() number the teams of the grid; leads() is true in one thread of each.
struct WarpTeam {
  static NNK_FN unsigned first() { return blockIdx.x * warps() + warp(); }
  static NNK_FN unsigned count() { return gridDim.x * warps(); }
  static NNK_FN bool leads() { return lane() == 0; }
  template <typename Read> static NNK_FN auto row(Read read, unsigned columns) {
    return WarpRow<decltype(read(0u))>(read, columns);
  }
  template <typename Combine, typename V> static NNK_FN V reduce(V value) {
    return warp_reduce<Combine>(value);
  }
};

struct BlockTeam {
  static NNK_FN unsigned first() { return blockIdx.x; }
  static NNK_FN unsigned count() { return gridDim.x; }
  static NNK_FN bool leads() { return threadIdx.x == 0; }
  template <typename Read> static NNK_FN auto row(Read read, unsigned columns) {
    return BlockRow<Read>{read, columns};
  }
  template <typename Combine, typename V> static NNK_FN V reduce(V value) {
    return block_reduce<Combine>(value);
  }
};

// f(row, offset of its first element) for all rows of the calling thread's team.
template <typename Team, typename Function>
NNK_FN void each_row(unsigned rows, unsigned columns, Function f) {
  for (unsigned row = Team::first(); row < rows; row += Team::count())
    f(row, Offset(row) * columns);
}

template <typename Team> NNK_FN auto loaded_row(const T* row, unsigned columns) {
  return Team::row([=](unsigned c) { return load(row[c]); }, columns);
}

// The largest element of a row of numbers.
template <typename Team, typename Row> NNK_FN A maximum(const Row& row) {
  A top = -infinity();
  row.each([&](unsigned, A v) { top = Larger()(top, v); });
  return Team::template reduce<Larger>(top);
}

// The column of the first element that is `top`, the largest one or NaN.
template <typename Team, typename Row> NNK_FN unsigned first_at(const Row& row, A top) {
  unsigned column = ~0u;
  row.each([&](unsigned c, A v) {
    if ((v == top || v != v) && c < column) column = c;  // only a row with NaN has NaN on top
  });
  return Team::template reduce<Smaller>(column);
}

template <typename Team, typename Row> NNK_FN unsigned largest_column(const Row& row) {
  return first_at<Team>(row, maximum<Team>(row));
}

// What turns a row into its softmax: exp(x - top) / sum, finite for finite x of any size. NaN or
// +inf in the row makes `sum` NaN, and so does a row of -inf.
struct Normaliser {
  A top, sum;
};

template <typename Team, typename Row> NNK_FN Normaliser normaliser(const Row& row) {
  const A top = maximum<Team>(row);
  A sum = 0;
  row.each([&](unsigned, A v) { sum += nnk::exp(v - top); });
  return {top, Team::template reduce<Add>(sum)};
}

// --- narrow rows side by side in a block ---------------------------------------------------------

// A block as a tile of 2^shift columns: many narrow rows at once, without a division.
struct Tile {
  unsigned shift;

  NNK_FN unsigned first_row() const { return blockIdx.x * height() + (threadIdx.x >> shift); }
  NNK_FN unsigned rows() const { return gridDim.x * height(); }
  NNK_FN unsigned first_column() const { return threadIdx.x & (columns() - 1); }
  NNK_FN unsigned columns() const { return 1u << shift; }
  NNK_FN unsigned height() const { return blockDim.x >> shift; }

  template <typename Function> NNK_FN void each_row(unsigned count, Function f) const {
    for (unsigned row = first_row(); row < count; row += rows()) f(row);
  }
  template <typename Function> NNK_FN void each_column(unsigned count, Function f) const {
    for (unsigned c = first_column(); c < count; c += columns()) f(c);
  }
  // Copy a row of `count` elements, a multiple of WIDTH, so many at a time.
  template <unsigned WIDTH, typename V>
  NNK_FN void copy(const V* from, V* to, unsigned count) const {
    typedef Neighbours<V, WIDTH> Item;
    const Item* source = (const Item*)from;
    Item* destination = (Item*)to;
    each_column(count / WIDTH, [=](unsigned c) { destination[c] = source[c]; });
  }
};

}  // namespace nnk
