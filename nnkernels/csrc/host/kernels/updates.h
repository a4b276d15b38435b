// Optimizer updates, each one pass over its arrays, and gradient clipping.
//
// What is the same for all elements is worked out once a call in double, and rounded once.
#pragma once
#include <cmath>

#include "../../arithmetic/updates.h"
#include "../loops.h"
#include "sums.h"

namespace nnk::kernels {

inline Average average(double keep) { return {A(keep), A(1 - keep)}; }

// 1 - beta^step without cancelling.
inline double correction(double beta, Cell step) {
  return beta == 0 ? 1.0 : -std::expm1(double(step) * std::log(beta));
}

inline void sgd(Items items, A* param, const A* grad, const double* lr, double weight_decay) {
  for_each(items.count(), Sgd{A(*lr), A(weight_decay)}, grad + items.first, param + items.first);
}

inline void momentum(Items items, A* param, const A* grad, A* velocity, const double* lr,
                     double beta, Cell nesterov, double weight_decay) {
  const auto all = [&](auto update) {
    for_each(items.count(), update, grad + items.first, param + items.first,
             velocity + items.first);
  };
  const A rate = A(*lr), keep = A(beta), decay = A(weight_decay);
  if (nesterov != 0) {
    all([=](A g, A& p, A& v) { Momentum{rate, keep, decay, true}(g, p, v); });
  } else {
    all([=](A g, A& p, A& v) { Momentum{rate, keep, decay, false}(g, p, v); });
  }
}

inline void rmsprop(Items items, A* param, const A* grad, A* square_avg, const double* lr,
                    double alpha, double eps, double weight_decay) {
  const RmsProp update{average(alpha), A(*lr), A(eps), A(weight_decay)};
  for_each(items.count(), update, grad + items.first, param + items.first,
           square_avg + items.first);
}

template <typename Build>
inline void adam_of(Items items, A* param, const A* grad, A* m, A* v, const Cell* step,
                    double beta1, double beta2, Build build) {
  const Adam plain = build(average(beta1), average(beta2));
  const Adam update = plain.corrected(A(correction(beta1, *step)), A(correction(beta2, *step)));
  for_each(items.count(), update, grad + items.first, param + items.first, m + items.first,
           v + items.first);
}

#define NNK_ADAM(name)                                                                            \
  inline void name##_step(Items items, A* param, const A* grad, A* m, A* v, const double* lr,     \
                          const Cell* step, double beta1, double beta2, double eps,               \
                          double weight_decay) {                                                  \
    adam_of(items, param, grad, m, v, step, beta1, beta2, [=](Average first, Average second) {    \
      return nnk::name(first, second, A(*lr), A(eps), A(weight_decay));                           \
    });                                                                                           \
  }

NNK_ADAM(adam)
NNK_ADAM(adamw)

#undef NNK_ADAM

inline void clip_by_value(Items items, A* grad, double limit) {
  const ClipByValue clip{A(limit)};
  for_each(items.count(), [=](A& g) { g = clip(g); }, grad + items.first);
}

inline void norm_and_factor(Items, const double* partial, double* factor, double* norm,
                            double max_norm) {
  const double length = std::sqrt(sum_of_partial(partial));
  if (norm != nullptr) *norm = length;
  *factor = clipping_factor(length, max_norm);
}

inline void clip_by_global_norm(Items items, A* grad, const double* factor) {
  const Scale scale{A(*factor)};
  if (scale.factor == A(1)) return;
  for_each(items.count(), [=](A& g) { g = scale(g); }, grad + items.first);
}

inline constexpr nnk_kernel updates[] = {
    NNK_KERNEL("sgd", sgd, "param grad lr weight_decay", "...", "", -1),
    NNK_KERNEL("momentum", momentum, "param grad velocity lr beta nesterov weight_decay", "...", "",
               -1),
    NNK_KERNEL("rmsprop", rmsprop, "param grad square_avg lr alpha eps weight_decay", "...", "",
               -1),
    NNK_KERNEL("adam", adam_step, "param grad m v lr step beta1 beta2 eps weight_decay", "...", "",
               -1),
    NNK_KERNEL("adamw", adamw_step, "param grad m v lr step beta1 beta2 eps weight_decay", "...",
               "", -1),
    NNK_KERNEL("clip_by_value", clip_by_value, "grad limit", "...", "", -1),
    NNK_KERNEL("clip_by_global_norm", squares_of_segments, "grad partial ..._size", "64", "partial", -1),
    NNK_KERNEL("clip_by_global_norm", norm_and_factor, "partial factor out max_norm", nullptr, "",
               -1),
    NNK_KERNEL("clip_by_global_norm", clip_by_global_norm, "grad factor", "...", "", -1),
};

}  // namespace nnk::kernels
