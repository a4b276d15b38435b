// Losses and their gradients.
//
// A loss is summed in two phases: the first leaves one double for every row, the second adds these up in
// blocks of a fixed number of rows, so that the bits do not depend on which thread computed which row.
#pragma once
#include "../../arithmetic/losses.h"
#include "../loops.h"
#include "activations.h"

namespace nnk::kernels {

constexpr Cell ROWS_SUMMED = 32, MEAN = 0;  // the position of "mean" among the reductions

inline double reduced(double total, Cell reduction, Cell count) {
  return reduction == MEAN ? total / double(count) : total;
}

inline double sum_in_blocks(const double* values, Cell count) {
  double total = 0;
  for (Cell start = 0; start < count; start += ROWS_SUMMED) {
    double part = 0;
    for (Cell i = start; i < smaller(start + ROWS_SUMMED, count); ++i) part += values[i];
    total += part;
  }
  return total;
}

inline double wide_sum(const A* row, Cell columns) {
  return sum<double>(columns, [](A v) { return double(v); }, row);
}

// The sums of term(elements...) of every row. Terms of many short rows are computed at a time.
template <typename F, typename... E>
inline void sum_terms(Items rows, Cell columns, double* losses, F term, const E*... arrays) {
  constexpr Cell PIECE = 512;
  A terms[PIECE];
  const Cell together = columns > PIECE ? 1 : PIECE / columns;
  for (Cell first = rows.first; first < rows.last; first += together) {
    const Cell last = smaller(first + together, rows.last);
    const Cell begin = first * columns, end = last * columns;
    for (Cell r = first; r < last; ++r) losses[r] = 0;
    for (Cell i = begin; i < end; i += PIECE) {
      const Cell count = smaller(end - i, PIECE);
      map(count, terms, term, arrays + i...);
      if (columns > PIECE) {
        losses[first] += wide_sum(terms, count);
      } else {
        for (Cell r = first; r < last; ++r)
          losses[r] = wide_sum(terms + (r - first) * columns, columns);
      }
    }
  }
}

// --- by elements ---------------------------------------------------------------------------------

template <typename Loss>
inline void row_losses(Items rows, const A* pred, const A* target, double* losses, Cell columns,
                       Loss loss) {
  sum_terms(rows, columns, losses, [=](A p, A t) { return loss.term(p, t); }, pred, target);
}

template <typename Loss>
inline void gradients(Items rows, const A* pred, const A* target, A* out, double factor,
                      Cell columns, Loss loss) {
  const Cell begin = rows.first * columns;
  const A scale = A(factor);
  map(rows.count() * columns, out + begin, [=](A p, A t) { return scale * loss.slope(p, t); },
      pred + begin, target + begin);
}

#define NNK_LOSS(name, Loss)                                                                      \
  inline void name##_rows(Items rows, const A* pred, const A* target, double* losses,             \
                          Cell columns) {                                                         \
    row_losses(rows, pred, target, losses, columns, Loss{});                                      \
  }                                                                                               \
  inline void name##_backward(Items rows, const A* grad, const A* pred, const A* target, A* out,  \
                              Cell reduction, Cell b, Cell c) {                                   \
    gradients(rows, pred, target, out, reduced(*grad, reduction, b * c), c, Loss{});              \
  }

NNK_LOSS(mse, SquaredError)
NNK_LOSS(mae, AbsoluteError)
NNK_LOSS(binary_cross_entropy, BinaryCrossEntropy)
NNK_LOSS(binary_cross_entropy_with_logits, LogitsCrossEntropy)

#undef NNK_LOSS

inline void sum_squared_error_backward(Items rows, const A* grad, const A* pred, const A* target,
                                       A* out, Cell b, Cell c) {
  gradients(rows, pred, target, out, reduced(*grad, MEAN, b), c, SquaredError{});
}

inline void huber_rows(Items rows, const A* pred, const A* target, double* losses, double delta,
                       Cell columns) {
  row_losses(rows, pred, target, losses, columns, HuberError{A(delta)});
}
inline void huber_backward(Items rows, const A* grad, const A* pred, const A* target, A* out,
                           double delta, Cell reduction, Cell b, Cell c) {
  const HuberError loss{A(delta)};
  gradients(rows, pred, target, out, reduced(*grad, reduction, b * c), c, loss);
}

inline void over_elements(Items, const double* losses, A* out, Cell reduction, Cell b, Cell c) {
  *out = A(reduced(sum_in_blocks(losses, b), reduction, b * c));
}
inline void over_rows(Items, const double* losses, A* out, Cell reduction, Cell b) {
  *out = A(reduced(sum_in_blocks(losses, b), reduction, b));
}
inline void over_batch(Items, const double* losses, A* out, Cell b) {
  *out = A(reduced(sum_in_blocks(losses, b), MEAN, b));
}

// --- by classes: for a label, or for a row of probabilities --------------------------------------

template <typename Loss>
inline void label_losses(Items rows, const A* pred, const Cell* target, double* losses, Cell c,
                         Loss loss) {
  for_rows(rows, [=](Cell r) { losses[r] = loss.term(pred[r * c + target[r]], A(1)); });
}

template <typename Loss>
inline void label_gradients(Items rows, const A* pred, const Cell* target, A* out, double factor,
                            Cell c, Loss loss) {
  map(rows.count() * c, out + rows.first * c, [] { return A(0); });
  for_rows(rows, [=](Cell r) {
    const Cell at = r * c + target[r];
    out[at] = A(factor) * loss.slope(pred[at], A(1));
  });
}

#define NNK_CLASS_LOSS(name, Loss)                                                                \
  inline void name##_labels(Items rows, const A* pred, const Cell* target, double* losses,        \
                            Cell c) {                                                             \
    label_losses(rows, pred, target, losses, c, Loss{});                                          \
  }                                                                                               \
  inline void name##_expected(Items rows, const A* pred, const A* target, double* losses,         \
                              Cell c) {                                                           \
    row_losses(rows, pred, target, losses, c, Loss{});                                            \
  }                                                                                               \
  inline void name##_labels_backward(Items rows, const A* grad, const A* pred,                    \
                                     const Cell* target, A* out, Cell reduction, Cell b,          \
                                     Cell c) {                                                    \
    label_gradients(rows, pred, target, out, reduced(*grad, reduction, b), c, Loss{});            \
  }                                                                                               \
  inline void name##_expected_backward(Items rows, const A* grad, const A* pred, const A* target, \
                                       A* out, Cell reduction, Cell b, Cell c) {                  \
    gradients(rows, pred, target, out, reduced(*grad, reduction, b), c, Loss{});                  \
  }

NNK_CLASS_LOSS(categorical_cross_entropy, ClassCrossEntropy)
NNK_CLASS_LOSS(nll_loss, LogProbability)

#undef NNK_CLASS_LOSS

// --- softmax and cross entropy at once -----------------------------------------------------------

struct RowLogits {
  double top, excess;  // the maximum, and the logarithm of the sum of exp(x - top)

  // log(softmax), in an order that loses nothing beside a large `top`.
  double log_of(A x) const { return (double(x) - top) - excess; }
};

// `probs` gets the softmax; null where nobody wants it.
inline RowLogits softmax_logits(const A* row, A* probs, Cell columns) {
  const A top = row_maximum(row, columns);
  if (probs == nullptr) return {double(top), double(log_sum_exp(row, top, columns))};
  const A total = exps(row, probs, top, columns), scale = A(1) / total;
  map(columns, probs, [=](A v) { return v * scale; }, probs);
  return {double(top), double(nnk::log(total))};
}

inline A* row_of(A* array, Cell row, Cell columns) {
  return array == nullptr ? nullptr : array + row * columns;
}

inline void softmax_cross_entropy_labels(Items rows, const A* logits, const Cell* target, A* probs,
                                         double* losses, Cell c) {
  for_rows(rows, [=](Cell r) {
    const A* row = logits + r * c;
    losses[r] = -softmax_logits(row, row_of(probs, r, c), c).log_of(row[target[r]]);
  });
}

inline void softmax_cross_entropy_expected(Items rows, const A* logits, const A* target, A* probs,
                                           double* losses, Cell c) {
  for_rows(rows, [=](Cell r) {
    const A* row = logits + r * c;
    const RowLogits found = softmax_logits(row, row_of(probs, r, c), c);
    losses[r] = -sum<double>(c, [=](A x, A t) { return double(t) * found.log_of(x); }, row,
                             target + r * c);
  });
}

inline void softmax_cross_entropy_labels_backward(Items rows, const A* grad, const A* probs,
                                                  const Cell* target, A* out, Cell reduction,
                                                  Cell b, Cell c) {
  const A factor = A(reduced(*grad, reduction, b));
  for_rows(rows, [=](Cell r) {
    const A at_label = probs[r * c + target[r]];
    map(c, out + r * c, [=](A p) { return factor * p; }, probs + r * c);
    out[r * c + target[r]] = factor * (at_label - A(1));
  });
}

inline void softmax_cross_entropy_expected_backward(Items rows, const A* grad, const A* probs,
                                                    const A* target, A* out, Cell reduction,
                                                    Cell b, Cell c) {
  const A factor = A(reduced(*grad, reduction, b));
  for_rows(rows, [=](Cell r) {
    const A total = plain_sum(target + r * c, c);
    map(c, out + r * c, [=](A p, A t) { return factor * (p * total - t); }, probs + r * c,
        target + r * c);
  });
}

#define NNK_ROWS(op, function, arguments) NNK_KERNEL(op, function, arguments, "b", "losses", -1)
#define NNK_ROWS_OF(op, function, arguments, makes, alternative)                                  \
  NNK_KERNEL(op, function, arguments, "b", makes, alternative)
#define NNK_TOTAL(op, function, arguments) NNK_KERNEL(op, function, arguments, nullptr, nullptr, -1)
#define NNK_GRADIENT(op, function, arguments, alternative)                                        \
  NNK_KERNEL(op, function, arguments, "b", nullptr, alternative)
#define NNK_ELEMENTS_LOSS(name, pred)                                                             \
  NNK_ROWS(#name, name##_rows, pred " target losses c_size"),                                     \
      NNK_TOTAL(#name, over_elements, "losses out reduction b_size c_size"),                      \
      NNK_GRADIENT(#name "_backward", name##_backward,                                            \
                   "grad " pred " target out reduction b_size c_size", -1)
#define NNK_CLASSES_LOSS(name, pred)                                                              \
  NNK_ROWS_OF(#name, name##_labels, pred " target losses c_size", "losses", 0),                   \
      NNK_ROWS_OF(#name, name##_expected, pred " target losses c_size", "losses", 1),             \
      NNK_TOTAL(#name, over_rows, "losses out reduction b_size"),                                 \
      NNK_GRADIENT(#name "_backward", name##_labels_backward,                                     \
                   "grad " pred " target out reduction b_size c_size", 0),                        \
      NNK_GRADIENT(#name "_backward", name##_expected_backward,                                   \
                   "grad " pred " target out reduction b_size c_size", 1)

inline constexpr nnk_kernel losses[] = {
    NNK_ELEMENTS_LOSS(mse, "pred"),
    NNK_ELEMENTS_LOSS(mae, "pred"),
    NNK_ELEMENTS_LOSS(binary_cross_entropy, "pred"),
    NNK_ELEMENTS_LOSS(binary_cross_entropy_with_logits, "logits"),
    NNK_ROWS("huber", huber_rows, "pred target losses delta c_size"),
    NNK_TOTAL("huber", over_elements, "losses out reduction b_size c_size"),
    NNK_GRADIENT("huber_backward", huber_backward,
                 "grad pred target out delta reduction b_size c_size", -1),
    NNK_ROWS("sum_squared_error", mse_rows, "pred target losses c_size"),
    NNK_TOTAL("sum_squared_error", over_batch, "losses out b_size"),
    NNK_GRADIENT("sum_squared_error_backward", sum_squared_error_backward,
                 "grad pred target out b_size c_size", -1),
    NNK_CLASSES_LOSS(categorical_cross_entropy, "probs"),
    NNK_CLASSES_LOSS(nll_loss, "log_probs"),
    NNK_ROWS_OF("softmax_cross_entropy", softmax_cross_entropy_labels,
                "logits target probs losses c_size", "probs losses", 0),
    NNK_ROWS_OF("softmax_cross_entropy", softmax_cross_entropy_expected,
                "logits target probs losses c_size", "probs losses", 1),
    NNK_KERNEL("softmax_cross_entropy", over_rows, "losses loss reduction b_size", nullptr, "loss",
               -1),
    NNK_GRADIENT("softmax_cross_entropy_backward", softmax_cross_entropy_labels_backward,
                 "grad probs target out reduction b_size c_size", 0),
    NNK_GRADIENT("softmax_cross_entropy_backward", softmax_cross_entropy_expected_backward,
                 "grad probs target out reduction b_size c_size", 1),
};

}  // namespace nnk::kernels
