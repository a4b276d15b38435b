// Sums over a whole array in two stages: every block adds up its share, then one block the shares.
#pragma once
#include "reduce.cuh"
#include "vector.cuh"

namespace nnk {

// The block's share of the sum of f(element), into partial[blockIdx.x].
template <unsigned WIDTH, typename V, typename Function>
NNK_FN void sum_share(const T* x, V* partial, Offset n, Function f) {
  RunningSum<V> total;
  each_pack<WIDTH>(n, [&](Offset i) {
    const Pack<WIDTH> values = load_pack<WIDTH>(x, i);
    V sum = 0;
#pragma unroll
    for (unsigned k = 0; k < WIDTH; ++k) sum += f(values[k]);
    total.add(sum);
  });
  leave_block_sum(total.value(), partial);
}

}  // namespace nnk
