// Activations and their derivatives, each one pass over memory; `out` may be an input.
#include "../arithmetic/activations.h"
#include "vector.cuh"

#define NNK_ACTIVATION(kernel, variant, WIDTH, function)                                          \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      kernel##variant(const T* x, T* out, unsigned long long n) {                                 \
    nnk::map<WIDTH>(n, out, [](A v) { return nnk::function(v); }, x);                             \
  }

#define NNK_ACTIVATION_OF(function, variant, WIDTH, parameter)                                    \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      function##variant(const T* x, T* out, A parameter, unsigned long long n) {                  \
    nnk::map<WIDTH>(n, out, [=](A v) { return nnk::function(v, parameter); }, x);                 \
  }

#define NNK_DERIVATIVE(function, variant, WIDTH, saved)                                           \
  extern "C" __global__ void NNK_BOUNDS(256) function##_backward##variant(                        \
      const T* grad, const T* saved, T* out, unsigned long long n) {                              \
    nnk::map<WIDTH>(                                                                              \
        n, out, [](A g, A v) { return nnk::function##_backward(g, v); }, grad, saved);            \
  }

#define NNK_DERIVATIVE_OF(function, variant, WIDTH, saved, parameter)                             \
  extern "C" __global__ void NNK_BOUNDS(256) function##_backward##variant(                        \
      const T* grad, const T* saved, T* out, A parameter, unsigned long long n) {                 \
    nnk::map<WIDTH>(                                                                              \
        n, out, [=](A g, A v) { return nnk::function##_backward(g, v, parameter); }, grad,        \
        saved);                                                                                   \
  }

NNK_ACTIVATION(identity, , 1, identity)
NNK_ACTIVATION(identity, _vec, NNK_VEC, identity)
NNK_ACTIVATION(step, , 1, step)
NNK_ACTIVATION(step, _vec, NNK_VEC, step)
NNK_ACTIVATION(sigmoid, , 1, sigmoid)
NNK_ACTIVATION(sigmoid, _vec, NNK_VEC, sigmoid)
NNK_ACTIVATION(hyperbolic_tangent, , 1, tanh)  // C has another tanh
NNK_ACTIVATION(hyperbolic_tangent, _vec, NNK_VEC, tanh)
NNK_ACTIVATION(relu, , 1, relu)
NNK_ACTIVATION(relu, _vec, NNK_VEC, relu)
NNK_ACTIVATION(gelu, , 1, gelu)
NNK_ACTIVATION(gelu, _vec, NNK_VEC, gelu)
NNK_ACTIVATION(gelu_tanh, , 1, gelu_tanh)
NNK_ACTIVATION(gelu_tanh, _vec, NNK_VEC, gelu_tanh)
NNK_ACTIVATION(silu, , 1, silu)
NNK_ACTIVATION(silu, _vec, NNK_VEC, silu)
NNK_ACTIVATION_OF(leaky_relu, , 1, slope)
NNK_ACTIVATION_OF(leaky_relu, _vec, NNK_VEC, slope)
NNK_ACTIVATION_OF(elu, , 1, alpha)
NNK_ACTIVATION_OF(elu, _vec, NNK_VEC, alpha)
NNK_ACTIVATION_OF(softplus, , 1, beta)
NNK_ACTIVATION_OF(softplus, _vec, NNK_VEC, beta)

NNK_DERIVATIVE(sigmoid, , 1, y)
NNK_DERIVATIVE(sigmoid, _vec, NNK_VEC, y)
NNK_DERIVATIVE(tanh, , 1, y)
NNK_DERIVATIVE(tanh, _vec, NNK_VEC, y)
NNK_DERIVATIVE(relu, , 1, y)
NNK_DERIVATIVE(relu, _vec, NNK_VEC, y)
NNK_DERIVATIVE(gelu, , 1, x)
NNK_DERIVATIVE(gelu, _vec, NNK_VEC, x)
NNK_DERIVATIVE(gelu_tanh, , 1, x)
NNK_DERIVATIVE(gelu_tanh, _vec, NNK_VEC, x)
NNK_DERIVATIVE(silu, , 1, x)
NNK_DERIVATIVE(silu, _vec, NNK_VEC, x)
NNK_DERIVATIVE_OF(leaky_relu, , 1, y, slope)
NNK_DERIVATIVE_OF(leaky_relu, _vec, NNK_VEC, y, slope)
NNK_DERIVATIVE_OF(elu, , 1, x, alpha)
NNK_DERIVATIVE_OF(elu, _vec, NNK_VEC, x, alpha)
NNK_DERIVATIVE_OF(softplus, , 1, x, beta)
NNK_DERIVATIVE_OF(softplus, _vec, NNK_VEC, x, beta)

// The derivative of `step`, whatever the gradient.
extern "C" __global__ void NNK_BOUNDS(256) zeros(T* out, unsigned long long n) {
  nnk::map<1>(n, out, [] { return A(0); });
}
