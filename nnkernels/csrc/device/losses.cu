// Losses and their gradients.
//
// A loss leaves one sum a block in `partial`; the kernel `total` adds these up. The same threads
// take the same elements every time, so that the bits of a result are always the same. `scale` is
// 1, or for a mean 1 over the number of its terms.
#include "../arithmetic/losses.h"
#include "cross_entropy.cuh"
#include "rows.cuh"
#include "vector.cuh"

namespace nnk {

// --- by elements ---------------------------------------------------------------------------------

template <unsigned WIDTH, typename Loss>
NNK_FN void loss(const Loss& of, const T* __restrict__ pred, const T* __restrict__ target,
                 A* __restrict__ partial, Offset n) {
  RunningSum<A> total;
  each_pack<WIDTH>(n, [&](Offset i) {
    const Pack<WIDTH> p = load_pack<WIDTH>(pred, i), t = load_pack<WIDTH>(target, i);
    A sum = 0;
#pragma unroll
    for (unsigned k = 0; k < WIDTH; ++k) sum += of.term(p[k], t[k]);
    total.add(sum);
  });
  leave_block_sum(total.value(), partial);
}

template <unsigned WIDTH, typename Loss>
NNK_FN void slope(const Loss& of, const T* pred, const T* target, A factor, T* out, Offset n) {
  map<WIDTH>(n, out, [=](A p, A t) { return factor * of.slope(p, t); }, pred, target);
}

// --- by classes ----------------------------------------------------------------------------------

template <typename Loss>
NNK_FN void label_loss(const Loss& of, const T* __restrict__ pred,
                       const long long* __restrict__ labels, A* __restrict__ partial,
                       unsigned rows, unsigned columns) {
  RunningSum<A> total;
  each_pack<1>(rows, [&](Offset row) {
    total.add(of.term(load(pred[row * columns + labels[row]]), A(1)));
  });
  leave_block_sum(total.value(), partial);
}

template <typename Loss>
NNK_FN void label_slope(const Loss& of, const T* pred, const long long* __restrict__ labels,
                        A factor, T* out, unsigned rows, unsigned columns, Tile tile) {
  tile.each_row(rows, [=](unsigned row) {
    const Offset start = Offset(row) * columns;
    const long long label = labels[row];
    tile.each_column(columns, [=](unsigned c) {
      const A slope = c == label ? factor * of.slope(load(pred[start + c]), A(1)) : A(0);
      out[start + c] = store(slope);
    });
  });
}

template <typename Team, typename Target>
NNK_FN void softmax_cross_entropy(const T* logits, const Target* targets, T* probs,
                                  A* __restrict__ partial, unsigned rows, unsigned columns) {
  RunningSum<A> total;
  each_row<Team>(rows, columns, [&](unsigned row, Offset start) {
    const auto x = loaded_row<Team>(logits + start, columns);
    const auto target = target_row(targets, row, columns);
    T* const no_gradient = nullptr;
    cross_entropy_row<Team>(x, normaliser<Team>(x), target, total, probs ? probs + start : nullptr,
                            no_gradient, A(1));
  });
  leave_block_sum(total.value(), partial);
}

template <typename Team, typename Target>
NNK_FN void softmax_cross_entropy_backward(const T* probs, const Target* targets, A factor, T* out,
                                           unsigned rows, unsigned columns) {
  each_row<Team>(rows, columns, [=](unsigned row, Offset start) {
    const auto target = target_row(targets, row, columns);
    const A weight = target.template total<Team>();
    loaded_row<Team>(probs + start, columns).each([=](unsigned c, A p) {
      out[start + c] = store((p * weight - target.probability(c)) * factor);
    });
  });
}

}  // namespace nnk

#define NNK_LOSS(name, variant, WIDTH, Loss)                                                      \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      name##variant(const T* __restrict__ pred, const T* __restrict__ target,                     \
                    A* __restrict__ partial, unsigned long long n) {                              \
    nnk::loss<WIDTH>(nnk::Loss(), pred, target, partial, n);                                      \
  }                                                                                               \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      name##_backward##variant(const T* pred, const T* target, const A* grad, T* out, A scale,    \
                               unsigned long long n) {                                            \
    nnk::slope<WIDTH>(nnk::Loss(), pred, target, *grad * scale, out, n);                          \
  }

NNK_LOSS(mse, , 1, SquaredError)
NNK_LOSS(mse, _vec, NNK_VEC, SquaredError)
NNK_LOSS(mae, , 1, AbsoluteError)
NNK_LOSS(mae, _vec, NNK_VEC, AbsoluteError)
NNK_LOSS(binary_cross_entropy, , 1, BinaryCrossEntropy)
NNK_LOSS(binary_cross_entropy, _vec, NNK_VEC, BinaryCrossEntropy)
NNK_LOSS(binary_cross_entropy_with_logits, , 1, LogitsCrossEntropy)
NNK_LOSS(binary_cross_entropy_with_logits, _vec, NNK_VEC, LogitsCrossEntropy)
NNK_LOSS(categorical_cross_entropy, , 1, ClassCrossEntropy)
NNK_LOSS(categorical_cross_entropy, _vec, NNK_VEC, ClassCrossEntropy)
NNK_LOSS(nll_loss, , 1, LogProbability)
NNK_LOSS(nll_loss, _vec, NNK_VEC, LogProbability)

#define NNK_HUBER(variant, WIDTH)                                                                 \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      huber##variant(const T* __restrict__ pred, const T* __restrict__ target,                    \
                     A* __restrict__ partial, A delta, unsigned long long n) {                    \
    nnk::loss<WIDTH>(nnk::HuberError{delta}, pred, target, partial, n);                           \
  }                                                                                               \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      huber_backward##variant(const T* pred, const T* target, const A* grad, T* out, A scale,     \
                              A delta, unsigned long long n) {                                    \
    nnk::slope<WIDTH>(nnk::HuberError{delta}, pred, target, *grad * scale, out, n);               \
  }

NNK_HUBER(, 1)
NNK_HUBER(_vec, NNK_VEC)

#define NNK_LABEL_LOSS(name, Loss)                                                                \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      name##_labels(const T* __restrict__ pred, const long long* __restrict__ labels,             \
                    A* __restrict__ partial, unsigned rows, unsigned columns) {                   \
    nnk::label_loss(nnk::Loss(), pred, labels, partial, rows, columns);                           \
  }                                                                                               \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      name##_backward_labels(const T* pred, const long long* __restrict__ labels, const A* grad,  \
                             T* out, A scale, unsigned rows, unsigned columns, unsigned shift) {  \
    nnk::label_slope(nnk::Loss(), pred, labels, *grad * scale, out, rows, columns,                \
                     nnk::Tile{shift});                                                           \
  }

NNK_LABEL_LOSS(categorical_cross_entropy, ClassCrossEntropy)
NNK_LABEL_LOSS(nll_loss, LogProbability)

#define NNK_SOFTMAX_CROSS_ENTROPY(variant, Target, Team)                                          \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      softmax_cross_entropy##variant(const T* logits, const Target* targets, T* probs,            \
                                     A* __restrict__ partial, unsigned rows, unsigned columns) {  \
    nnk::softmax_cross_entropy<nnk::Team>(logits, targets, probs, partial, rows, columns);        \
  }                                                                                               \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      softmax_cross_entropy_backward##variant(const T* probs, const Target* targets,              \
                                              const A* grad, T* out, A scale, unsigned rows,      \
                                              unsigned columns) {                                 \
    nnk::softmax_cross_entropy_backward<nnk::Team>(probs, targets, *grad * scale, out, rows,      \
                                                   columns);                                      \
  }

NNK_SOFTMAX_CROSS_ENTROPY(_labels_warp, long long, WarpTeam)
NNK_SOFTMAX_CROSS_ENTROPY(_labels_block, long long, BlockTeam)
NNK_SOFTMAX_CROSS_ENTROPY(_rows_warp, T, WarpTeam)
NNK_SOFTMAX_CROSS_ENTROPY(_rows_block, T, BlockTeam)

// One block: `scale` times the sum of `count` shares.
extern "C" __global__ void NNK_BOUNDS(256)
    total(const A* __restrict__ partial, A* __restrict__ loss, A scale, unsigned count) {
  const A sum = nnk::sum_by_block(partial, count);
  if (threadIdx.x == 0) *loss = sum * scale;
}
