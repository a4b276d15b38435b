// Sums and products of whole arrays; matrix products are in csrc/host/products.h.
#pragma once
#include "../loops.h"
#include "../products.h"

namespace nnk::kernels {

inline void bias_add(Items rows, const A* x, const A* b, A* out, Cell n) {
  for_rows(rows, [=](Cell i) {
    map(n, out + i * n, [](A v, A shift) { return v + shift; }, x + i * n, b);
  });
}

inline void add(Items items, const A* a, const A* b, A* out) {
  map(items.count(), out + items.first, [](A v, A w) { return v + w; }, a + items.first,
      b + items.first);
}

// Parts of operators: the names after an underscore are those of the codes of a Multiplier.
inline constexpr nnk_kernel linear[] = {
    NNK_KERNEL("bias_add", bias_add, "x b out n_size", "b", nullptr, -1),
    NNK_KERNEL("add", add, "a b out", "...", nullptr, -1),
    NNK_KERNEL("_sums", column_sums, "grad out b_size n_size", "n", nullptr, -1),
    NNK_KERNEL("_own", own_product, "a a_row a_column b b_row bias k out m n", "m", nullptr, -1),
    NNK_KERNEL("_packed", packed_product, "a a_row a_column b b_row b_column bias k out m n", "m",
               nullptr, -1),
    NNK_KERNEL("_blas", blas_product,
               "gemm a a_step a_transposed b b_step b_transposed bias k out m n", "m", nullptr,
               -1),
    NNK_KERNEL("_transpose", transpose, "a out rows columns", "rows", nullptr, -1),
};

}  // namespace nnk::kernels
