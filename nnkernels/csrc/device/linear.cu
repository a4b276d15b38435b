// What surrounds a matrix product: biases with activations, derivatives with column sums.
//
// `shift` is that of a block's tile: it is 2^shift columns, or packs of columns, wide.
#include "../arithmetic/activations.h"
#include "rows.cuh"
#include "vector.cuh"

namespace nnk {

// --- biases --------------------------------------------------------------------------------------

// z = x + bias, y = f(z), by threads that keep their columns while they walk down the rows. z may
// be null; y and z may be x.
template <unsigned WIDTH, typename Function>
NNK_FN void add_bias(Function f, const T* x, const T* bias, T* y, T* z, unsigned rows,
                     unsigned columns, Tile tile) {
  const unsigned packs = columns / WIDTH;
  tile.each_column(packs, [=](unsigned c) {
    const Pack<WIDTH> shift = load_pack<WIDTH>(bias, c);
    tile.each_row(rows, [=](unsigned row) {
      const Offset i = Offset(row) * packs + c;
      Pack<WIDTH> values = load_pack<WIDTH>(x, i);
#pragma unroll
      for (unsigned k = 0; k < WIDTH; ++k) values[k] += shift[k];
      if (z) store_pack<WIDTH>(z, i, values);
#pragma unroll
      for (unsigned k = 0; k < WIDTH; ++k) values[k] = f(values[k]);
      store_pack<WIDTH>(y, i, values);
    });
  });
}

// --- column sums ---------------------------------------------------------------------------------

constexpr unsigned WARPS = 8;  // of a block
static_assert(WARPS <= MAX_WARPS, "");

// A block's share of a matrix: 2^shift packs of columns, up to a warp's lanes, and the rows of one
// slice, of which there are gridDim.y.
struct Strip {
  Tile tile;

  NNK_FN unsigned pack() const { return (blockIdx.x << tile.shift) + tile.first_column(); }
  NNK_FN unsigned first_row() const {
    return blockIdx.y * tile.height() + (threadIdx.x >> tile.shift);
  }
  NNK_FN unsigned stride() const { return gridDim.y * tile.height(); }
};

// The sum of read(offset of a pack) over the block's rows, in the thread of the first row; the
// other threads must call too.
template <unsigned WIDTH, typename Read>
NNK_FN Pack<WIDTH> strip_sum(Strip strip, unsigned rows, unsigned packs, Read read) {
  __shared__ A partial[WARPS][WIDTH][LANES];
  Pack<WIDTH> sum = {};
  if (strip.pack() < packs) {
#pragma unroll 4
    for (unsigned row = strip.first_row(); row < rows; row += strip.stride()) {
      const Pack<WIDTH> values = read(Offset(row) * packs + strip.pack());
#pragma unroll
      for (unsigned k = 0; k < WIDTH; ++k) sum[k] += values[k];
    }
  }
#pragma unroll
  for (unsigned k = 0; k < WIDTH; ++k) {
    for (unsigned distance = strip.tile.columns(); distance < LANES; distance *= 2)
      sum[k] += __shfl_xor_sync(ALL_LANES, sum[k], distance);
    partial[warp()][k][lane()] = sum[k];
  }
  __syncthreads();
#pragma unroll
  for (unsigned k = 0; k < WIDTH; ++k) {
    sum[k] = 0;
    for (unsigned w = 0; w < WARPS; ++w) sum[k] += partial[w][k][lane()];
  }
  return sum;
}

// Column sums of the matrix that read() gives: into `sums`, or with several slices one row for each
// into `partial`.
template <unsigned WIDTH, typename Read>
NNK_FN void column_sums(T* sums, A* partial, unsigned rows, unsigned columns, unsigned shift,
                        Read read) {
  const Strip strip{Tile{shift}};
  const unsigned packs = columns / WIDTH;
  const Pack<WIDTH> sum = strip_sum<WIDTH>(strip, rows, packs, read);
  if (threadIdx.x >= strip.tile.columns() || strip.pack() >= packs) return;
  if (partial)
    store_pack<WIDTH>(partial, Offset(blockIdx.y) * packs + strip.pack(), sum);
  else
    store_pack<WIDTH>(sums, strip.pack(), sum);
}

// out = f(grad, saved) and its column sums; `out` may be `grad`.
template <unsigned WIDTH, typename Function>
NNK_FN void slope_and_sums(Function f, const T* grad, const T* __restrict__ saved, T* out, T* sums,
                           A* partial, unsigned rows, unsigned columns, unsigned shift) {
  column_sums<WIDTH>(sums, partial, rows, columns, shift, [=](Offset i) {
    const Pack<WIDTH> g = load_pack<WIDTH>(grad, i), v = load_pack<WIDTH>(saved, i);
    Pack<WIDTH> slopes;
#pragma unroll
    for (unsigned k = 0; k < WIDTH; ++k) slopes[k] = f(g[k], v[k]);
    store_pack<WIDTH>(out, i, slopes);
    return slopes;
  });
}

}  // namespace nnk

#define NNK_ADD(variant, WIDTH)                                                                   \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      add##variant(const T* a, const T* b, T* out, unsigned long long n) {                        \
    nnk::map<WIDTH>(n, out, [](A v, A w) { return v + w; }, a, b);                                \
  }

NNK_ADD(, 1)
NNK_ADD(_vec, NNK_VEC)

#define NNK_BIAS(kernel, variant, WIDTH, function)                                                \
  extern "C" __global__ void NNK_BOUNDS(256) kernel##variant(                                     \
      const T* x, const T* __restrict__ bias, T* y, T* z, unsigned rows, unsigned columns,        \
      unsigned shift) {                                                                           \
    nnk::add_bias<WIDTH>([](A v) { return nnk::function(v); }, x, bias, y, z, rows, columns,      \
                         nnk::Tile{shift});                                                       \
  }

#define NNK_BIAS_OF(kernel, variant, WIDTH, function, parameter)                                  \
  extern "C" __global__ void NNK_BOUNDS(256) kernel##variant(                                     \
      const T* x, const T* __restrict__ bias, T* y, T* z, A parameter, unsigned rows,             \
      unsigned columns, unsigned shift) {                                                         \
    nnk::add_bias<WIDTH>([=](A v) { return nnk::function(v, parameter); }, x, bias, y, z, rows,   \
                         columns, nnk::Tile{shift});                                              \
  }

NNK_BIAS(bias_add, , 1, identity)
NNK_BIAS(bias_add, _vec, NNK_VEC, identity)
NNK_BIAS(bias_step, , 1, step)
NNK_BIAS(bias_step, _vec, NNK_VEC, step)
NNK_BIAS(bias_sigmoid, , 1, sigmoid)
NNK_BIAS(bias_sigmoid, _vec, NNK_VEC, sigmoid)
NNK_BIAS(bias_tanh, , 1, tanh)
NNK_BIAS(bias_tanh, _vec, NNK_VEC, tanh)
NNK_BIAS(bias_relu, , 1, relu)
NNK_BIAS(bias_relu, _vec, NNK_VEC, relu)
NNK_BIAS(bias_gelu, , 1, gelu)
NNK_BIAS(bias_gelu, _vec, NNK_VEC, gelu)
NNK_BIAS(bias_gelu_tanh, , 1, gelu_tanh)
NNK_BIAS(bias_gelu_tanh, _vec, NNK_VEC, gelu_tanh)
NNK_BIAS(bias_silu, , 1, silu)
NNK_BIAS(bias_silu, _vec, NNK_VEC, silu)
NNK_BIAS_OF(bias_leaky_relu, , 1, leaky_relu, slope)
NNK_BIAS_OF(bias_leaky_relu, _vec, NNK_VEC, leaky_relu, slope)
NNK_BIAS_OF(bias_elu, , 1, elu, alpha)
NNK_BIAS_OF(bias_elu, _vec, NNK_VEC, elu, alpha)
NNK_BIAS_OF(bias_softplus, , 1, softplus, beta)
NNK_BIAS_OF(bias_softplus, _vec, NNK_VEC, softplus, beta)

#define NNK_BIAS_GRAD(variant, WIDTH)                                                             \
  extern "C" __global__ void NNK_BOUNDS(256) bias_grad##variant(                                  \
      const T* __restrict__ grad, T* __restrict__ out, A* __restrict__ partial, unsigned rows,    \
      unsigned columns, unsigned shift) {                                                         \
    nnk::column_sums<WIDTH>(out, partial, rows, columns, shift, [=](nnk::Offset i) {              \
      return nnk::load_pack<WIDTH>(grad, i);                                                      \
    });                                                                                           \
  }

NNK_BIAS_GRAD(, 1)
NNK_BIAS_GRAD(_vec, NNK_VEC)

// The sums over all slices.
extern "C" __global__ void NNK_BOUNDS(256)
    column_totals(const A* __restrict__ partial, T* __restrict__ out, unsigned slices,
                  unsigned columns, unsigned shift) {
  nnk::column_sums<1>(out, nullptr, slices, columns, shift,
                      [=](nnk::Offset i) { return nnk::Pack<1>{{partial[i]}}; });
}

#define NNK_SLOPE_AND_SUMS(function, variant, WIDTH, saved)                                       \
  extern "C" __global__ void NNK_BOUNDS(256) function##_backward_bias_grad##variant(              \
      const T* grad, const T* __restrict__ saved, T* out, T* __restrict__ sums,                   \
      A* __restrict__ partial, unsigned rows, unsigned columns, unsigned shift) {                 \
    nnk::slope_and_sums<WIDTH>([](A g, A v) { return nnk::function##_backward(g, v); }, grad,     \
                               saved, out, sums, partial, rows, columns, shift);                  \
  }

#define NNK_SLOPE_AND_SUMS_OF(function, variant, WIDTH, saved, parameter)                         \
  extern "C" __global__ void NNK_BOUNDS(256) function##_backward_bias_grad##variant(              \
      const T* grad, const T* __restrict__ saved, T* out, T* __restrict__ sums,                   \
      A* __restrict__ partial, A parameter, unsigned rows, unsigned columns, unsigned shift) {    \
    nnk::slope_and_sums<WIDTH>(                                                                   \
        [=](A g, A v) { return nnk::function##_backward(g, v, parameter); }, grad, saved, out,    \
        sums, partial, rows, columns, shift);                                                     \
  }

NNK_SLOPE_AND_SUMS(sigmoid, , 1, y)
NNK_SLOPE_AND_SUMS(sigmoid, _vec, NNK_VEC, y)
NNK_SLOPE_AND_SUMS(tanh, , 1, y)
NNK_SLOPE_AND_SUMS(tanh, _vec, NNK_VEC, y)
NNK_SLOPE_AND_SUMS(relu, , 1, y)
NNK_SLOPE_AND_SUMS(relu, _vec, NNK_VEC, y)
NNK_SLOPE_AND_SUMS(gelu, , 1, x)
NNK_SLOPE_AND_SUMS(gelu, _vec, NNK_VEC, x)
NNK_SLOPE_AND_SUMS(gelu_tanh, , 1, x)
NNK_SLOPE_AND_SUMS(gelu_tanh, _vec, NNK_VEC, x)
NNK_SLOPE_AND_SUMS(silu, , 1, x)
NNK_SLOPE_AND_SUMS(silu, _vec, NNK_VEC, x)
NNK_SLOPE_AND_SUMS_OF(leaky_relu, , 1, y, slope)
NNK_SLOPE_AND_SUMS_OF(leaky_relu, _vec, NNK_VEC, y, slope)
NNK_SLOPE_AND_SUMS_OF(elu, , 1, x, alpha)
NNK_SLOPE_AND_SUMS_OF(elu, _vec, NNK_VEC, x, alpha)
NNK_SLOPE_AND_SUMS_OF(softplus, , 1, x, beta)
NNK_SLOPE_AND_SUMS_OF(softplus, _vec, NNK_VEC, x, beta)
