// Dropout: its masks are a function of seed, step, layer and place, and its derivative takes them.
// Semantics: nnkernels/catalog/regularisation.py.
#include "../arithmetic/philox.h"
#include "vector.cuh"

namespace nnk {

constexpr unsigned WORDS = 4;                                 // of a Philox block
constexpr unsigned UNIT = NNK_VEC < WORDS ? WORDS : NNK_VEC;  // whole packs and whole blocks

// A product, not a choice: NaN and infinity become NaN where dropped.
NNK_FN A dropped(A v, bool kept, A scale) { return v * (kept ? scale : A(0)); }

// y = x kept scale. Words below `threshold` drop their elements; `first` is the place of the first
// one in the stream of words. y and mask may be null, y may be x.
struct Dropout {
  const T* x;
  T* y;
  unsigned char* mask;
  A scale;
  unsigned long long threshold, first;

  NNK_FN void elements(const Philox& philox, Offset n) const {
    each_pack<1>(n, [=](Offset i) {
      const bool kept = philox.word(first + i) >= threshold;
      if (mask) mask[i] = kept;
      if (y) y[i] = store(dropped(load(x[i]), kept, scale));
    });
  }

  // For a `first` that is a multiple of WORDS, and n of UNIT: every block serves all its elements.
  NNK_FN void units(const Philox& philox, Offset n) const {
    each_pack<UNIT>(n, [=](Offset unit) {
      Neighbours<unsigned char, UNIT> kept;
#pragma unroll
      for (unsigned b = 0; b < UNIT / WORDS; ++b) {
        const PhiloxBlock block = philox.block(first / WORDS + unit * (UNIT / WORDS) + b);
#pragma unroll
        for (unsigned k = 0; k < WORDS; ++k)
          kept.values[b * WORDS + k] = block.words[k] >= threshold;
      }
      if (mask) ((Neighbours<unsigned char, UNIT>*)mask)[unit] = kept;
      if (!y) return;
#pragma unroll
      for (unsigned p = 0; p < UNIT / NNK_VEC; ++p) {
        const Offset at = unit * (UNIT / NNK_VEC) + p;
        Pack<NNK_VEC> values = load_pack<NNK_VEC>(x, at);
#pragma unroll
        for (unsigned k = 0; k < NNK_VEC; ++k)
          values[k] = dropped(values[k], kept.values[p * NNK_VEC + k], scale);
        store_pack<NNK_VEC>(y, at, values);
      }
    });
  }
};

template <unsigned WIDTH>
NNK_FN void dropout_backward(const T* grad, const unsigned char* __restrict__ mask, T* out, A scale,
                             Offset n) {
  each_pack<WIDTH>(n, [=](Offset i) {
    const auto kept = ((const Neighbours<unsigned char, WIDTH>*)mask)[i];
    Pack<WIDTH> values = load_pack<WIDTH>(grad, i);
#pragma unroll
    for (unsigned k = 0; k < WIDTH; ++k) values[k] = dropped(values[k], kept.values[k], scale);
    store_pack<WIDTH>(out, i, values);
  });
}

}  // namespace nnk

#define NNK_DROPOUT(variant, WIDTH, method)                                                       \
  extern "C" __global__ void NNK_BOUNDS(256) dropout##variant(                                    \
      const T* x, const long long* __restrict__ seed, const long long* __restrict__ step, T* y,   \
      unsigned char* __restrict__ mask, A scale, unsigned long long threshold,                    \
      unsigned long long first, unsigned layer, unsigned long long n) {                           \
    const nnk::Philox philox{(unsigned long long)*seed, layer, unsigned(*step)};                  \
    nnk::Dropout{x, y, mask, scale, threshold, first}.method(philox, n);                          \
  }                                                                                               \
  extern "C" __global__ void NNK_BOUNDS(256) dropout_backward##variant(                           \
      const T* grad, const unsigned char* __restrict__ mask, T* out, A scale,                     \
      unsigned long long n) {                                                                     \
    nnk::dropout_backward<WIDTH>(grad, mask, out, scale, n);                                      \
  }

NNK_DROPOUT(, 1, elements)
NNK_DROPOUT(_vec, NNK_VEC, units)
