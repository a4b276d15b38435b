// One element's share of a loss, and its derivative with respect to the prediction.
//
// term(p, t) of a prediction and its target; slope(p, t) is d term / d p. Sums, means and the
// gradient from above are the kernels' affair. Semantics: nnkernels/catalog/losses.py.
#pragma once
#include "activations.h"
#include "portable.h"

namespace nnk {

// v, no lower than `low`; NaN stays.
NNK_FN A at_least(A v, A low) { return v < low ? low : v; }

// As in PyTorch: a probability of 0 has a finite loss and a finite derivative.
NNK_FN A log_floored(A p) { return at_least(nnk::log(p), A(-100)); }
NNK_FN A log1p_floored(A p) { return at_least(nnk::log1p(p), A(-100)); }
NNK_FN A divisor_of(A p) { return at_least(p, A(1e-12)); }

struct SquaredError {
  NNK_FN A term(A p, A t) const { return (p - t) * (p - t); }
  NNK_FN A slope(A p, A t) const { return A(2) * (p - t); }
};

struct AbsoluteError {
  NNK_FN A term(A p, A t) const { return nnk::abs(p - t); }
  // A difference that is 0 or NaN is its own sign.
  NNK_FN A slope(A p, A t) const { return p > t ? A(1) : p < t ? A(-1) : p - t; }
};

// m (|d| - m / 2) with m = min(|d|, delta) is both branches.
struct HuberError {
  A delta;
  NNK_FN A term(A p, A t) const {
    const A size = nnk::abs(p - t), near = size > delta ? delta : size;
    return near * (size - A(0.5) * near);
  }
  NNK_FN A slope(A p, A t) const {
    const A d = p - t;
    return d > delta ? delta : d < -delta ? -delta : d;
  }
};

struct BinaryCrossEntropy {
  NNK_FN A term(A p, A t) const { return -(t * log_floored(p) + (A(1) - t) * log1p_floored(-p)); }
  NNK_FN A slope(A p, A t) const { return (p - t) / divisor_of(p * (A(1) - p)); }
};

// x ((x > 0) - t) + log1p(exp(-|x|)): no term is negative, so that none cancels another.
struct LogitsCrossEntropy {
  NNK_FN A term(A x, A t) const {
    return x * ((x > A(0) ? A(1) : A(0)) - t) + nnk::log1p(nnk::exp(-nnk::abs(x)));
  }
  NNK_FN A slope(A x, A t) const { return logistic(x) - t; }
};

// Of one class: t is its probability, or 1 at the label and no call elsewhere.
struct ClassCrossEntropy {
  NNK_FN A term(A p, A t) const { return -t * log_floored(p); }
  NNK_FN A slope(A p, A t) const { return -t / divisor_of(p); }
};

struct LogProbability {
  NNK_FN A term(A log_p, A t) const { return -t * log_p; }
  NNK_FN A slope(A, A t) const { return -t; }
};

}  // namespace nnk
