// Matrix products: tiles of the result held in vector registers, over operands as they lie or packed into
// order, or BLAS through a pointer. All compute rows [first, last) of out = a b, or a b + bias.
//
// The order in which an element's products are added depends on k alone, so that its bits are the same
// however the rows are divided.
//
// Source: Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008).
#pragma once
#include <cstring>

#include "loops.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace nnk {

// --- vectors -------------------------------------------------------------------------------------

#if defined(__AVX512F__)
constexpr Cell VECTOR_BYTES = 64, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr Cell VECTOR_BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr Cell VECTOR_BYTES = 16, REGISTERS = 32;
#else
constexpr Cell VECTOR_BYTES = 16, REGISTERS = 16;
#endif

constexpr Cell LANES = VECTOR_BYTES / sizeof(A);
constexpr Cell TOP = REGISTERS == 32 ? 4 : 2;  // vectors of the widest strip

typedef A Vector __attribute__((vector_size(VECTOR_BYTES)));
typedef A Unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(A)), may_alias));

inline Vector load_vector(const A* place) { return *reinterpret_cast<const Unaligned*>(place); }
inline void store_vector(A* place, Vector v) { *reinterpret_cast<Unaligned*>(place) = v; }
inline Vector splat(A v) { return v - Vector{}; }

// The first `count` lanes, 0 < count <= LANES; the others are 0, or stay in memory as they are.
#if defined(__AVX512F__)
#if NNK_STORAGE == 1
inline __mmask16 mask_of(Cell count) { return __mmask16((1u << count) - 1); }
inline Vector load_some(const A* place, Cell count) {
  return Vector(_mm512_maskz_loadu_ps(mask_of(count), place));
}
inline void store_some(A* place, Vector v, Cell count) {
  _mm512_mask_storeu_ps(place, mask_of(count), __m512(v));
}
#else
inline __mmask8 mask_of(Cell count) { return __mmask8((1u << count) - 1); }
inline Vector load_some(const A* place, Cell count) {
  return Vector(_mm512_maskz_loadu_pd(mask_of(count), place));
}
inline void store_some(A* place, Vector v, Cell count) {
  _mm512_mask_storeu_pd(place, mask_of(count), __m512d(v));
}
#endif
#else
inline Vector load_some(const A* place, Cell count) {
  A lanes[LANES] = {};
  for (Cell i = 0; i < count; ++i) lanes[i] = place[i];
  return load_vector(lanes);
}
inline void store_some(A* place, Vector v, Cell count) {
  A lanes[LANES];
  store_vector(lanes, v);
  for (Cell i = 0; i < count; ++i) place[i] = lanes[i];
}
#endif

// --- tiles ---------------------------------------------------------------------------------------

// Steps are in elements; those of `a` from row to row and from column to column.
struct Left {
  const A* at;
  Cell row, column;

  Left below(Cell rows) const { return {at + rows * row, row, column}; }
};

struct Right {
  const A* at;
  Cell row;
};

struct Target {
  A* at;
  Cell row;

  Target below(Cell rows) const { return {at + rows * row, row}; }
};

// What is added to a product: nothing (null), a bias (row step 0), or what is there already.
struct Addend {
  const A* at;
  Cell row;

  Addend below(Cell rows) const { return {at == nullptr ? at : at + rows * row, row}; }
};

template <int VECTORS, bool WHOLE> struct Columns {
  Cell rest;  // lanes of the last vector

  Vector load(const A* row, int j) const {
    return WHOLE || j < VECTORS - 1 ? load_vector(row + j * LANES) : load_some(row + j * LANES, rest);
  }
  void store(A* row, int j, Vector v) const {
    if (WHOLE || j < VECTORS - 1) {
      store_vector(row + j * LANES, v);
    } else {
      store_some(row + j * LANES, v, rest);
    }
  }
};

// out = a b + addend for k >= 1: each row of the tile gets its element of a times the row of b.
template <int ROWS, int VECTORS, bool WHOLE>
inline void tile(Cell k, Left a, Right b, Target out, Addend addend, Columns<VECTORS, WHOLE> columns) {
  Vector sums[ROWS][VECTORS] = {};
  const A *from_a = a.at, *from_b = b.at;
  for (Cell kk = 0; kk < k; ++kk, from_a += a.column, from_b += b.row) {
    Vector row[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) row[j] = columns.load(from_b, j);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
      const Vector element = splat(from_a[i * a.row]);
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) sums[i][j] += element * row[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) {
      Vector total = sums[i][j];
      if (addend.at != nullptr) total += columns.load(addend.at + i * addend.row, j);
      columns.store(out.at + i * out.row, j, total);
    }
  }
}

// Rows of a full tile: as many as registers hold beside a row of b and an element of a.
template <int VECTORS> constexpr int tile_rows() {
  if (REGISTERS == 16) return VECTORS == 2 ? 6 : 12;
  return VECTORS == 4 ? 6 : VECTORS == 3 ? 8 : VECTORS == 2 ? 12 : 16;
}

template <int VECTORS, bool WHOLE>
void cover_rows(Cell rows, Cell k, Left a, Right b, Target out, Addend addend,
                Columns<VECTORS, WHOLE> columns) {
  constexpr int HEIGHT = tile_rows<VECTORS>();
  Cell i = 0;
  for (; i + HEIGHT <= rows; i += HEIGHT)
    tile<HEIGHT>(k, a.below(i), b, out.below(i), addend.below(i), columns);
  for (; i + 4 <= rows; i += 4) tile<4>(k, a.below(i), b, out.below(i), addend.below(i), columns);
  for (; i + 2 <= rows; i += 2) tile<2>(k, a.below(i), b, out.below(i), addend.below(i), columns);
  for (; i < rows; ++i) tile<1>(k, a.below(i), b, out.below(i), addend.below(i), columns);
}

template <int VECTORS>
inline void cover_strip(Cell columns, Cell rows, Cell k, Left a, Right b, Target out,
                        Addend addend) {
  if (columns == VECTORS * LANES) {
    cover_rows(rows, k, a, b, out, addend, Columns<VECTORS, true>{LANES});
  } else {
    const Cell rest = columns - (VECTORS - 1) * LANES;
    cover_rows(rows, k, a, b, out, addend, Columns<VECTORS, false>{rest});
  }
}

// A strip of `out` of up to TOP vectors.
inline void cover(Cell columns, Cell rows, Cell k, Left a, Right b, Target out, Addend addend) {
  const Cell vectors = (columns + LANES - 1) / LANES;
  if (vectors == 1) {
    cover_strip<1>(columns, rows, k, a, b, out, addend);
  } else if (vectors == 2) {
    cover_strip<2>(columns, rows, k, a, b, out, addend);
  }
  if constexpr (TOP == 4) {
    if (vectors == 3) {
      cover_strip<3>(columns, rows, k, a, b, out, addend);
    } else if (vectors == 4) {
      cover_strip<4>(columns, rows, k, a, b, out, addend);
    }
  }
}

// --- operands as they lie ------------------------------------------------------------------------

// Strips from left to right, in each blocks of k, in each of these tiles from top to bottom: rows of b stay
// in the first-level cache while all rows of a pass over them.
inline void product_by_strips(Cell rows, Cell n, Cell k, Left a, Right b, Target out,
                              const A* bias) {
  constexpr Cell K_BLOCK = 128;
  const Cell blocks = (k + K_BLOCK - 1) / K_BLOCK, depth = (k + blocks - 1) / blocks;
  for (Cell j = 0; j < n; j += TOP * LANES) {
    const Target strip{out.at + j, out.row};
    for (Cell start = 0; start < k; start += depth) {
      const Addend addend = start > 0 ? Addend{strip.at, strip.row}
                                      : Addend{bias == nullptr ? nullptr : bias + j, 0};
      cover(smaller(n - j, TOP * LANES), rows, smaller(depth, k - start),
            {a.at + start * a.column, a.row, a.column}, {b.at + start * b.row + j, b.row}, strip,
            addend);
    }
  }
}

inline Cell elements(Cell bytes) { return bytes / Cell(sizeof(A)); }

// One column: a sum for every row of a, whose elements lie side by side.
inline void product_by_dots(Cell rows, Cell k, Left a, const A* b, Cell b_row, A* out,
                            const A* bias) {
  const A start = bias == nullptr ? A(0) : *bias;
  for (Cell i = 0; i < rows; ++i) {
    const A* row = a.at + i * a.row;
    A total = A(0);
    if (b_row == 1) {
      total = sum<A>(k, [](A v, A w) { return v * w; }, row, b);
    } else {
      for (Cell kk = 0; kk < k; ++kk) total += row[kk] * b[kk * b_row];
    }
    out[i] = total + start;
  }
}

// Steps come in bytes.
inline void own_product(Items rows, const A* a, Cell a_row, Cell a_column, const A* b, Cell b_row,
                        const A* bias, Cell k, A* out, Cell, Cell n) {
  const Cell count = rows.count();
  const Left left{a + rows.first * elements(a_row), elements(a_row), elements(a_column)};
  const Target target{out + rows.first * n, n};
  if (k == 0) {  // an empty sum
    for (Cell i = 0; i < count; ++i)
      for (Cell j = 0; j < n; ++j) target.at[i * n + j] = bias == nullptr ? A(0) : bias[j];
  } else if (n == 1 && left.column == 1) {
    product_by_dots(count, k, left, b, elements(b_row), target.at, bias);
  } else if (n == 1 && bias == nullptr) {  // a column as the row outᵀ = bᵀ aᵀ, which fills vectors
    const Left row{b, 0, elements(b_row)};
    product_by_strips(1, count, k, row, {left.at, left.column}, {target.at, 0}, nullptr);
  } else {
    product_by_strips(count, n, k, left, {b, elements(b_row)}, target, bias);
  }
}

// --- packed operands -----------------------------------------------------------------------------

// Rows of a block of b, a strip of which stays in the first-level cache; strips of a block; layers of so
// many rows that a block has (a tile of `out` is read and written again for each block); rows of a block of
// a.
constexpr Cell DEPTH = 128, STRIPS = 4, LAYERS = 4, BLOCK_ROWS = 96;
constexpr Cell WIDTH = TOP * LANES;

struct alignas(64) Packed {
  A b[LAYERS * DEPTH * STRIPS * WIDTH], a[DEPTH * BLOCK_ROWS];
};

inline void transpose_square(const A* a, Cell a_row, A* out, Cell out_row) {
  A square[LANES][LANES];
#pragma GCC unroll 16
  for (Cell i = 0; i < LANES; ++i) std::memcpy(square[i], a + i * a_row, sizeof square[i]);
  for (Cell j = 0; j < LANES; ++j) {
#pragma GCC unroll 16
    for (Cell i = 0; i < LANES; ++i) out[j * out_row + i] = square[i][j];
  }
}

// b (k, columns), stored with `row` and `column` elements between neighbours, as rows of `step` elements.
inline void pack_strip(Cell k, Cell columns, const A* b, Cell row, Cell column, A* to) {
  if (column == 1) {
    for (Cell kk = 0; kk < k; ++kk) std::memcpy(to + kk * WIDTH, b + kk * row, columns * sizeof(A));
    return;
  }
  const Cell whole_k = k / LANES * LANES, whole_columns = columns / LANES * LANES;
  for (Cell j = 0; j < whole_columns; j += LANES)
    for (Cell kk = 0; kk < whole_k; kk += LANES)
      transpose_square(b + j * column + kk * row, column, to + kk * WIDTH + j, WIDTH);
  for (Cell j = 0; j < columns; ++j)
    for (Cell kk = j < whole_columns ? whole_k : 0; kk < k; ++kk)
      to[kk * WIDTH + j] = b[j * column + kk * row];
}

// A block of b: layers of DEPTH rows, in each its strips one after the other.
inline void pack_block(Cell k, Cell columns, const A* b, Cell row, Cell column, A* to) {
  for (Cell layer = 0; layer < k; layer += DEPTH)
    for (Cell j = 0; j < columns; j += WIDTH)
      pack_strip(smaller(DEPTH, k - layer), smaller(columns - j, WIDTH),
                 b + layer * row + j * column, row, column,
                 to + layer * STRIPS * WIDTH + j * DEPTH);
}

inline void packed_product(Items items, const A* a, Cell a_row, Cell a_column, const A* b,
                           Cell b_row, Cell b_column, const A* bias, Cell k, A* out, Cell,
                           Cell n) {
  static thread_local Packed packed;
  const Left left{a, elements(a_row), elements(a_column)};
  const Cell row = elements(b_row), column = elements(b_column);
  for (Cell j = 0; j < n; j += STRIPS * WIDTH) {
    const Cell columns = smaller(n - j, STRIPS * WIDTH);
    for (Cell start = 0; start < k; start += LAYERS * DEPTH) {
      const Cell end = smaller(k, start + LAYERS * DEPTH);
      pack_block(end - start, columns, b + start * row + j * column, row, column, packed.b);
      for (Cell i = items.first; i < items.last; i += BLOCK_ROWS) {
        const Cell rows = smaller(items.last - i, BLOCK_ROWS);
        for (Cell layer = start; layer < end; layer += DEPTH) {
          const Cell deep = smaller(DEPTH, end - layer);
          Left block{left.at + i * left.row + layer * left.column, left.row, left.column};
          if (left.column != 1) {
            for (Cell kk = 0; kk < deep; ++kk)
              std::memcpy(packed.a + kk * BLOCK_ROWS, block.at + kk * left.column,
                          rows * sizeof(A));
            block = {packed.a, 1, BLOCK_ROWS};
          }
          const A* from = packed.b + (layer - start) * STRIPS * WIDTH;
          for (Cell jj = 0; jj < columns; jj += WIDTH) {
            const Target target{out + i * n + j + jj, n};
            const Addend addend = layer > 0 ? Addend{target.at, n}
                                            : Addend{bias == nullptr ? nullptr : bias + j + jj, 0};
            cover(smaller(columns - jj, WIDTH), rows, deep, block, {from + jj * DEPTH, WIDTH},
                  target, addend);
          }
        }
      }
    }
  }
}

// --- BLAS ----------------------------------------------------------------------------------------

using Gemm = void(const char*, const char*, const int*, const int*, const int*, const A*, const A*,
                  const int*, const A*, const int*, const A*, A*, const int*);

// BLAS stores by columns, and so computes outᵀ = bᵀ aᵀ. Steps are elements from row to row as stored.
inline void blas_product(Items rows, Gemm* gemm, const A* a, Cell a_step, Cell a_transposed,
                         const A* b, Cell b_step, Cell b_transposed, const A* bias, Cell k, A* out,
                         Cell, Cell n) {
  A* target = out + rows.first * n;
  if (bias != nullptr)
    for (Cell i = 0; i < rows.count(); ++i) std::memcpy(target + i * n, bias, n * sizeof(A));
  const A* left = a + (a_transposed ? rows.first : rows.first * a_step);
  const int m = int(rows.count()), columns = int(n), depth = int(k);
  const int left_step = int(a_step), right_step = int(b_step);
  const A alpha = A(1), beta = bias == nullptr ? A(0) : A(1);
  gemm(b_transposed ? "T" : "N", a_transposed ? "T" : "N", &columns, &m, &depth, &alpha, b,
       &right_step, left, &left_step, &beta, target, &columns);
}

// --- parts ---------------------------------------------------------------------------------------

// Rows [first, last) of `a` become columns of `out`.
inline void transpose(Items items, const A* a, A* out, Cell rows, Cell columns) {
  const Cell whole_columns = columns / LANES * LANES;
  const Cell whole_last = items.first + items.count() / LANES * LANES;
  for (Cell j = 0; j < whole_columns; j += LANES)
    for (Cell i = items.first; i < whole_last; i += LANES)
      transpose_square(a + i * columns + j, columns, out + j * rows + i, rows);
  for (Cell i = items.first; i < items.last; ++i)
    for (Cell j = i < whole_last ? whole_columns : 0; j < columns; ++j)
      out[j * rows + i] = a[i * columns + j];
}

// Sums over the rows, as a product with a row of ones.
inline void column_sums(Items columns, const A* grad, A* out, Cell rows, Cell n) {
  const A one = A(1);
  if (rows == 0) {
    for (Cell j = columns.first; j < columns.last; ++j) out[j] = A(0);
    return;
  }
  for (Cell j = columns.first; j < columns.last; j += WIDTH)
    cover(smaller(columns.last - j, WIDTH), 1, rows, {&one, 0, 0}, {grad + j, n}, {out + j, 0},
          {nullptr, 0});
}

}  // namespace nnk
