// The arithmetic that CPU and GPU share, held against wider references within the bounds of
// nnkernels/catalog: |got - expected| <= c eps scale + tiny. Exits with 1 if anything is wrong.
#define NNK_STORAGE 1
#include "activations.h"
#include "losses.h"
#include "philox.h"
#include "updates.h"

#include <cmath>
#include <cstdio>
#include <initializer_list>
#include <limits>
#include <vector>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace {

using Wide = long double;
constexpr Wide INF = std::numeric_limits<Wide>::infinity();
constexpr Wide NOT_A_NUMBER = std::numeric_limits<Wide>::quiet_NaN();
constexpr int SHOWN = 20;

int failures = 0;

void fail(const char* what, Wide first, Wide second, Wide got, Wide expected) {
  if (++failures <= SHOWN)
    std::fprintf(stderr, "%s(%.9Lg, %.9Lg) is %.9Lg, expected %.9Lg\n", what, first, second, got,
                 expected);
}

void check(const char* what, Wide first, Wide second, Wide got, Wide expected, Wide bound) {
  const bool both_nan = std::isnan(got) && std::isnan(expected);
  const bool near = std::fabs(got - expected) <= bound;
  if (got != expected && !both_nan && !near) fail(what, first, second, got, expected);
}

// Numbers between low and high: both signs of magnitudes from 1e-6 to 1e3, and 0.
std::vector<double> points(double low, double high) {
  std::vector<double> found;
  const auto add = [&](double v) {
    if (low <= v && v <= high) found.push_back(v);
  };
  add(0);
  for (double digits = -6; digits <= 3; digits += 0.0007) {
    add(std::pow(10, digits));
    add(-std::pow(10, digits));
  }
  return found;
}

// --- references ----------------------------------------------------------------------------------

Wide size(Wide v) { return std::fabs(v); }
Wide square(Wide v) { return v * v; }
Wide above(Wide v) { return v > 0 ? v : 0; }
Wide s(Wide v) { return 1 / (1 + std::exp(-v)); }
Wide phi(Wide z) { return std::exp(-z * z / 2) * 0.398942280401432677939946L; }
Wide Phi(Wide z) { return std::erfc(-z * 0.707106781186547524400844L) / 2; }
Wide exponent(Wide z) { return 1.595769121605730711759542L * z * (1 + 0.044715L * z * z); }
Wide exponent_slope(Wide z) { return 1.595769121605730711759542L * (1 + 0.134145L * z * z); }

// --- activations ---------------------------------------------------------------------------------

struct Special {
  Wide x, y;
};

constexpr auto NOTHING = [](Wide) -> Wide { return 0; };

// Both for one arithmetic type.
template <typename A> struct Checks {
  static Wide bound(Wide c, Wide scale) {
    if (c == 0) return 0;
    return c * std::numeric_limits<A>::epsilon() * scale + std::numeric_limits<A>::min();
  }

  // `scale(x)` is what the bound adds to the size of the reference.
  template <typename Function, typename Reference, typename Scale>
  static void activation(const char* name, Function f, Reference reference, Wide c, Scale scale,
                         std::initializer_list<Special> special) {
    for (const double point : points(-1e3, 1e3)) {
      const A x = A(point);
      const Wide y = reference(x);
      check(name, x, 0, f(x), y, bound(c, size(y) + scale(x)));
    }
    for (const Special at : special) check(name, at.x, 0, f(A(at.x)), at.y, 0);
    check(name, NOT_A_NUMBER, 0, f(A(NOT_A_NUMBER)), NOT_A_NUMBER, 0);
  }

  // For v from low to high; the bound's scale is |grad| (|slope(v)| + scale(v)). Large gradients
  // bring back what is far out in a tail.
  template <typename Function, typename Slope, typename Scale>
  static void derivative(const char* name, Function f, Slope slope, Wide c, Scale scale,
                         double low = -1e3, double high = 1e3) {
    for (const double grad : {1.0, -3.0, 1e-3, 1e6, 1e20})
      for (const double point : points(low, high)) {
        const A g = A(grad), v = A(point);
        const Wide of = slope(v), largest = size(g) * (size(of) + scale(v));
        if (largest < std::numeric_limits<A>::max())
          check(name, g, v, f(g, v), g * of, bound(c, largest));
      }
    check(name, NOT_A_NUMBER, low, f(A(NOT_A_NUMBER), A(high)), NOT_A_NUMBER, 0);
  }

  static void activations();
  static void derivatives();
};

template <typename A> void Checks<A>::activations() {
  const A slope = A(0.3), alpha = A(1.5), beta = A(0.25);
  const Wide wide_slope = slope, wide_alpha = alpha, wide_beta = beta;
  activation("identity", nnk::identity<A>, [](Wide x) { return x; }, 0, NOTHING,
             {{-INF, -INF}, {INF, INF}});
  activation("step", nnk::step<A>, [](Wide x) -> Wide { return x > 0; }, 0, NOTHING,
             {{-INF, 0}, {-0.0L, 0}, {INF, 1}});
  activation("sigmoid", nnk::sigmoid<A>, s, 4, NOTHING, {{-INF, 0}, {0, 0.5L}, {INF, 1}});
  activation("tanh", [](A x) { return nnk::tanh(x); }, [](Wide x) { return std::tanh(x); }, 4,
             NOTHING, {{-INF, -1}, {0, 0}, {INF, 1}});
  activation("relu", nnk::relu<A>, above, 0, NOTHING, {{-INF, 0}, {INF, INF}});
  activation("leaky_relu", [=](A x) { return nnk::leaky_relu(x, slope); },
             [=](Wide x) { return x > 0 ? x : wide_slope * x; }, 1, NOTHING,
             {{-INF, -INF}, {INF, INF}});
  activation("leaky_relu of slope 0", [](A x) { return nnk::leaky_relu(x, A(0)); }, above, 0,
             NOTHING, {{-INF, 0}, {INF, INF}});
  activation("elu", [=](A x) { return nnk::elu(x, alpha); },
             [=](Wide x) { return x > 0 ? x : wide_alpha * std::expm1(x); }, 4, NOTHING,
             {{-INF, -wide_alpha}, {0, 0}, {INF, INF}});
  activation("gelu", nnk::gelu<A>, [](Wide x) { return x * Phi(x); }, 4,
             [](Wide x) { return x * x * phi(x); }, {{-INF, 0}, {0, 0}, {INF, INF}});
  activation("gelu_tanh", nnk::gelu_tanh<A>, [](Wide x) { return x * s(exponent(x)); }, 4,
             [](Wide x) {
               const Wide v = exponent(x);
               return size(x * v) * s(v) * s(-v);
             },
             {{-INF, 0}, {0, 0}, {INF, INF}});
  activation("silu", nnk::silu<A>, [](Wide x) { return x * s(x); }, 5, NOTHING,
             {{-INF, 0}, {0, 0}, {INF, INF}});
  activation("softplus", [=](A x) { return nnk::softplus(x, beta); },
             [=](Wide x) {
               return above(x) + std::log1p(std::exp(-wide_beta * size(x))) / wide_beta;
             },
             4, [=](Wide x) { return size(x) * s(wide_beta * x); }, {{-INF, 0}, {INF, INF}});
}

template <typename A> void Checks<A>::derivatives() {
  const A slope = A(0.3), alpha = A(1.5), beta = A(0.25);
  const Wide wide_slope = slope, wide_alpha = alpha, wide_beta = beta;
  derivative("sigmoid_backward", nnk::sigmoid_backward<A>, [](Wide y) { return y * (1 - y); }, 4,
             NOTHING, 0, 1);
  derivative("tanh_backward", nnk::tanh_backward<A>, [](Wide y) { return 1 - y * y; }, 3, NOTHING,
             -1, 1);
  derivative("relu_backward", nnk::relu_backward<A>, [](Wide y) -> Wide { return y > 0; }, 0,
             NOTHING);
  derivative("leaky_relu_backward", [=](A g, A y) { return nnk::leaky_relu_backward(g, y, slope); },
             [=](Wide y) { return y > 0 ? 1 : wide_slope; }, 1, NOTHING);
  derivative("elu_backward", [=](A g, A x) { return nnk::elu_backward(g, x, alpha); },
             [=](Wide x) { return x > 0 ? 1 : wide_alpha * std::exp(x); }, 5, NOTHING);
  derivative("gelu_backward", nnk::gelu_backward<A>, [](Wide x) { return Phi(x) + x * phi(x); }, 4,
             [](Wide x) { return Phi(x) + size(x) * phi(x) * (1 + x * x); });
  derivative("gelu_tanh_backward", nnk::gelu_tanh_backward<A>,
             [](Wide x) {
               const Wide v = exponent(x);
               return s(v) * (1 + x * exponent_slope(x) * s(-v));
             },
             4,
             [](Wide x) {
               const Wide v = exponent(x);
               return s(v) * (1 + size(x) * exponent_slope(x) * s(-v) * (1 + size(v)));
             });
  derivative("silu_backward", nnk::silu_backward<A>,
             [](Wide x) { return s(x) * (1 + x * s(-x)); }, 5,
             [](Wide x) { return s(x) * (1 + size(x) * s(-x)); });
  derivative("softplus_backward", [=](A g, A x) { return nnk::softplus_backward(g, x, beta); },
             [=](Wide x) { return s(wide_beta * x); }, 4,
             [=](Wide x) { return s(wide_beta * x) * size(wide_beta * x) * s(-wide_beta * x); });
  check("relu_backward", INF, 0, nnk::relu_backward(A(INF), A(0)), 0, 0);
  check("relu_backward", NOT_A_NUMBER, -1, nnk::relu_backward(A(NOT_A_NUMBER), A(-1)), 0, 0);
  for (const A far : {A(-INF), A(INF)}) {
    check("silu_backward", 1, far, nnk::silu_backward(A(1), far), far > 0, 0);
    check("gelu_backward", 1, far, nnk::gelu_backward(A(1), far), far > 0, 0);
    check("gelu_tanh_backward", 1, far, nnk::gelu_tanh_backward(A(1), far), far > 0, 0);
    check("softplus_backward", 1, far, nnk::softplus_backward(A(1), far, beta), far > 0, 0);
    check("elu_backward", 1, far, nnk::elu_backward(A(1), far, alpha), far > 0, 0);
  }
}

template <typename A> void check_type() {
  for (const double v : points(0, 60))
    check("erfcx", v, 0, nnk::erfcx(A(v)), std::exp(square(A(v))) * std::erfc(Wide(A(v))),
          Checks<A>::bound(4, nnk::erfcx(A(v))));
  Checks<A>::activations();
  Checks<A>::derivatives();
}

// --- Philox --------------------------------------------------------------------------------------

struct Known {
  unsigned long long number;
  unsigned third, fourth;
  unsigned long long seed;
  unsigned words[4];
};

// The known answers of Random123, the authors' own library.
constexpr Known KNOWN[] = {
    {0, 0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {~0ull, ~0u, ~0u, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {0x85a308d3243f6a88, 0x13198a2e, 0x03707344, 0x299f31d0a4093822,
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

void check_philox() {
  for (const Known& known : KNOWN) {
    const nnk::Philox philox{known.seed, known.third, known.fourth};
    const nnk::PhiloxBlock block = philox.block(known.number);
    for (unsigned k = 0; k < 4; ++k) {
      check("philox", k, 0, block.words[k], known.words[k], 0);
      const unsigned long long place = 4 * (known.number >> 2) + k;
      check("word", k, 0, philox.word(place), philox.block(place / 4).words[k], 0);
    }
  }
}

// --- conversions ---------------------------------------------------------------------------------

template <typename Stored> float stored(float v) {
  Stored to;
  nnk::convert(v, to);
  return nnk::load(to);
}

// Every number of 16 bits comes through, and what lies between two goes to the nearer one, or half
// way to the even one. `gap` is that between 1 and the next number, `largest` the largest one.
template <typename Stored> void check_conversion(const char* name, float gap, Wide largest) {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const float v = nnk::load(Stored{static_cast<unsigned short>(bits)});
    check(name, bits, 0, stored<Stored>(v), v, 0);
  }
  for (const float side : {-1.0f, 1.0f}) {
    check(name, side, 0.50, stored<Stored>(side * (1 + gap / 2)), side, 0);
    check(name, side, 0.51, stored<Stored>(side * (1 + gap * 0.51f)), side * (1 + gap), 0);
    check(name, side, 1.50, stored<Stored>(side * (1 + gap * 1.5f)), side * (1 + 2 * gap), 0);
    check(name, side, INF, stored<Stored>(side * float(largest * (1 + gap / 2))), side * INF, 0);
  }
  for (const unsigned payload : {0x7f800001u, 0x7fffffffu, 0xffffffffu})  // all NaN
    check(name, payload, 0, stored<Stored>(nnk::float_of(payload)), NOT_A_NUMBER, 0);
}

void check_conversions() {
  check_conversion<nnk::Half>("float16", 0x1p-10f, 65504.0L);
  check_conversion<nnk::BFloat16>("bfloat16", 0x1p-7f, 0x1.fep127L);
  for (const float v : {0.0f, -1.0f, std::numeric_limits<float>::max()})
    check("is_finite", v, 0, nnk::is_finite(v), true, 0);
  for (const Wide v : {INF, -INF, NOT_A_NUMBER})
    check("is_finite", v, 0, nnk::is_finite(float(v)), false, 0);
  check("infinity", 0, 0, nnk::infinity(), INF, 0);
}

}  // namespace

int main() {
  check_philox();
  check_conversions();
  check_type<float>();
  if (std::numeric_limits<Wide>::digits > std::numeric_limits<double>::digits) check_type<double>();
#ifdef __SSE__
  _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_ON);  // as on the GPU
  check_type<float>();
#endif
  if (failures) std::fprintf(stderr, "%d wrong\n", failures);
  return failures ? 1 : 0;
}
