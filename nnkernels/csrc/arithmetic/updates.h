// One element of every optimizer's update and of clipping.
//
// What is the same for all elements (rates, bias corrections) is worked out once, when an update is
// built; update(grad, param, states...) then changes an element's parameter and states. The decay's
// term is always there: it costs one fused multiply-add, which waits for memory anyway.
// Semantics: nnkernels/catalog/updates.py.
#pragma once
#include "portable.h"

namespace nnk {

// An exponential moving average; `rest` is 1 - keep, which a rounded `keep` near 1 does not give.
struct Average {
  A keep, rest;

  NNK_FN A moved(A average, A value) const { return nnk::fma(keep, average, rest * value); }
};

// 1 - keep^step from the logarithm of keep, without cancelling: the weight of all that an average from
// 0 has seen.
NNK_FN A weight_seen(A log_keep, A step) { return -nnk::expm1(log_keep * step); }

struct Sgd {
  A rate, decay;

  NNK_FN void operator()(A grad, A& param) const {
    param = nnk::fma(-rate, nnk::fma(decay, param, grad), param);
  }
};

struct Momentum {
  A rate, beta, decay;
  bool nesterov;

  NNK_FN void operator()(A grad, A& param, A& velocity) const {
    const A direction = nnk::fma(decay, param, grad);
    velocity = nnk::fma(beta, velocity, direction);
    param = nnk::fma(-rate, nesterov ? nnk::fma(beta, velocity, direction) : velocity, param);
  }
};

struct RmsProp {
  Average average;
  A rate, eps, decay;

  NNK_FN void operator()(A grad, A& param, A& square_avg) const {
    const A direction = nnk::fma(decay, param, grad);
    square_avg = average.moved(square_avg, direction * direction);
    param -= rate * direction / (nnk::sqrt(square_avg) + eps);
  }
};

// `shrink` is a factor of the parameter.
struct Adam {
  Average first, second;
  A rate, eps, decay, shrink;

  // The same with bias correction. With r = sqrt(weight2), m^ / (sqrt(v^) + eps) is m r / weight1 /
  // (sqrt(v) + eps r): the rate and eps hold both corrections.
  NNK_FN Adam corrected(A weight1, A weight2) const {
    const A root = nnk::sqrt(weight2);
    return {first, second, rate * root / weight1, eps * root, decay, shrink};
  }
  NNK_FN void operator()(A grad, A& param, A& m, A& v) const {
    const A direction = nnk::fma(decay, param, grad);
    m = first.moved(m, direction);
    v = second.moved(v, direction * direction);
    param = nnk::fma(shrink, param, -(rate * m / (nnk::sqrt(v) + eps)));
  }
};

// Decay as a part of the gradient.
NNK_FN Adam adam(const Average& first, const Average& second, A rate, A eps, A weight_decay) {
  return {first, second, rate, eps, weight_decay, A(1)};
}

// Decay beside the gradient.
NNK_FN Adam adamw(const Average& first, const Average& second, A rate, A eps, A weight_decay) {
  return {first, second, rate, eps, A(0), nnk::fma(-rate, weight_decay, A(1))};
}

// To [-limit, limit]; NaN is beyond neither.
struct ClipByValue {
  A limit;

  NNK_FN A operator()(A grad) const { return grad > limit ? limit : grad < -limit ? -limit : grad; }
};

struct Scale {
  A factor;

  NNK_FN A operator()(A grad) const { return factor * grad; }
};

// min(1, max_norm / (norm + 1e-6)), NaN for a norm of NaN; in double for all arrays.
NNK_FN double clipping_factor(double norm, double max_norm) {
  const double quotient = max_norm / (norm + 1e-6);
  return quotient > 1 ? 1 : quotient;
}

}  // namespace nnk
