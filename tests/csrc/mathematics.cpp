// The elementary functions of csrc/host over arrays, compiled as the kernels of one instruction set are,
// for tests/backends/native/test_mathematics.py.
#define NNK_HOST_KERNELS
#define NNK_STORAGE 2
#include "host/mathematics.h"

#include "arithmetic/activations.h"

#include <cmath>
#include <cstdint>

#define NNK_EXPORT extern "C" __attribute__((visibility("default")))
#define NNK_EACH(DO) DO(exp) DO(expm1) DO(log) DO(log1p) DO(tanh) DO(logistic) DO(erfcx)

namespace {

constexpr double EPSILON = std::numeric_limits<float>::epsilon();
constexpr double SMALLEST = std::numeric_limits<float>::min();
constexpr double OVERFLOWING = std::numeric_limits<float>::max() * (1 + EPSILON / 4);
constexpr std::uint64_t INFINITE = 0x7ff0000000000000;

// The worst of some float results, against double ones: the error of normal results in units in the last
// place and of subnormal ones in smallest normal numbers; and one that is a NaN or an infinity and should
// not be, or the reverse.
struct Worst {
  double ulps = 0, subnormal = 0;
  std::int64_t wrong = -1;

  void add(std::uint32_t argument, float got, double exact) {
    const double size = std::fabs(exact), error = std::fabs(double(got) - exact);
    bool right = error < OVERFLOWING;
    if (size < SMALLEST) {
      subnormal = error > subnormal * SMALLEST ? error / SMALLEST : subnormal;
    } else if (size < OVERFLOWING) {
      const double unit = EPSILON * nnk::number<double>(nnk::bits(size) & INFINITE);
      ulps = error > ulps * unit ? error / unit : ulps;
    } else if (exact == exact) {
      right = double(got) == std::copysign(double(nnk::Numbers<float>::infinity), exact);
    } else {
      right = got != got;
    }
    if (!right) wrong = argument;
  }
};

template <typename F, typename Function>
void apply(std::int64_t count, const F* x, F* out, Function f) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) out[i] = f(x[i]);
}

template <typename Function>
void compare(std::uint64_t first, std::uint64_t last, Worst* worst, Function f) {
  constexpr std::uint64_t PIECE = 4096;
  float narrow[PIECE], got[PIECE];
  double wide[PIECE], exact[PIECE];
  for (; first < last; first += PIECE) {
    for (std::uint64_t i = 0; i < PIECE; ++i) {
      narrow[i] = __builtin_bit_cast(float, std::uint32_t(first + i));
      wide[i] = narrow[i];
    }
    apply(PIECE, narrow, got, f);
    apply(PIECE, wide, exact, f);
    for (std::uint64_t i = 0; i < PIECE; ++i) worst->add(std::uint32_t(first + i), got[i], exact[i]);
  }
}

}  // namespace

// Over an array, and over the float numbers whose bits are [first, last), a multiple of 4096 many.
#define NNK_DEFINE(name)                                                                          \
  NNK_EXPORT void name##_float32(std::int64_t count, const float* x, float* out) {                \
    apply(count, x, out, [](auto v) { return nnk::name(v); });                                    \
  }                                                                                               \
  NNK_EXPORT void name##_float64(std::int64_t count, const double* x, double* out) {              \
    apply(count, x, out, [](auto v) { return nnk::name(v); });                                    \
  }                                                                                               \
  NNK_EXPORT void name##_worst(std::uint64_t first, std::uint64_t last, Worst* worst) {           \
    compare(first, last, worst, [](auto v) { return nnk::name(v); });                             \
  }

NNK_EACH(NNK_DEFINE)

NNK_EXPORT std::int64_t fused() { return NNK_FUSED; }
