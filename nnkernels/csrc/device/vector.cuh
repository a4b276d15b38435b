// Packs of elements, 128 bits wide where WIDTH is NNK_VEC, and loops over a grid.
#pragma once
#include "../arithmetic/portable.h"

namespace nnk {

typedef unsigned long long Offset;  // of an element, or of a pack, in an array

// WIDTH elements in the arithmetic type.
template <unsigned WIDTH> struct Pack {
  A values[WIDTH];

  NNK_FN A& operator[](unsigned k) { return values[k]; }
  NNK_FN const A& operator[](unsigned k) const { return values[k]; }
};

// WIDTH neighbours in memory, moved by one instruction.
template <typename V, unsigned WIDTH> struct alignas(WIDTH * sizeof(V)) Neighbours {
  V values[WIDTH];
};

template <unsigned WIDTH> NNK_FN Pack<WIDTH> load_pack(const T* from, Offset pack) {
  const Neighbours<T, WIDTH> stored = ((const Neighbours<T, WIDTH>*)from)[pack];
  Pack<WIDTH> loaded;
#pragma unroll
  for (unsigned k = 0; k < WIDTH; ++k) loaded[k] = load(stored.values[k]);
  return loaded;
}

// To an array of the storage type or of the arithmetic one, whose pack may be more than 128 bits.
template <unsigned WIDTH, typename V>
NNK_FN void store_pack(V* to, Offset pack, const Pack<WIDTH>& values) {
  constexpr unsigned COUNT = WIDTH * sizeof(V) > 16 ? 16 / sizeof(V) : WIDTH;
#pragma unroll
  for (unsigned first = 0; first < WIDTH; first += COUNT) {
    Neighbours<V, COUNT> stored;
#pragma unroll
    for (unsigned k = 0; k < COUNT; ++k) convert(values[first + k], stored.values[k]);
    *(Neighbours<V, COUNT>*)(to + pack * WIDTH + first) = stored;
  }
}

// f(number of a pack) for all packs of n elements, a multiple of WIDTH.
template <unsigned WIDTH, typename Function> NNK_FN void each_pack(Offset n, Function f) {
  const Offset stride = Offset(gridDim.x) * blockDim.x;
#pragma unroll 1  // to unroll it takes a 64-bit division
  for (Offset i = Offset(blockIdx.x) * blockDim.x + threadIdx.x; i < n / WIDTH; i += stride) f(i);
}

// out = f(inputs...), element by element; `out` may be an input.
template <unsigned WIDTH, typename Function, typename... Inputs>
NNK_FN void map(Offset n, T* out, Function f, const Inputs*... inputs) {
  each_pack<WIDTH>(n, [=](Offset i) {
    const auto apply = [=](const auto&... packs) {
      Pack<WIDTH> results;
#pragma unroll
      for (unsigned k = 0; k < WIDTH; ++k) results[k] = f(packs[k]...);
      store_pack<WIDTH>(out, i, results);
    };
    apply(load_pack<WIDTH>(inputs, i)...);
  });
}

}  // namespace nnk
