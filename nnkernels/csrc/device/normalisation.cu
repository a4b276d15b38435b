// Batch normalisation, whose columns are independent, and layer normalisation, whose rows are.
//
// Variances come from the differences, so that nothing cancels. An output that is null is not
// wanted.
#include "rows.cuh"
#include "vector.cuh"

namespace nnk {

NNK_FN A inverse_deviation(A variance, A eps) { return A(1) / nnk::sqrt(variance + eps); }

// --- columns -------------------------------------------------------------------------------------

constexpr unsigned THREADS = 256;
constexpr unsigned ABREAST = 32 / sizeof(T);  // columns of a block: what one sector of memory holds
constexpr unsigned DEPTH = THREADS / ABREAST;  // rows that a block reads at once

// The calling thread's share of a column: every DEPTH-th of the rows; none beyond the last column.
struct Column {
  unsigned number, columns;

  NNK_FN explicit Column(unsigned columns)
      : number(blockIdx.x * ABREAST + threadIdx.x % ABREAST), columns(columns) {}

  NNK_FN bool exists() const { return number < columns; }
  NNK_FN bool leads() const { return exists() && threadIdx.x < ABREAST; }

  // f(row, offset of its element) for the share of rows [0, rows).
  template <typename Function> NNK_FN void each(unsigned rows, Function f) const {
    if (!exists()) return;
    for (unsigned row = threadIdx.x / ABREAST; row < rows; row += DEPTH)
      f(row, Offset(row) * columns + number);
  }
};

// The sum over the threads that share a column, in all of them. All threads of the block must call.
NNK_FN A column_sum(A value) {
  __shared__ A partial[THREADS / LANES][ABREAST];
#pragma unroll
  for (unsigned distance = ABREAST; distance < LANES; distance *= 2)
    value += __shfl_xor_sync(ALL_LANES, value, distance);
  if (lane() < ABREAST) partial[warp()][lane()] = value;
  __syncthreads();
  A total = 0;
#pragma unroll
  for (unsigned w = 0; w < THREADS / LANES; ++w) total += partial[w][threadIdx.x % ABREAST];
  __syncthreads();  // the next sum writes here again
  return total;
}

}  // namespace nnk

extern "C" __global__ void NNK_BOUNDS(256)
    batch_norm(const T* __restrict__ x, const T* __restrict__ gamma, const T* __restrict__ beta,
               T* __restrict__ y, T* __restrict__ mean, T* __restrict__ variance, A eps,
               unsigned rows, unsigned columns) {
  using namespace nnk;
  const Column column(columns);
  A sum = 0;
  column.each(rows, [&](unsigned, Offset i) { sum += load(x[i]); });
  const A middle = column_sum(sum) / A(rows);
  sum = 0;
  column.each(rows, [&](unsigned, Offset i) {
    const A difference = load(x[i]) - middle;
    sum += difference * difference;
  });
  const A spread = column_sum(sum) / A(rows);
  if (column.leads() && mean) mean[column.number] = store(middle);
  if (column.leads() && variance) variance[column.number] = store(spread);
  if (!y || !column.exists()) return;
  const A slope = load(gamma[column.number]) * inverse_deviation(spread, eps);
  const A shift = load(beta[column.number]);
  column.each(rows, [=](unsigned, Offset i) {
    y[i] = store(nnk::fma(load(x[i]) - middle, slope, shift));
  });
}

extern "C" __global__ void NNK_BOUNDS(256)
    batch_norm_backward(const T* __restrict__ grad, const T* __restrict__ x,
                        const T* __restrict__ gamma, const T* __restrict__ mean,
                        const T* __restrict__ variance, T* __restrict__ grad_x,
                        T* __restrict__ grad_gamma, T* __restrict__ grad_beta, A eps, unsigned rows,
                        unsigned columns) {
  using namespace nnk;
  const Column column(columns);
  A middle = 0, inverse = 0, scale = 0;
  if (column.exists()) {
    middle = load(mean[column.number]);
    inverse = inverse_deviation(load(variance[column.number]), eps);
    scale = load(gamma[column.number]) * inverse;
  }
  A products = 0, sum = 0;
  column.each(rows, [&](unsigned, Offset i) {
    const A g = load(grad[i]);
    products += g * ((load(x[i]) - middle) * inverse);
    sum += g;
  });
  products = column_sum(products);
  sum = column_sum(sum);
  if (column.leads() && grad_gamma) grad_gamma[column.number] = store(products);
  if (column.leads() && grad_beta) grad_beta[column.number] = store(sum);
  if (!grad_x) return;
  const A level = sum / A(rows), slope = products / A(rows) * inverse;
  column.each(rows, [=](unsigned, Offset i) {
    const A slanted = nnk::fma(slope, load(x[i]) - middle, level);
    grad_x[i] = store(scale * (load(grad[i]) - slanted));
  });
}

namespace nnk {

// By threads that keep WIDTH columns while they walk down the rows.
template <unsigned WIDTH>
NNK_FN void batch_norm_inference(const T* __restrict__ x, const T* __restrict__ gamma,
                                 const T* __restrict__ beta, const T* __restrict__ running_mean,
                                 const T* __restrict__ running_var, T* __restrict__ out, A eps,
                                 unsigned rows, unsigned columns, Tile tile) {
  const unsigned packs = columns / WIDTH;
  tile.each_column(packs, [=](unsigned c) {
    const Pack<WIDTH> variance = load_pack<WIDTH>(running_var, c);
    Pack<WIDTH> slope = load_pack<WIDTH>(gamma, c);
#pragma unroll
    for (unsigned k = 0; k < WIDTH; ++k) slope[k] *= inverse_deviation(variance[k], eps);
    const Pack<WIDTH> middle = load_pack<WIDTH>(running_mean, c);
    const Pack<WIDTH> shift = load_pack<WIDTH>(beta, c);
    tile.each_row(rows, [=](unsigned row) {
      const Offset i = Offset(row) * packs + c;
      Pack<WIDTH> values = load_pack<WIDTH>(x, i);
#pragma unroll
      for (unsigned k = 0; k < WIDTH; ++k)
        values[k] = nnk::fma(values[k] - middle[k], slope[k], shift[k]);
      store_pack<WIDTH>(out, i, values);
    });
  });
}

}  // namespace nnk

#define NNK_BATCH_NORM_INFERENCE(variant, WIDTH)                                                  \
  extern "C" __global__ void NNK_BOUNDS(256) batch_norm_inference##variant(                       \
      const T* __restrict__ x, const T* __restrict__ gamma, const T* __restrict__ beta,           \
      const T* __restrict__ running_mean, const T* __restrict__ running_var, T* __restrict__ out, \
      A eps, unsigned rows, unsigned columns, unsigned shift) {                                   \
    nnk::batch_norm_inference<WIDTH>(x, gamma, beta, running_mean, running_var, out, eps, rows,   \
                                     columns, nnk::Tile{shift});                                  \
  }

NNK_BATCH_NORM_INFERENCE(, 1)
NNK_BATCH_NORM_INFERENCE(_vec, NNK_VEC)

extern "C" __global__ void NNK_BOUNDS(256)
    update_running_statistics(T* __restrict__ running_mean, T* __restrict__ running_var,
                              const T* __restrict__ mean, const T* __restrict__ variance, A keep,
                              A take, A take_unbiased, unsigned columns,
                              const long long* __restrict__ skip) {
  using namespace nnk;
  if (skip && *skip) return;
  each_pack<1>(columns, [=](Offset c) {
    running_mean[c] = store(nnk::fma(keep, load(running_mean[c]), take * load(mean[c])));
    if (running_var)
      running_var[c] =
          store(nnk::fma(keep, load(running_var[c]), take_unbiased * load(variance[c])));
  });
}

// --- rows ----------------------------------------------------------------------------------------

namespace nnk {

// The mean of f(element) over a row.
template <typename Team, typename Row, typename Function>
NNK_FN A mean_over(const Row& row, unsigned columns, Function f) {
  A sum = 0;
  row.each([&](unsigned, auto element) { sum += f(element); });
  return Team::template reduce<Add>(sum) / A(columns);
}

template <typename Team>
NNK_FN void layer_norm(const T* __restrict__ x, const T* __restrict__ gamma,
                       const T* __restrict__ beta, T* __restrict__ y, T* __restrict__ mean,
                       T* __restrict__ variance, A eps, unsigned rows, unsigned columns) {
  each_row<Team>(rows, columns, [=](unsigned number, Offset row) {
    const auto values = loaded_row<Team>(x + row, columns);
    const A middle = mean_over<Team>(values, columns, [](A v) { return v; });
    const A spread = mean_over<Team>(
        values, columns, [=](A v) { return (v - middle) * (v - middle); });
    if (Team::leads() && mean) mean[number] = store(middle);
    if (Team::leads() && variance) variance[number] = store(spread);
    if (!y) return;
    const A inverse = inverse_deviation(spread, eps);
    values.each([=](unsigned c, A v) {
      y[row + c] = store(nnk::fma((v - middle) * inverse, load(gamma[c]), load(beta[c])));
    });
  });
}

// What a row's gradient is made of: grad gamma, and the normalised x.
struct Sloped {
  A g, z;
};

template <typename Team>
NNK_FN void layer_norm_backward(const T* __restrict__ grad, const T* __restrict__ x,
                                const T* __restrict__ gamma, const T* __restrict__ mean,
                                const T* __restrict__ variance, T* __restrict__ grad_x, A eps,
                                unsigned rows, unsigned columns) {
  each_row<Team>(rows, columns, [=](unsigned number, Offset row) {
    const A middle = load(mean[number]);
    const A inverse = inverse_deviation(load(variance[number]), eps);
    const auto values = Team::row(
        [=](unsigned c) {
          const A g = load(grad[row + c]) * load(gamma[c]);
          return Sloped{g, (load(x[row + c]) - middle) * inverse};
        },
        columns);
    const A level = mean_over<Team>(values, columns, [](Sloped v) { return v.g; });
    const A slope = mean_over<Team>(values, columns, [](Sloped v) { return v.g * v.z; });
    values.each([=](unsigned c, Sloped v) {
      grad_x[row + c] = store(inverse * (v.g - nnk::fma(v.z, slope, level)));
    });
  });
}

}  // namespace nnk

#define NNK_LAYER_NORM(variant, Team)                                                             \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      layer_norm##variant(const T* __restrict__ x, const T* __restrict__ gamma,                   \
                          const T* __restrict__ beta, T* __restrict__ y, T* __restrict__ mean,    \
                          T* __restrict__ variance, A eps, unsigned rows, unsigned columns) {     \
    nnk::layer_norm<nnk::Team>(x, gamma, beta, y, mean, variance, eps, rows, columns);            \
  }                                                                                               \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      layer_norm_backward##variant(                                                               \
          const T* __restrict__ grad, const T* __restrict__ x, const T* __restrict__ gamma,       \
          const T* __restrict__ mean, const T* __restrict__ variance, T* __restrict__ grad_x,     \
          A eps, unsigned rows, unsigned columns) {                                               \
    nnk::layer_norm_backward<nnk::Team>(                                                          \
        grad, x, gamma, mean, variance, grad_x, eps, rows, columns);                              \
  }

NNK_LAYER_NORM(_warp, WarpTeam)
NNK_LAYER_NORM(_block, BlockTeam)

// The sums of layer_norm_backward over one slice of the rows (blockIdx.y of gridDim.y), by columns:
// grad z into `products`, grad into `sums`, one row of each a slice.
extern "C" __global__ void NNK_BOUNDS(256)
    layer_norm_backward_sums(const T* __restrict__ grad, const T* __restrict__ x,
                             const T* __restrict__ mean, const T* __restrict__ variance,
                             A* __restrict__ products, A* __restrict__ sums, A eps, unsigned rows,
                             unsigned columns) {
  using namespace nnk;
  __shared__ A middle[THREADS], inverse[THREADS];
  const Column column(columns);
  A product = 0, sum = 0;
  for (unsigned top = blockIdx.y * THREADS; top < rows; top += gridDim.y * THREADS) {
    const unsigned count = min(THREADS, rows - top);
    __syncthreads();  // those of the rows before are still read
    if (threadIdx.x < count) {
      middle[threadIdx.x] = load(mean[top + threadIdx.x]);
      inverse[threadIdx.x] = inverse_deviation(load(variance[top + threadIdx.x]), eps);
    }
    __syncthreads();
    column.each(count, [&](unsigned row, Offset i) {
      const Offset at = Offset(top) * columns + i;
      const A g = load(grad[at]);
      product += g * ((load(x[at]) - middle[row]) * inverse[row]);
      sum += g;
    });
  }
  product = column_sum(product);
  sum = column_sum(sum);
  if (!column.leads()) return;
  products[Offset(blockIdx.y) * columns + column.number] = product;
  sums[Offset(blockIdx.y) * columns + column.number] = sum;
}

// The sums over all slices.
extern "C" __global__ void NNK_BOUNDS(256)
    layer_norm_backward_totals(const A* __restrict__ products, const A* __restrict__ sums,
                               T* __restrict__ grad_gamma, T* __restrict__ grad_beta,
                               unsigned slices, unsigned columns) {
  using namespace nnk;
  each_pack<1>(columns, [=](Offset c) {
    A product = 0, sum = 0;
    for (unsigned slice = 0; slice < slices; ++slice) {
      product += products[Offset(slice) * columns + c];
      sum += sums[Offset(slice) * columns + c];
    }
    if (grad_gamma) grad_gamma[c] = store(product);
    if (grad_beta) grad_beta[c] = store(sum);
  });
}
