// Softmax cross-entropy of a row, for labels and for rows of probabilities.
#pragma once
#include "rows.cuh"

namespace nnk {

// The targets of one row: t(c) is 1 at the label, or the class's probability.
struct LabelRow {
  long long label;

  NNK_FN A probability(unsigned c) const { return c == label ? A(1) : A(0); }
  // A choice, for 0 times -inf is NaN.
  NNK_FN A weighted(unsigned c, A value) const { return c == label ? value : A(0); }
  template <typename Team> NNK_FN A total() const { return A(1); }
  template <typename Team> NNK_FN long long largest() const { return label; }
};

struct ProbabilityRow {
  const T* values;
  unsigned columns;

  NNK_FN A probability(unsigned c) const { return load(values[c]); }
  NNK_FN A weighted(unsigned c, A value) const { return load(values[c]) * value; }
  template <typename Team> NNK_FN A total() const {
    A sum = 0;
    loaded_row<Team>(values, columns).each([&](unsigned, A t) { sum += t; });
    return Team::template reduce<Add>(sum);
  }
  template <typename Team> NNK_FN long long largest() const {
    return largest_column<Team>(loaded_row<Team>(values, columns));
  }
};

NNK_FN LabelRow target_row(const long long* labels, unsigned row, unsigned) {
  return {labels[row]};
}

NNK_FN ProbabilityRow target_row(const T* probabilities, unsigned row, unsigned columns) {
  return {probabilities + Offset(row) * columns, columns};
}

// Adds the row's loss to `loss`; writes its probabilities and scale times its gradient, each unless
// null. `d_logits` may be where the row is read from.
template <typename Team, typename Row, typename Target>
NNK_FN void cross_entropy_row(const Row& logits, Normaliser by, const Target& target,
                              RunningSum<A>& loss, T* probs, T* d_logits, A scale) {
  const A excess = nnk::log(by.sum), inverse = A(1) / by.sum;
  const A weight = target.template total<Team>();
  logits.each([&](unsigned c, A v) {
    const A p = nnk::exp(v - by.top) * inverse;
    loss.add(-target.weighted(c, (v - by.top) - excess));
    if (probs) probs[c] = store(p);
    if (d_logits) d_logits[c] = store((p * weight - target.probability(c)) * scale);
  });
}

}  // namespace nnk
