// What makes a training step few launches: the batch in one, the end of the forward pass in one.
#include "bookkeeping.cuh"
#include "cross_entropy.cuh"
#include "rows.cuh"
#include "vector.cuh"

namespace nnk {

// --- the batch -----------------------------------------------------------------------------------

// Rows `*first` and following of the data, or those that `order` has there, and their targets.
template <unsigned WIDTH, typename Target>
NNK_FN void gather_step(const T* __restrict__ x, const Target* __restrict__ targets,
                        const long long* __restrict__ order, const long long* __restrict__ first,
                        T* __restrict__ x_out, Target* __restrict__ targets_out, unsigned rows,
                        unsigned columns, unsigned target_columns, Tile tile) {
  const long long start = *first;
  tile.each_row(rows, [=](unsigned row) {
    const long long from = order ? order[start + row] : start + row;
    tile.copy<WIDTH>(x + from * columns, x_out + Offset(row) * columns, columns);
    tile.copy<1>(targets + from * target_columns, targets_out + Offset(row) * target_columns,
                 target_columns);
  });
}

// --- the end of the forward pass -----------------------------------------------------------------

// Where results go; null where nobody wants one. `biased` are the logits with their bias, `bias_grad`
// the column sums of `d_logits`.
struct HeadOutputs {
  T *biased, *probs, *d_logits, *bias_grad;
  A* loss;
};

// A sum for every block, and the number of blocks that are done: 0 between launches.
struct HeadScratch {
  A* losses;
  unsigned *hits, *arrived;
};

// What a step changes in the State; null where the Program does not. With `diverged`, a step whose
// loss is not finite changes nothing else, and neither does any step after it.
struct Ledger {
  double *loss_sum, *metric;
  long long *step, *epoch_step;
  double* learning_rate;
  const double* schedule;
  long long *row, *diverged;
  double weight;
  long long entries, advance;

  NNK_FN void enter(A loss, unsigned hits) const {
    if (diverged && !is_finite(loss)) *diverged = 1;
    if (diverged && *diverged) return;
    if (loss_sum) *loss_sum += weight * double(loss);
    if (metric) *metric += double(hits);
    if (schedule) tick(step, epoch_step, learning_rate, schedule, entries);
    if (row) *row += advance;
  }
};

// The sums over the rows, by one block of a power of two threads.
NNK_FN void column_sums(const T* matrix, T* out, unsigned rows, unsigned columns, Tile tile) {
  __shared__ A sums[256];
  for (unsigned left = 0; left < columns; left += tile.columns()) {
    const unsigned c = left + tile.first_column();
    A sum = 0;
    if (c < columns) {
#pragma unroll 8
      for (unsigned row = threadIdx.x >> tile.shift; row < rows; row += tile.height())
        sum += load(matrix[Offset(row) * columns + c]);
    }
    sums[threadIdx.x] = sum;
    for (unsigned half = blockDim.x / 2; half >= tile.columns(); half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x < tile.columns() && c < columns) out[c] = store(sums[threadIdx.x]);
    __syncthreads();
  }
}

// One block's rows: its share of the loss and of the hits go to the scratch.
template <typename Team, typename Target>
NNK_FN void head_rows(const T* logits, const T* bias, const Target* targets, HeadOutputs out,
                      HeadScratch scratch, A scale, unsigned rows, unsigned columns) {
  RunningSum<A> loss;
  unsigned hits = 0;
  each_row<Team>(rows, columns, [&](unsigned row, Offset start) {
    const auto x = Team::row(
        [=](unsigned c) { return load(logits[start + c]) + (bias ? load(bias[c]) : A(0)); },
        columns);
    if (out.biased) x.each([=](unsigned c, A v) { out.biased[start + c] = store(v); });
    const auto target = target_row(targets, row, columns);
    const Normaliser by = normaliser<Team>(x);
    const bool hit = first_at<Team>(x, by.top) == target.template largest<Team>();
    if (Team::leads()) hits += hit;
    cross_entropy_row<Team>(x, by, target, loss, out.probs ? out.probs + start : nullptr,
                            out.d_logits ? out.d_logits + start : nullptr, scale);
  });
  leave_block_sum(loss.value(), scratch.losses);
  leave_block_sum(hits, scratch.hits);
}

template <typename Team, typename Target>
NNK_FN void head(const T* logits, const T* bias, const Target* targets, HeadOutputs out,
                 HeadScratch scratch, const Ledger& ledger, A scale, unsigned rows,
                 unsigned columns, Tile tile) {
  head_rows<Team>(logits, bias, targets, out, scratch, scale, rows, columns);
  if (!is_last_block(scratch.arrived)) return;
  const A loss = sum_by_block(scratch.losses, gridDim.x) * scale;
  const unsigned hits = sum_by_block(scratch.hits, gridDim.x);
  if (out.bias_grad) column_sums(out.d_logits, out.bias_grad, rows, columns, tile);
  if (threadIdx.x == 0) {
    *out.loss = loss;
    ledger.enter(loss, hits);
  }
}

}  // namespace nnk

// `scale` is 1, or 1 / rows for the mean. `shift` is that of the tile for `bias_grad`.
#define NNK_HEAD(variant, Target, Team)                                                           \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      head_softmax_cross_entropy##variant(                                                        \
          const T* logits, const T* __restrict__ bias, const Target* __restrict__ targets,        \
          T* __restrict__ biased, T* probs, T* d_logits, T* bias_grad, A* __restrict__ loss,      \
          A* losses, unsigned* hits, unsigned* arrived,                                           \
          double* loss_sum, double* metric, long long* step, long long* epoch_step,               \
          double* learning_rate, const double* schedule, long long* row, long long* diverged,     \
          A scale, double weight, long long entries, long long advance,                           \
          unsigned rows, unsigned columns, unsigned shift) {                                      \
    nnk::head<nnk::Team>(                                                                         \
        logits, bias, targets, {biased, probs, d_logits, bias_grad, loss},                        \
        {losses, hits, arrived},                                                                  \
        {loss_sum, metric, step, epoch_step, learning_rate, schedule, row, diverged, weight,      \
         entries, advance},                                                                       \
        scale, rows, columns, nnk::Tile{shift});                                                  \
  }

NNK_HEAD(_labels_warp, long long, WarpTeam)
NNK_HEAD(_labels_block, long long, BlockTeam)
NNK_HEAD(_rows_warp, T, WarpTeam)
NNK_HEAD(_rows_block, T, BlockTeam)

#define NNK_GATHER_STEP(variant, Target, WIDTH)                                                   \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      gather_step##variant(const T* __restrict__ x, const Target* __restrict__ targets,           \
                           const long long* __restrict__ order,                                   \
                           const long long* __restrict__ first, T* __restrict__ x_out,            \
                           Target* __restrict__ targets_out, unsigned rows, unsigned columns,     \
                           unsigned target_columns, unsigned shift) {                             \
    nnk::gather_step<WIDTH>(x, targets, order, first, x_out, targets_out, rows, columns,          \
                           target_columns, nnk::Tile{shift});                                     \
  }

NNK_GATHER_STEP(_labels, long long, 1)
NNK_GATHER_STEP(_labels_vec, long long, NNK_VEC)
NNK_GATHER_STEP(_rows, T, 1)
NNK_GATHER_STEP(_rows_vec, T, NNK_VEC)
