// Optimizer updates of a flat buffer, each one pass over its arrays, and gradient clipping. Arrays
// change in place.
#include "../arithmetic/updates.h"
#include "sums.cuh"

namespace nnk {

// update(grad, param, states...) for all elements of `grad` and of `changed`.
template <unsigned WIDTH, typename Update, typename... Changed>
NNK_FN void update_all(const Update& update, Offset n, const T* grad, Changed*... changed) {
  const Offset stride = Offset(gridDim.x) * blockDim.x;
#pragma unroll 1  // so many arrays keep the memory busy; two rounds at once would spill
  for (Offset i = Offset(blockIdx.x) * blockDim.x + threadIdx.x; i < n / WIDTH; i += stride) {
    const auto step = [&](const Pack<WIDTH>& slope, auto... packs) {
#pragma unroll
      for (unsigned k = 0; k < WIDTH; ++k) update(slope[k], packs[k]...);
      (store_pack<WIDTH>(changed, i, packs), ...);
    };
    step(load_pack<WIDTH>(grad, i), load_pack<WIDTH>(changed, i)...);
  }
}

struct DoubleSquare {
  NNK_FN double operator()(A v) const { return double(v) * double(v); }
};

}  // namespace nnk

#define NNK_SGD(variant, WIDTH)                                                                   \
  extern "C" __global__ void NNK_BOUNDS(256) sgd##variant(                                        \
      T* __restrict__ param, const T* __restrict__ grad, const double* __restrict__ lr,           \
      A weight_decay, unsigned long long n, const long long* __restrict__ skip) {                 \
    if (skip && *skip) return;                                                                    \
    nnk::update_all<WIDTH>(nnk::Sgd{A(*lr), weight_decay}, n, grad, param);                       \
  }

NNK_SGD(, 1)
NNK_SGD(_vec, NNK_VEC)

#define NNK_MOMENTUM(variant, WIDTH)                                                              \
  extern "C" __global__ void NNK_BOUNDS(256) momentum##variant(                                   \
      T* __restrict__ param, const T* __restrict__ grad, T* __restrict__ velocity,                \
      const double* __restrict__ lr, A beta, int nesterov, A weight_decay, unsigned long long n,  \
      const long long* __restrict__ skip) {                                                       \
    if (skip && *skip) return;                                                                    \
    const nnk::Momentum update{A(*lr), beta, weight_decay, nesterov != 0};                        \
    nnk::update_all<WIDTH>(update, n, grad, param, velocity);                                     \
  }

NNK_MOMENTUM(, 1)
NNK_MOMENTUM(_vec, NNK_VEC)

#define NNK_RMSPROP(variant, WIDTH)                                                               \
  extern "C" __global__ void NNK_BOUNDS(256) rmsprop##variant(                                    \
      T* __restrict__ param, const T* __restrict__ grad, T* __restrict__ square_avg,              \
      const double* __restrict__ lr, A alpha, A alpha_rest, A eps, A weight_decay,                \
      unsigned long long n, const long long* __restrict__ skip) {                                 \
    if (skip && *skip) return;                                                                    \
    const nnk::RmsProp update{{alpha, alpha_rest}, A(*lr), eps, weight_decay};                    \
    nnk::update_all<WIDTH>(update, n, grad, param, square_avg);                                   \
  }

NNK_RMSPROP(, 1)
NNK_RMSPROP(_vec, NNK_VEC)

#define NNK_ADAM(name, variant, WIDTH)                                                            \
  extern "C" __global__ void NNK_BOUNDS(256) name##variant(                                       \
      T* __restrict__ param, const T* __restrict__ grad, T* __restrict__ m, T* __restrict__ v,    \
      const double* __restrict__ lr, const long long* __restrict__ step, A beta1, A beta1_rest,   \
      A beta1_log, A beta2, A beta2_rest, A beta2_log, A eps, A weight_decay,                     \
      unsigned long long n, const long long* __restrict__ skip) {                                 \
    if (skip && *skip) return;                                                                    \
    const A steps = A(*step);                                                                     \
    const nnk::Adam plain =                                                                       \
        nnk::name({beta1, beta1_rest}, {beta2, beta2_rest}, A(*lr), eps, weight_decay);           \
    const nnk::Adam update = plain.corrected(                                                     \
        nnk::weight_seen(beta1_log, steps), nnk::weight_seen(beta2_log, steps));                  \
    nnk::update_all<WIDTH>(update, n, grad, param, m, v);                                         \
  }

NNK_ADAM(adam, , 1)
NNK_ADAM(adam, _vec, NNK_VEC)
NNK_ADAM(adamw, , 1)
NNK_ADAM(adamw, _vec, NNK_VEC)

#define NNK_CLIP_BY_VALUE(variant, WIDTH)                                                         \
  extern "C" __global__ void NNK_BOUNDS(256) clip_by_value##variant(                              \
      T* __restrict__ grad, A limit, unsigned long long n, const long long* __restrict__ skip) {  \
    if (skip && *skip) return;                                                                    \
    nnk::map<WIDTH>(n, grad, nnk::ClipByValue{limit}, grad);                                      \
  }

NNK_CLIP_BY_VALUE(, 1)
NNK_CLIP_BY_VALUE(_vec, NNK_VEC)

// --- clip_by_global_norm: shares of the sum of squares, norm and factor, then the clipping ------

#define NNK_SUM_OF_SQUARES(variant, WIDTH)                                                        \
  extern "C" __global__ void NNK_BOUNDS(256) sum_of_squares##variant(                             \
      const T* __restrict__ grad, double* __restrict__ partial, unsigned long long n,             \
      const long long* __restrict__ skip) {                                                       \
    if (skip && *skip) return;                                                                    \
    nnk::sum_share<WIDTH>(grad, partial, n, nnk::DoubleSquare());                                 \
  }

NNK_SUM_OF_SQUARES(, 1)
NNK_SUM_OF_SQUARES(_vec, NNK_VEC)

// One block; `count` shares.
extern "C" __global__ void NNK_BOUNDS(256)
    norm_and_factor(const double* __restrict__ partial, double* __restrict__ norm,
                    double* __restrict__ factor, double max_norm, unsigned count,
                    const long long* __restrict__ skip) {
  if (skip && *skip) return;
  const double length = ::sqrt(nnk::sum_by_block(partial, count));
  if (threadIdx.x != 0) return;
  if (norm) *norm = length;
  *factor = nnk::clipping_factor(length, max_norm);
}

#define NNK_CLIP_BY_GLOBAL_NORM(variant, WIDTH)                                                   \
  extern "C" __global__ void NNK_BOUNDS(256) clip_by_global_norm##variant(                        \
      T* __restrict__ grad, const double* __restrict__ factor, unsigned long long n,              \
      const long long* __restrict__ skip) {                                                       \
    if ((skip && *skip) || *factor == 1) return;                                                  \
    nnk::map<WIDTH>(n, grad, nnk::Scale{A(*factor)}, grad);                                       \
  }

NNK_CLIP_BY_GLOBAL_NORM(, 1)
NNK_CLIP_BY_GLOBAL_NORM(_vec, NNK_VEC)
