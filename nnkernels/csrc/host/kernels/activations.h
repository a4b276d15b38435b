// Activation functions and their derivatives, one pass over memory each; `out` may be an input.
#pragma once
#include "../../arithmetic/activations.h"
#include "../loops.h"

// One line for each: what the kernel is called, and the function of csrc/arithmetic that it computes.
#define NNK_ACTIVATIONS(LINE, LINE_OF, SLOPE, SLOPE_OF)                                           \
  LINE(identity, identity)                                                                        \
  LINE(step, step)                                                                                \
  LINE(sigmoid, sigmoid)                                                                          \
  LINE(hyperbolic_tangent, tanh)                                                                  \
  LINE(relu, relu)                                                                                \
  LINE(silu, silu)                                                                                \
  LINE_OF(leaky_relu, slope)                                                                      \
  LINE_OF(elu, alpha)                                                                             \
  LINE_OF(softplus, beta)                                                                         \
  SLOPE(sigmoid)                                                                                  \
  SLOPE(tanh)                                                                                     \
  SLOPE(relu)                                                                                     \
  SLOPE(silu)                                                                                     \
  SLOPE_OF(leaky_relu, slope)                                                                     \
  SLOPE_OF(elu, alpha)                                                                            \
  SLOPE_OF(softplus, beta)

namespace nnk::kernels {

#define NNK_LINE(name, function)                                                                  \
  inline void name(Items items, const A* x, A* out) {                                             \
    map(items.count(), out + items.first, [](A v) { return nnk::function(v); },                   \
        x + items.first);                                                                         \
  }
#define NNK_LINE_OF(name, parameter)                                                              \
  inline void name(Items items, const A* x, A* out, double parameter) {                           \
    map(items.count(), out + items.first, [=](A v) { return nnk::name(v, A(parameter)); },        \
        x + items.first);                                                                         \
  }
#define NNK_SLOPE(name)                                                                           \
  inline void name##_backward(Items items, const A* grad, const A* saved, A* out) {               \
    map(items.count(), out + items.first,                                                         \
        [](A g, A v) { return nnk::name##_backward(g, v); }, grad + items.first,                  \
        saved + items.first);                                                                     \
  }
#define NNK_SLOPE_OF(name, parameter)                                                             \
  inline void name##_backward(Items items, const A* grad, const A* saved, A* out,                 \
                              double parameter) {                                                 \
    map(items.count(), out + items.first,                                                         \
        [=](A g, A v) { return nnk::name##_backward(g, v, A(parameter)); }, grad + items.first,   \
        saved + items.first);                                                                     \
  }

NNK_ACTIVATIONS(NNK_LINE, NNK_LINE_OF, NNK_SLOPE, NNK_SLOPE_OF)

#undef NNK_LINE
#undef NNK_LINE_OF
#undef NNK_SLOPE
#undef NNK_SLOPE_OF

inline void identity_backward(Items items, const A* grad, A* out) { identity(items, grad, out); }

inline void step_backward(Items items, A* out) {
  map(items.count(), out + items.first, [] { return A(0); });
}

// `approximate` is the position of "none" or "tanh".
inline void gelu(Items items, const A* x, A* out, Cell approximate) {
  const auto all = [&](auto f) { map(items.count(), out + items.first, f, x + items.first); };
  if (approximate == 0) {
    all([](A v) { return nnk::gelu(v); });
  } else {
    all([](A v) { return nnk::gelu_tanh(v); });
  }
}

inline void gelu_backward(Items items, const A* grad, const A* x, A* out, Cell approximate) {
  const auto all = [&](auto f) {
    map(items.count(), out + items.first, f, grad + items.first, x + items.first);
  };
  if (approximate == 0) {
    all([](A g, A v) { return nnk::gelu_backward(g, v); });
  } else {
    all([](A g, A v) { return nnk::gelu_tanh_backward(g, v); });
  }
}

// --- by rows -------------------------------------------------------------------------------------

// A row less its maximum holds 0 and nothing above it. NaN is no maximum, but makes NaN of the sum of
// exps, as an infinity does by inf - inf.
inline A row_maximum(const A* row, Cell columns) {
  typedef A Lanes __attribute__((vector_size(64)));
  typedef A Unaligned __attribute__((vector_size(64), aligned(sizeof(A)), may_alias));
  A top = row[0];
  Lanes largest = top - Lanes{};
  Cell i = 0;
  for (; i + BLOCK <= columns; i += BLOCK) {
    const Lanes block = *reinterpret_cast<const Unaligned*>(row + i);
    largest = block > largest ? block : largest;
  }
  for (; i < columns; ++i) top = row[i] > top ? row[i] : top;
  for (Cell k = 0; k < BLOCK; ++k) top = largest[k] > top ? largest[k] : top;
  return top;
}

// exp(row - top) to `out`, which may be `row`; gives the sum.
inline A exps(const A* row, A* out, A top, Cell columns) {
  map(columns, out, [=](A v) { return nnk::exp(v - top); }, row);
  return plain_sum(out, columns);
}

inline void softmax_row(const A* row, A* out, Cell columns) {
  const A scale = A(1) / exps(row, out, row_maximum(row, columns), columns);
  map(columns, out, [=](A v) { return v * scale; }, out);
}

inline void softmax(Items rows, const A* x, A* out, Cell columns) {
  for_rows(rows, [=](Cell r) { softmax_row(x + r * columns, out + r * columns, columns); });
}

inline void softmax_backward(Items rows, const A* grad, const A* y, A* out, Cell columns) {
  for_rows(rows, [=](Cell r) {
    const A *g = grad + r * columns, *s = y + r * columns;
    const A total = sum<A>(columns, [](A a, A b) { return a * b; }, g, s);
    map(columns, out + r * columns, [=](A a, A b) { return b * (a - total); }, g, s);
  });
}

// The logarithm of the sum of exp(row - top), by pieces: `out` may be the row itself.
inline A log_sum_exp(const A* row, A top, Cell columns) {
  constexpr Cell PIECE = 512;
  A piece[PIECE], total = A(0);
  for (Cell i = 0; i < columns; i += PIECE)
    total += exps(row + i, piece, top, smaller(columns - i, PIECE));
  return nnk::log(total);
}

inline void log_softmax(Items rows, const A* x, A* out, Cell columns) {
  for_rows(rows, [=](Cell r) {
    const A *row = x + r * columns, top = row_maximum(row, columns);
    const A excess = log_sum_exp(row, top, columns);
    map(columns, out + r * columns, [=](A v) { return (v - top) - excess; }, row);
  });
}

inline void log_softmax_backward(Items rows, const A* grad, const A* y, A* out, Cell columns) {
  for_rows(rows, [=](Cell r) {
    const A *g = grad + r * columns, total = plain_sum(g, columns);
    map(columns, out + r * columns, [=](A a, A b) { return a - nnk::exp(b) * total; }, g,
        y + r * columns);
  });
}

#define NNK_OVER_ALL(op, name, arguments) NNK_KERNEL(op, name, arguments, "...", nullptr, -1)

inline constexpr nnk_kernel activations[] = {
    NNK_OVER_ALL("identity", identity, "x out"),
    NNK_OVER_ALL("identity_backward", identity_backward, "grad out"),
    NNK_OVER_ALL("step", step, "x out"),
    NNK_OVER_ALL("step_backward", step_backward, "out"),
    NNK_OVER_ALL("sigmoid", sigmoid, "x out"),
    NNK_OVER_ALL("sigmoid_backward", sigmoid_backward, "grad y out"),
    NNK_OVER_ALL("tanh", hyperbolic_tangent, "x out"),
    NNK_OVER_ALL("tanh_backward", tanh_backward, "grad y out"),
    NNK_OVER_ALL("relu", relu, "x out"),
    NNK_OVER_ALL("relu_backward", relu_backward, "grad y out"),
    NNK_OVER_ALL("silu", silu, "x out"),
    NNK_OVER_ALL("silu_backward", silu_backward, "grad x out"),
    NNK_OVER_ALL("leaky_relu", leaky_relu, "x out slope"),
    NNK_OVER_ALL("leaky_relu_backward", leaky_relu_backward, "grad y out slope"),
    NNK_OVER_ALL("elu", elu, "x out alpha"),
    NNK_OVER_ALL("elu_backward", elu_backward, "grad x out alpha"),
    NNK_OVER_ALL("softplus", softplus, "x out beta"),
    NNK_OVER_ALL("softplus_backward", softplus_backward, "grad x out beta"),
    NNK_OVER_ALL("gelu", gelu, "x out approximate"),
    NNK_OVER_ALL("gelu_backward", gelu_backward, "grad x out approximate"),
    NNK_OVER_ALL("softmax", softmax, "x out c_size"),
    NNK_OVER_ALL("softmax_backward", softmax_backward, "grad y out c_size"),
    NNK_OVER_ALL("log_softmax", log_softmax, "x out c_size"),
    NNK_OVER_ALL("log_softmax_backward", log_softmax_backward, "grad y out c_size"),
};

}  // namespace nnk::kernels
