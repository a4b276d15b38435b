// Softmax over rows and what goes with it; `out` may be an input.
#include "rows.cuh"

namespace nnk {

struct Pair {
  A grad, y;
};

template <typename Team> NNK_FN void softmax(const T* x, T* out, unsigned rows, unsigned columns) {
  each_row<Team>(rows, columns, [=](unsigned, Offset row) {
    const auto values = loaded_row<Team>(x + row, columns);
    const Normaliser by = normaliser<Team>(values);
    const A scale = A(1) / by.sum;
    values.each([=](unsigned c, A v) { out[row + c] = store(nnk::exp(v - by.top) * scale); });
  });
}

template <typename Team>
NNK_FN void log_softmax(const T* x, T* out, unsigned rows, unsigned columns) {
  each_row<Team>(rows, columns, [=](unsigned, Offset row) {
    const auto values = loaded_row<Team>(x + row, columns);
    const Normaliser by = normaliser<Team>(values);
    const A excess = nnk::log(by.sum);  // added to a large top it would be lost
    values.each([=](unsigned c, A v) { out[row + c] = store((v - by.top) - excess); });
  });
}

template <typename Team>
NNK_FN void softmax_backward(const T* grad, const T* y, T* out, unsigned rows, unsigned columns) {
  each_row<Team>(rows, columns, [=](unsigned, Offset row) {
    const auto values = Team::row(
        [=](unsigned c) { return Pair{load(grad[row + c]), load(y[row + c])}; }, columns);
    A sum = 0;
    values.each([&](unsigned, Pair v) { sum += v.grad * v.y; });
    sum = Team::template reduce<Add>(sum);
    values.each([=](unsigned c, Pair v) { out[row + c] = store(v.y * (v.grad - sum)); });
  });
}

template <typename Team>
NNK_FN void log_softmax_backward(
    const T* grad, const T* y, T* out, unsigned rows, unsigned columns) {
  each_row<Team>(rows, columns, [=](unsigned, Offset row) {
    const auto values = Team::row(
        [=](unsigned c) { return Pair{load(grad[row + c]), load(y[row + c])}; }, columns);
    A sum = 0;
    values.each([&](unsigned, Pair v) { sum += v.grad; });
    sum = Team::template reduce<Add>(sum);
    values.each([=](unsigned c, Pair v) { out[row + c] = store(v.grad - nnk::exp(v.y) * sum); });
  });
}

}  // namespace nnk

#define NNK_ROWS(operation, variant, Team)                                                        \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      operation##variant(const T* x, T* out, unsigned rows, unsigned columns) {                   \
    nnk::operation<nnk::Team>(x, out, rows, columns);                                             \
  }

#define NNK_ROWS_BACKWARD(operation, variant, Team)                                               \
  extern "C" __global__ void NNK_BOUNDS(256)                                                      \
      operation##variant(const T* grad, const T* y, T* out, unsigned rows, unsigned columns) {    \
    nnk::operation<nnk::Team>(grad, y, out, rows, columns);                                       \
  }

NNK_ROWS(softmax, _warp, WarpTeam)
NNK_ROWS(softmax, _block, BlockTeam)
NNK_ROWS(log_softmax, _warp, WarpTeam)
NNK_ROWS(log_softmax, _block, BlockTeam)
NNK_ROWS_BACKWARD(softmax_backward, _warp, WarpTeam)
NNK_ROWS_BACKWARD(softmax_backward, _block, BlockTeam)
NNK_ROWS_BACKWARD(log_softmax_backward, _warp, WarpTeam)
NNK_ROWS_BACKWARD(log_softmax_backward, _block, BlockTeam)
