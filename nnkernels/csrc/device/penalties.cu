// Penalties on weights, and their gradients.
#include "sums.cuh"

namespace nnk {

struct Size {
  NNK_FN A operator()(A w) const { return nnk::abs(w); }
};

struct Square {
  NNK_FN A operator()(A w) const { return w * w; }
};

// At 0, and for NaN, the product.
struct SizeSlope {
  A slope;
  NNK_FN A operator()(A w) const {
    return w > A(0) ? slope : w < A(0) ? -slope : slope * w;
  }
};

struct SquareSlope {
  A slope;
  NNK_FN A operator()(A w) const { return A(2) * slope * w; }
};

}  // namespace nnk

// The blocks' shares of the sum that the penalty takes.
#define NNK_PENALTY(name, variant, WIDTH, Term)                                                   \
  extern "C" __global__ void NNK_BOUNDS(256) name##variant(                                       \
      const T* __restrict__ w, A* __restrict__ partial, unsigned long long n) {                   \
    nnk::sum_share<WIDTH>(w, partial, n, nnk::Term());                                            \
  }

NNK_PENALTY(l1_penalty, , 1, Size)
NNK_PENALTY(l1_penalty, _vec, NNK_VEC, Size)
NNK_PENALTY(l2_penalty, , 1, Square)
NNK_PENALTY(l2_penalty, _vec, NNK_VEC, Square)

// One block: strength times the sum of `count` shares.
extern "C" __global__ void NNK_BOUNDS(256)
    penalty_total(const A* __restrict__ partial, T* __restrict__ out, A strength, unsigned count) {
  const A sum = nnk::sum_by_block(partial, count);
  if (threadIdx.x == 0) *out = nnk::store(strength * sum);
}

#define NNK_PENALTY_BACKWARD(name, variant, WIDTH, Slope)                                         \
  extern "C" __global__ void NNK_BOUNDS(256) name##_backward##variant(                            \
      const T* __restrict__ grad, const T* __restrict__ w, T* __restrict__ out, A strength,       \
      unsigned long long n) {                                                                     \
    nnk::map<WIDTH>(n, out, nnk::Slope{nnk::load(*grad) * strength}, w);                          \
  }

NNK_PENALTY_BACKWARD(l1_penalty, , 1, SizeSlope)
NNK_PENALTY_BACKWARD(l1_penalty, _vec, NNK_VEC, SizeSlope)
NNK_PENALTY_BACKWARD(l2_penalty, , 1, SquareSlope)
NNK_PENALTY_BACKWARD(l2_penalty, _vec, NNK_VEC, SquareSlope)
