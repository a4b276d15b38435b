// Batch normalisation, whose columns are independent, and layer normalisation, whose rows are.
//
// Columns are walked in panels: a panel's part of a row is contiguous, and its rows stay in the cache from
// one pass over them to the next. A sum over rows is made of sums of ROWS_SUMMED rows, and every column
// adds the same numbers in the same order whatever panel it is in.
#pragma once
#include "../loops.h"
#include "losses.h"

namespace nnk::kernels {

constexpr Cell PANEL = 256;

struct Panel {
  Cell first, count;
};

template <typename F> inline void for_panels(Items columns, F f) {
  for (Cell j = columns.first; j < columns.last; j += PANEL)
    f(Panel{j, smaller(columns.last - j, PANEL)});
}

// totals[j] = the sum over rows i of term(elements i, j of the arrays, its own elements j of `columns`).
// `add(part, arrays at row i)` adds a row to the block's sums.
template <typename Add> inline void sum_rows(Cell rows, Cell columns, A* part, A* total, Add add) {
  map(columns, total, [] { return A(0); });
  map(columns, part, [] { return A(0); });
  for (Cell top = 0; top < rows; top += ROWS_SUMMED) {
    for (Cell i = top; i < smaller(top + ROWS_SUMMED, rows); ++i) add(i);
    for_each(
        columns,
        [](A& all, A& some) {
          all += some;
          some = A(0);
        },
        total, part);
  }
}

inline void sum_columns(const A* x, Cell rows, Cell row_length, Panel panel, A* part, A* total) {
  sum_rows(rows, panel.count, part, total, [=](Cell i) {
    for_each(panel.count, [](A& s, A v) { s += v; }, part, x + i * row_length + panel.first);
  });
}

inline void copy_if_wanted(const A* source, A* target, Panel panel) {
  if (target != nullptr)
    std::memcpy(target + panel.first, source + panel.first, panel.count * sizeof(A));
}

inline A inverse_deviation(A variance, A eps) { return A(1) / nnk::sqrt(variance + eps); }

inline void batch_norm(Items columns, const A* x, const A* gamma, const A* beta, A* y, A* mean,
                       A* variance, A* block, A* centre, A* spread, double eps, Cell b, Cell n) {
  const A rows = A(b), small = A(eps);
  for_panels(columns, [=](Panel panel) {
    const Cell first = panel.first, count = panel.count;
    A *part = block + first, *middle = centre + first, *wide = spread + first;
    sum_columns(x, b, n, panel, part, middle);
    for_each(count, [=](A& v) { v /= rows; }, middle);
    sum_rows(b, count, part, wide, [=](Cell i) {
      for_each(
          count,
          [](A& s, A v, A m) {
            const A difference = v - m;
            s = nnk::fma(difference, difference, s);
          },
          part, x + i * n + first, static_cast<const A*>(middle));
    });
    for_each(count, [=](A& v) { v /= rows; }, wide);
    copy_if_wanted(centre, mean, panel);
    copy_if_wanted(spread, variance, panel);
    if (y == nullptr) return;
    for_each(count, [=](A& v, A g) { v = g * inverse_deviation(v, small); }, wide, gamma + first);
    for (Cell i = 0; i < b; ++i)
      map(count, y + i * n + first,
          [](A v, A m, A slope, A shift) { return nnk::fma(v - m, slope, shift); },
          x + i * n + first, middle, wide, beta + first);
  });
}

inline void batch_norm_backward(Items columns, const A* grad, const A* x, const A* gamma,
                                const A* mean, const A* variance, A* grad_x, A* grad_gamma,
                                A* grad_beta, A* block, A* inverse, A* slope, A* level, double eps,
                                Cell b, Cell n) {
  const A rows = A(b), small = A(eps);
  for_panels(columns, [=](Panel panel) {
    const Cell first = panel.first, count = panel.count;
    A *part = block + first, *factor = inverse + first, *products = slope + first;
    A* sums = level + first;
    sum_columns(grad, b, n, panel, part, sums);
    map(count, factor, [=](A v) { return inverse_deviation(v, small); }, variance + first);
    sum_rows(b, count, part, products, [=](Cell i) {
      for_each(
          count, [](A& s, A g, A v, A m, A f) { s = nnk::fma(g, (v - m) * f, s); }, part,
          grad + i * n + first, x + i * n + first, mean + first, static_cast<const A*>(factor));
    });
    copy_if_wanted(slope, grad_gamma, panel);
    copy_if_wanted(level, grad_beta, panel);
    if (grad_x == nullptr) return;
    for_each(
        count,
        [=](A& f, A& s, A& p, A g) {
          s /= rows;
          p = p / rows * f;
          f *= g;
        },
        factor, sums, products, gamma + first);
    for (Cell i = 0; i < b; ++i)
      map(count, grad_x + i * n + first,
          [](A g, A v, A m, A f, A p, A s) { return f * (g - nnk::fma(p, v - m, s)); },
          grad + i * n + first, x + i * n + first, mean + first, factor, products, sums);
  });
}

inline void slopes(Items columns, const A* gamma, const A* running_var, A* slope, double eps) {
  const Cell first = columns.first;
  map(columns.count(), slope + first, [=](A g, A v) { return g * inverse_deviation(v, A(eps)); },
      gamma + first, running_var + first);
}

inline void batch_norm_inference(Items rows, const A* x, const A* beta, const A* running_mean,
                                 const A* slope, A* out, Cell n) {
  for_rows(rows, [=](Cell i) {
    map(n, out + i * n, [](A v, A m, A s, A shift) { return nnk::fma(v - m, s, shift); },
        x + i * n, running_mean, slope, beta);
  });
}

inline void update_running_statistics(Items columns, A* running_mean, A* running_var,
                                      const A* mean, const A* variance, Cell rows,
                                      double momentum) {
  const Cell first = columns.first, count = columns.count();
  const A keep = A(1 - momentum), take = A(momentum);
  const auto blend = [=](A* running, const A* batch, A weight) {
    for_each(count, [=](A& old, A now) { old = nnk::fma(keep, old, weight * now); },
             running + first, batch + first);
  };
  blend(running_mean, mean, take);
  if (rows > 1) blend(running_var, variance, A(momentum * double(rows) / double(rows - 1)));
}

inline void layer_norm(Items rows, const A* x, const A* gamma, const A* beta, A* y, A* mean,
                       A* variance, double eps, Cell c) {
  const A columns = A(c), small = A(eps);
  for_rows(rows, [=](Cell i) {
    const A* row = x + i * c;
    const A middle = plain_sum(row, c) / columns;
    const A wide = sum<A>(c, [=](A v) { return (v - middle) * (v - middle); }, row) / columns;
    if (mean != nullptr) mean[i] = middle;
    if (variance != nullptr) variance[i] = wide;
    if (y == nullptr) return;
    const A inverse = inverse_deviation(wide, small);
    map(c, y + i * c, [=](A v, A g, A s) { return nnk::fma((v - middle) * inverse, g, s); }, row,
        gamma, beta);
  });
}

inline void layer_norm_sums(Items columns, const A* grad, const A* x, const A* mean,
                            const A* variance, A* grad_gamma, A* grad_beta, A* block, double eps,
                            Cell row_count, Cell c) {
  const A small = A(eps);
  for_panels(columns, [=](Panel panel) {
    const Cell first = panel.first, count = panel.count;
    A* part = block + first;
    if (grad_beta != nullptr) sum_columns(grad, row_count, c, panel, part, grad_beta + first);
    if (grad_gamma == nullptr) return;
    sum_rows(row_count, count, part, grad_gamma + first, [=](Cell i) {
      const A middle = mean[i], factor = inverse_deviation(variance[i], small);
      for_each(
          count, [=](A& s, A g, A v) { s = nnk::fma(g, (v - middle) * factor, s); }, part,
          grad + i * c + first, x + i * c + first);
    });
  });
}

inline void layer_norm_backward(Items rows, const A* grad, const A* x, const A* gamma,
                                const A* mean, const A* variance, A* grad_x, double eps, Cell c) {
  const A columns = A(c), small = A(eps);
  for_rows(rows, [=](Cell i) {
    const A *g = grad + i * c, *row = x + i * c;
    const A middle = mean[i], inverse = inverse_deviation(variance[i], small);
    const A level = sum<A>(c, [](A a, A s) { return a * s; }, g, gamma) / columns;
    const A slope =
        sum<A>(c, [=](A a, A s, A v) { return a * s * ((v - middle) * inverse); }, g, gamma, row) /
        columns;
    map(c, grad_x + i * c,
        [=](A a, A s, A v) {
          return inverse * nnk::fma(a, s, -nnk::fma((v - middle) * inverse, slope, level));
        },
        g, gamma, row);
  });
}

inline constexpr nnk_kernel normalisation[] = {
    NNK_KERNEL("batch_norm", batch_norm,
               "x gamma beta y mean variance block centre spread eps b_size n_size", "n", nullptr,
               -1),
    NNK_KERNEL("batch_norm_backward", batch_norm_backward,
               "grad x gamma mean variance grad_x grad_gamma grad_beta block inverse slope level "
               "eps b_size n_size",
               "n", nullptr, -1),
    NNK_KERNEL("batch_norm_inference", slopes, "gamma running_var slope eps", "n", "", -1),
    NNK_KERNEL("batch_norm_inference", batch_norm_inference,
               "x beta running_mean slope out n_size", "b", nullptr, -1),
    NNK_KERNEL("update_running_statistics", update_running_statistics,
               "running_mean running_var mean variance rows momentum", "n", nullptr, -1),
    NNK_KERNEL("layer_norm", layer_norm, "x gamma beta y mean variance eps c_size", "...", nullptr,
               -1),
    NNK_KERNEL("layer_norm_backward", layer_norm_sums,
               "grad x mean variance grad_gamma grad_beta block eps ..._size c_size", "c", nullptr,
               -1),
    NNK_KERNEL("layer_norm_backward", layer_norm_backward,
               "grad x gamma mean variance grad_x eps c_size", "...", nullptr, -1),
};

}  // namespace nnk::kernels
