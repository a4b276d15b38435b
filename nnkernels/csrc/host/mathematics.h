// Elementary functions as straight-line arithmetic, which compilers vectorise in the loops around it.
//
// No branch, no table, no call: the same instructions for every element. Results below the smallest
// normal number may be flushed to zero; NaN stays NaN, infinities and zeros give their limits, and
// expm1, log1p and tanh keep a zero's sign. Largest errors, in units in the last place of float and
// double: exp 2, expm1 2 and 2.5, log 1 and 1.5, log1p 1.5 and 2, tanh 3, erfcx 4; with and without fused
// multiply-add (tests/backends/native/test_mathematics.py).
//
// The polynomials are those of nnkernels/backends/numba/kernels/mathematics.py: minimax (Remez
// exchange in 200-bit arithmetic), rounded one coefficient after the other. This file needs a compiler
// that may neither reorder nor neglect NaN, but may fuse.
#pragma once
#include <cstdint>
#include <limits>

namespace nnk {

template <typename F> struct Format;

template <> struct Format<float> {
  using Bits = std::uint32_t;
  static constexpr int mantissa = 23, bias = 127;
  // (exp(r) - 1) / r on [0, log(2)].
  static constexpr float exp_tail[] = {0.9999998211860657f,  0.5000055432319641f,
                                       0.16661173105239868f, 0.04191083461046219f,
                                       0.007797313388437033f, 0.0019464560318738222f};
  // (expm1(r) - r) / r² on [-log(2) / 2, log(2) / 2].
  static constexpr float expm1_tail[] = {0.4999999701976776f, 0.1666654348373413f,
                                         0.041667498648166656f, 0.008366533555090427f,
                                         0.0013864872744306922f};
  // (log((1 + s) / (1 - s)) / s - 2) / s² in s², for (1 + s) / (1 - s) from sqrt(1/2) to sqrt(2).
  static constexpr float log_tail[] = {0.6666677594184875f, 0.39977573928681946f,
                                       0.2987106740474701f};
  // (x + 3) exp(x²) erfc(x) in (x - 3) / (x + 3), for x up to `erfc_reach`.
  static constexpr float erfc_scaled[] = {
      1.0740069150924683f,   -0.8833945393562317f,   0.5902281403541565f,
      -0.3104662597179413f,  0.11952981352806091f,   -0.026837730780243874f,
      -0.0012259570648893714f, 0.0030761624220758677f, -0.0004889010451734066f,
      -0.000327680550981313f};
  static constexpr float erfc_reach = 9.4f;
  static constexpr float ln2_high = 0.693145751953125f, ln2_low = 1.428606765330187e-06f;
  static constexpr float just_below_half = 0x1.fffffep-2f;
};

template <> struct Format<double> {
  using Bits = std::uint64_t;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double exp_tail[] = {
      1.0000000000000009,     0.4999999999999224,     0.16666666666900576,
      0.041666666631724296,   0.00833333363499357,    0.001388887259400844,
      0.0001984184359088526,  2.4788229649780218e-05, 2.776069377064937e-06,
      2.562244803484074e-07,  3.529645069657283e-08};
  static constexpr double expm1_tail[] = {
      0.5000000000000006,     0.16666666666666594,   0.04166666666657377,  0.008333333333386206,
      0.0013888888932311444,  0.00019841269727242445, 2.4801504535703528e-05,
      2.755739949354042e-06,  2.7626289644868795e-07, 2.5056498115671864e-08};
  static constexpr double log_tail[] = {0.6666666666666734,  0.39999999999416275,
                                        0.2857142874217303,  0.22222198584780242,
                                        0.18183564149012577, 0.1531404606345049,
                                        0.14796072196432467};
  static constexpr double erfc_scaled[] = {
      1.0740069070883398,     -0.8833944531698836,    0.5902283571040912,
      -0.3104672619005678,    0.11952776128768167,    -0.026827234624451444,
      -0.0012124166339741627, 0.0030340620004601377,  -0.000548309625922212,
      -0.0002767778362148758, 0.00010756109333391805, 3.0398082089942763e-05,
      -1.746906080622995e-05, -4.748819923509753e-06, 2.76164514863887e-06,
      9.976027455840526e-07,  -4.019777112392348e-07, -2.3089149470931004e-07,
      4.02079799016266e-08,   4.725830619661845e-08,  2.051964953947826e-09,
      -5.932833678545768e-09, -1.4118939450465102e-09};
  static constexpr double erfc_reach = 26.6;
  static constexpr double ln2_high = 0.6931471803691238, ln2_low = 1.9082149292705877e-10;
  static constexpr double just_below_half = 0x1.fffffffffffffp-2;
};

template <typename F> using BitsOf = typename Format<F>::Bits;

// Numbers of which F has no name of its own.
template <typename F> struct Numbers {
  using Limits = std::numeric_limits<F>;
  static constexpr F ln2 = F(0.693147180559945309417), log2_e = F(1.44269504088896340736);
  static constexpr F infinity = Limits::infinity(), nan = Limits::quiet_NaN();
  // Adding it rounds to an integer, whose stored exponent is then in the last bits.
  static constexpr F shifter =
      F(1.5) * F(BitsOf<F>(1) << Format<F>::mantissa) + F(Format<F>::bias);
  // exp of the first is flushed to 0 (k rounded down), of the second it is infinite.
  static constexpr F lowest = (F(0.5) - F(Format<F>::bias)) * ln2;
  static constexpr F highest = (F(Format<F>::bias) + F(1.25)) * ln2;
};

// --- bits ----------------------------------------------------------------------------------------

template <typename F> inline BitsOf<F> bits(F v) { return __builtin_bit_cast(BitsOf<F>, v); }
template <typename F> inline F number(BitsOf<F> v) { return __builtin_bit_cast(F, v); }

// 2^k of k + shifter; 0 for the k just below those of normal numbers.
template <typename F> inline F power_of_two(F shifted) {
  return number<F>(bits(shifted) << Format<F>::mantissa);
}

// So few of its bits that its square is exact.
template <typename F> inline F leading_half(F v) {
  return number<F>(bits(v) & ~((BitsOf<F>(1) << (Format<F>::mantissa / 2 + 1)) - 1));
}

// The exponent field counts from sqrt(1/2), not from 1.
template <typename F> inline BitsOf<F> above_sqrt_half(F v) {
  return bits(v) + (bits(F(1)) - bits(F(0.70710678118654752440)));
}

// Of a positive normal m 2^k, m from sqrt(1/2) to sqrt(2): k + shifter, and m.
template <typename F> inline F shifted_exponent(F v) {
  const F base = F(1.5) * F(BitsOf<F>(1) << Format<F>::mantissa);
  return number<F>((above_sqrt_half(v) >> Format<F>::mantissa) + bits(base));
}
template <typename F> inline F reduced(F v) {
  const BitsOf<F> fraction = above_sqrt_half(v) & ((BitsOf<F>(1) << Format<F>::mantissa) - 1);
  return number<F>(fraction + bits(F(0.70710678118654752440)));
}

template <typename F> inline F with_sign_of(F magnitude, F sign) {
  const BitsOf<F> top = BitsOf<F>(1) << (sizeof(F) * 8 - 1);
  return number<F>((bits(magnitude) & ~top) | (bits(sign) & top));
}

// --- parts ---------------------------------------------------------------------------------------

// The polynomial with these coefficients, the constant one first, by Horner's rule.
template <typename F, int COUNT> inline F polynomial(F x, const F (&coefficients)[COUNT]) {
  F total = coefficients[COUNT - 1];
#pragma GCC unroll 32
  for (int i = COUNT - 2; i >= 0; --i) total = total * x + coefficients[i];
  return total;
}

// h expm1(r) and h, where x - low = k log(2) + r and h = 2^k / 2: expm1(x - low) / 2 is the first plus
// h - 1/2, for a `low` that x is too short to hold. The half keeps h finite wherever the result is.
template <typename F> struct Halves {
  F growth, h;

  explicit Halves(F x, F low = 0) {
    const F shifter = Numbers<F>::shifter - 1;
    const F shifted = (x - low) * Numbers<F>::log2_e + shifter, k = shifted - shifter;
    const F r = ((x - k * Format<F>::ln2_high) - low) - k * Format<F>::ln2_low;
    h = power_of_two(shifted);
    growth = h * (r + r * (r * polynomial(r, Format<F>::expm1_tail)));
  }
};

// log((1 + u) 2^k) for 1 + u from sqrt(1/2) to sqrt(2): with s = u / (2 + u), log(1 + u) is an odd
// function of s, and u - u² / 2 is the part of it that has to be exact where k = 0.
template <typename F> inline F log_of_parts(F u, F k) {
  const F s = u / (u + F(2)), z = s * s, square = F(0.5) * u * u;
  const F tail = s * (square + z * polynomial(z, Format<F>::log_tail)) + k * Format<F>::ln2_low;
  return k * Format<F>::ln2_high + (u - (square - tail));
}

// --- functions -----------------------------------------------------------------------------------

template <typename F> inline F abs(F v) { return number<F>(bits(v) << 1 >> 1); }

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define NNK_FUSED 1
#else
#define NNK_FUSED 0
#endif

// 2^k exp(r) for x = k log(2) + r. Fused: k is rounded down, so that 2^k is normal wherever the result is.
// Else k is nearest, for 1 + expm1(r) with a small r rounds less, and the largest 2^k goes in two steps.
template <typename F> inline F exp(F x) {
  using N = Numbers<F>;
  const F lowest = NNK_FUSED ? N::lowest : -F(Format<F>::bias) * N::ln2;
  F v = x < lowest ? lowest : x;
  v = v > N::highest ? N::highest : v;
  const F offset = NNK_FUSED ? Format<F>::just_below_half : F(0);
  const F shifted = (v * N::log2_e - offset) + N::shifter, k = shifted - N::shifter;
  const F r = (v - k * Format<F>::ln2_high) - k * Format<F>::ln2_low;
  if constexpr (NNK_FUSED)
    return (F(1) + r * polynomial(r, Format<F>::exp_tail)) * power_of_two(shifted);
  const F growth = r + r * (r * polynomial(r, Format<F>::expm1_tail));
  const F scale = power_of_two(k > F(0) ? shifted - F(1) : shifted);
  return (scale + scale * growth) * (k > F(0) ? F(2) : F(1));
}

template <typename F> inline F expm1(F x) {
  const F lowest = -F(Format<F>::mantissa + 3) * Numbers<F>::ln2;
  F v = x < lowest ? lowest : x;
  v = v > Numbers<F>::highest ? Numbers<F>::highest : v;
  const Halves<F> halves(v);
  return with_sign_of(F(2) * (halves.growth + (halves.h - F(0.5))), x);
}

template <typename F> inline F tanh(F x) {
  const F highest = F(Format<F>::mantissa + 6) * Numbers<F>::ln2;
  const F doubled = F(2) * abs(x);
  const Halves<F> halves(doubled > highest ? highest : doubled);
  return with_sign_of(
      (halves.growth + (halves.h - F(0.5))) / (halves.growth + (halves.h + F(0.5))), x);
}

template <typename F> inline F log(F x) {
  using N = Numbers<F>;
  const F lift = F(2) * F(BitsOf<F>(1) << Format<F>::mantissa);
  const bool subnormal = x < std::numeric_limits<F>::min();
  const F normal = subnormal ? x * lift : x;
  const F lifted_shifter = N::shifter + F(Format<F>::mantissa + 1);
  const F k = shifted_exponent(normal) - (subnormal ? lifted_shifter : N::shifter);
  F value = log_of_parts(reduced(normal) - F(1), k);
  value = x > F(0) ? value : (x == F(0) ? -N::infinity : N::nan);
  return x == N::infinity ? N::infinity : value;
}

template <typename F> inline F log1p(F x) {
  using N = Numbers<F>;
  const F k = shifted_exponent(F(1) + x) - N::shifter;
  const F scale = power_of_two(N::shifter + F(2) - k);  // 4 / 2^k: without the 4 perhaps subnormal
  const F u = (x * scale) * F(0.25) + (scale * F(0.25) - F(1));
  F value = log_of_parts(u, k);
  value = x > F(-1) ? value : (x == F(-1) ? -N::infinity : N::nan);
  return with_sign_of(x == N::infinity ? N::infinity : value, x);
}

// exp(v²) erfc(v), for v >= 0: a polynomial over v + 3, and beyond its reach the asymptotic series.
//
// 1 / (v + 3) is split into a part with few bits, whose products are exact, and a correction: its rounding
// error would otherwise be multiplied by about 3.
template <typename F> inline F erfcx(F v) {
  const F reach = Format<F>::erfc_reach, near = v > reach ? reach : v;
  const F divisor = near + F(3), leading = leading_half(divisor);
  const F rest = (divisor - leading) + (near - (divisor - F(3)));
  const F quotient = F(1) / divisor, brief = leading_half(quotient);
  const F correction = quotient * ((F(1) - brief * leading) - brief * rest);
  const F factor =
      polynomial((F(1) - F(6) * brief) - F(6) * correction, Format<F>::erfc_scaled);
  const F half = F(0.5) / (v * v);
  F series = F(1);
#pragma GCC unroll 8
  for (int odd = 11; odd > 0; odd -= 2) series = F(1) - F(odd) * half * series;
  return v > reach ? series / (v * F(1.7724538509055160273)) : factor * brief + factor * correction;
}

inline float sqrt(float v) { return __builtin_sqrtf(v); }
inline double sqrt(double v) { return __builtin_sqrt(v); }

// Rounded once where the processor can.
#if NNK_FUSED
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
template <typename F> inline F fma(F a, F b, F c) { return a * b + c; }
#endif

}  // namespace nnk
