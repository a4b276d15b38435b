// Activation functions and their derivatives, of one element.
//
// A derivative takes the gradient and what the activation saved: x, or its output y. Semantics:
// nnkernels/catalog/activations.py. Comparisons are turned such that NaN, for which all are false,
// takes the way that keeps it.
//
// A GPU flushes float32 results below the smallest normal number to zero, but 100 times what lies
// there may be a normal number again. So exp(v) in a product is `root` = exp(v / 2), twice.
#pragma once
#include "portable.h"

namespace nnk {

// v, no lower than `low`: -inf is cut off where its product with 0 is 0.
template <typename A> NNK_FN A at_least(A v, A low) { return v < low ? low : v; }

template <typename A> NNK_FN A clipped(A v, A size) { return v > size ? size : at_least(v, -size); }

// Beyond it, silu and gelu are 0 or their argument.
template <typename A> NNK_FN A saturated() { return A(1e3); }

// --- the logistic function s(v) = 1 / (1 + exp(-v)) ----------------------------------------------

template <typename A> NNK_FN A logistic(A v) {
  const A decay = nnk::exp(-nnk::abs(v));
  return (v >= A(0) ? A(1) : decay) / (A(1) + decay);
}

// s(v) as a factor, and s(-v): right in both tails, by one exp.
template <typename A> struct Logistic {
  bool upper;
  A root, larger;

  NNK_FN explicit Logistic(A v)
      : upper(v >= A(0)),
        root(nnk::exp(A(-0.5) * nnk::abs(v))),
        larger(A(1) / (A(1) + root * root)) {}

  NNK_FN A times(A factor) const { return upper ? factor * larger : factor * larger * root * root; }
  NNK_FN A rest() const { return upper ? larger * root * root : larger; }
};

// --- the normal distribution ---------------------------------------------------------------------

// Its function Phi as a factor, and its density phi. With the tail t = erfc(|z| / sqrt(2)) / 2 =
// `mills` exp(-z²/2), Phi is t below 0 and 1 - t above.
template <typename A> struct Normal {
  A size, root, mills;
  bool lower;

  NNK_FN explicit Normal(A z)
      : size(nnk::abs(z)),
        root(nnk::exp(A(-0.25) * z * z)),
        mills(A(0.5) * nnk::erfcx(size * A(0.70710678118654752440))),
        lower(z < A(0)) {}

  NNK_FN A times(A factor) const { return split(factor, mills); }
  // Phi(z) + z phi(z), of which that of z and that of -z add up to 1 as well.
  NNK_FN A times_slope(A factor) const {
    return split(factor, mills - size * A(0.39894228040143267794));
  }

 private:
  NNK_FN A split(A factor, A below) const {
    return lower ? factor * below * root * root : factor * (A(1) - below * root * root);
  }
};

// (1 + tanh(w)) / 2 of the tanh form of gelu is s(2 w): 2 w and its derivative.
template <typename A> NNK_FN A gelu_exponent(A z) {
  return A(1.59576912160573071176) * z * (A(1) + A(0.044715) * z * z);
}
template <typename A> NNK_FN A gelu_exponent_slope(A z) {
  return A(1.59576912160573071176) * (A(1) + A(3 * 0.044715) * z * z);
}

// --- activations ---------------------------------------------------------------------------------

template <typename A> NNK_FN A identity(A x) { return x; }
template <typename A> NNK_FN A step(A x) { return x > A(0) ? A(1) : x <= A(0) ? A(0) : x; }
template <typename A> NNK_FN A sigmoid(A x) { return logistic(x); }
template <typename A> NNK_FN A relu(A x) { return x <= A(0) ? A(0) : x; }
// portable.h has tanh.

template <typename A> NNK_FN A leaky_relu(A x, A slope) {
  return x > A(0) || slope == A(0) ? relu(x) : slope * x;
}
template <typename A> NNK_FN A elu(A x, A alpha) { return x > A(0) ? x : alpha * nnk::expm1(x); }

template <typename A> NNK_FN A silu(A x) {
  const A z = at_least(x, -saturated<A>());
  return Logistic<A>(z).times(z);
}
template <typename A> NNK_FN A gelu(A x) {
  const A z = at_least(x, -saturated<A>());
  return Normal<A>(z).times(z);
}
template <typename A> NNK_FN A gelu_tanh(A x) {
  const A z = at_least(x, -saturated<A>());
  return Logistic<A>(gelu_exponent(z)).times(z);
}

// Of an e so small, log1p(e) is e itself.
template <typename A> NNK_FN A softplus(A x, A beta) {
  const A inverse = A(1) / beta, root = nnk::exp(A(-0.5) * beta * nnk::abs(x)), e = root * root;
  return relu(x) + (e < A(1e-18) ? root * inverse * root : nnk::log1p(e) * inverse);
}

// --- derivatives ---------------------------------------------------------------------------------

template <typename A> NNK_FN A sigmoid_backward(A grad, A y) { return grad * (y * (A(1) - y)); }
template <typename A> NNK_FN A tanh_backward(A grad, A y) {
  return grad * ((A(1) - y) * (A(1) + y));
}
// A choice: 0 times a gradient that is not finite would be NaN.
template <typename A> NNK_FN A relu_backward(A grad, A y) { return y > A(0) ? grad : A(0); }
template <typename A> NNK_FN A leaky_relu_backward(A grad, A y, A slope) {
  return y > A(0) ? grad : slope * grad;
}
template <typename A> NNK_FN A elu_backward(A grad, A x, A alpha) {
  const A root = nnk::exp(A(0.5) * x);
  return x > A(0) ? grad : grad * alpha * root * root;
}
template <typename A> NNK_FN A silu_backward(A grad, A x) {
  const A z = clipped(x, saturated<A>());
  const Logistic<A> s(z);
  return s.times(grad * (A(1) + z * s.rest()));
}
template <typename A> NNK_FN A gelu_backward(A grad, A x) {
  return Normal<A>(clipped(x, saturated<A>())).times_slope(grad);
}
template <typename A> NNK_FN A gelu_tanh_backward(A grad, A x) {
  const A z = clipped(x, saturated<A>());
  const Logistic<A> s(gelu_exponent(z));
  return s.times(grad * (A(1) + z * gelu_exponent_slope(z) * s.rest()));
}
template <typename A> NNK_FN A softplus_backward(A grad, A x, A beta) {
  return Logistic<A>(beta * x).times(grad);
}

}  // namespace nnk
