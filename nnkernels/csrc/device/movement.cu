// Moving and counting: rows of a batch, labels, hits. Indices are checked by the caller.
#include "cross_entropy.cuh"
#include "rows.cuh"
#include "vector.cuh"

namespace nnk {

template <unsigned WIDTH, typename V>
NNK_FN void gather(const V* __restrict__ x, const long long* __restrict__ order,
                   V* __restrict__ out, unsigned rows, unsigned columns, Tile tile) {
  tile.each_row(rows, [=](unsigned row) {
    tile.copy<WIDTH>(x + order[row] * columns, out + Offset(row) * columns, columns);
  });
}

template <typename Team>
NNK_FN void argmax(const T* __restrict__ x, long long* __restrict__ out, unsigned rows,
                   unsigned columns) {
  each_row<Team>(rows, columns, [=](unsigned row, Offset start) {
    const unsigned column = largest_column<Team>(loaded_row<Team>(x + start, columns));
    if (Team::leads()) out[row] = column;
  });
}

template <typename Team, typename Target>
NNK_FN void count_correct(const T* __restrict__ scores, const Target* __restrict__ targets,
                          long long* partial, unsigned rows, unsigned columns) {
  long long hits = 0;
  each_row<Team>(rows, columns, [&](unsigned row, Offset start) {
    const unsigned column = largest_column<Team>(loaded_row<Team>(scores + start, columns));
    const bool hit = column == target_row(targets, row, columns).template largest<Team>();
    if (Team::leads()) hits += hit;
  });
  leave_block_sum(hits, partial);
}

}  // namespace nnk

#define NNK_GATHER(name, Value, WIDTH)                                                            \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      name(const Value* __restrict__ x, const long long* __restrict__ rows,                       \
           Value* __restrict__ out, unsigned count, unsigned columns, unsigned shift) {           \
    nnk::gather<WIDTH>(x, rows, out, count, columns, nnk::Tile{shift});                           \
  }

NNK_GATHER(gather_rows, T, 1)
NNK_GATHER(gather_rows_vec, T, NNK_VEC)
NNK_GATHER(gather_numbers, long long, 1)

extern "C" __global__ void NNK_BOUNDS(256)
    one_hot(const long long* __restrict__ labels, T* __restrict__ out, unsigned rows,
            unsigned classes, unsigned shift) {
  const nnk::Tile tile{shift};
  tile.each_row(rows, [=](unsigned row) {
    const nnk::LabelRow target = nnk::target_row(labels, row, classes);
    T* to = out + nnk::Offset(row) * classes;
    tile.each_column(classes, [=](unsigned c) { to[c] = nnk::store(target.probability(c)); });
  });
}

#define NNK_ARGMAX(variant, Team)                                                                 \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      argmax##variant(const T* __restrict__ x, long long* __restrict__ out, unsigned rows,        \
                      unsigned columns) {                                                         \
    nnk::argmax<nnk::Team>(x, out, rows, columns);                                                \
  }

#define NNK_COUNT_CORRECT(variant, Target, Team)                                                  \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      count_correct##variant(const T* __restrict__ scores, const Target* __restrict__ targets,    \
                             long long* __restrict__ partial, unsigned rows, unsigned columns) {  \
    nnk::count_correct<nnk::Team>(scores, targets, partial, rows, columns);                       \
  }

NNK_ARGMAX(_warp, WarpTeam)
NNK_ARGMAX(_block, BlockTeam)
NNK_COUNT_CORRECT(_labels_warp, long long, WarpTeam)
NNK_COUNT_CORRECT(_labels_block, long long, BlockTeam)
NNK_COUNT_CORRECT(_rows_warp, T, WarpTeam)
NNK_COUNT_CORRECT(_rows_block, T, BlockTeam)

// One column: a score above `threshold`, or a target above 1/2, stands for class 1.
extern "C" __global__ void NNK_BOUNDS(256)
    count_correct_binary(const T* __restrict__ scores, const T* __restrict__ targets,
                         long long* __restrict__ partial, A threshold, unsigned long long n) {
  long long hits = 0;
  nnk::each_pack<1>(n, [&](nnk::Offset i) {
    hits += (nnk::load(scores[i]) > threshold) == (nnk::load(targets[i]) > A(0.5));
  });
  nnk::leave_block_sum(hits, partial);
}

// The hits of all blocks; one block.
extern "C" __global__ void NNK_BOUNDS(256)
    total_hits(const long long* __restrict__ partial, long long* __restrict__ out,
               unsigned count) {
  long long hits = 0;
  for (unsigned i = threadIdx.x; i < count; i += blockDim.x) hits += partial[i];
  hits = nnk::block_sum(hits);
  if (threadIdx.x == 0) *out = hits;
}
