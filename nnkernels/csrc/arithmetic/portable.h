// What NVRTC, nvcc and a host's compiler have in common: types, conversions, elementary functions.
//
// NNK_STORAGE chooses T, the type of arrays' elements: 1 float32, 2 float64, 3 float16, 4 bfloat16.
// Arithmetic is in A: double for float64, else float.
#pragma once

#ifdef __CUDACC__
#define NNK_FN __device__ __forceinline__
// The second number is a budget: 1024 threads share the 65536 registers of a processor. Without it,
// ptxas aims at 32 registers a thread and spills. More than 16 blocks no Turing processor holds.
#define NNK_BOUNDS(threads)                                                                       \
  __launch_bounds__(threads, 1024 / threads < 16 ? 1024 / threads : 16)
#else  // NVRTC has no standard headers
#include <cmath>
#include <cstring>
#define NNK_FN inline
#define NNK_BOUNDS(threads)
#endif

namespace nnk {

struct Half {
  unsigned short bits;
};

struct BFloat16 {
  unsigned short bits;
};

}  // namespace nnk

#if NNK_STORAGE == 1
typedef float T;
typedef float A;
#elif NNK_STORAGE == 2
typedef double T;
typedef double A;
#elif NNK_STORAGE == 3
typedef nnk::Half T;
typedef float A;
#elif NNK_STORAGE == 4
typedef nnk::BFloat16 T;
typedef float A;
#else
#error "NNK_STORAGE must be 1 (float32), 2 (float64), 3 (float16) or 4 (bfloat16)"
#endif

#define NNK_VEC (16 / sizeof(T))  // elements of a 128-bit vector

namespace nnk {

// --- bits ----------------------------------------------------------------------------------------

#ifdef __CUDACC__
NNK_FN unsigned bits_of(float v) { return __float_as_uint(v); }
NNK_FN float float_of(unsigned bits) { return __uint_as_float(bits); }
#else
NNK_FN unsigned bits_of(float v) {
  unsigned bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}
NNK_FN float float_of(unsigned bits) {
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
#endif

NNK_FN A infinity() { return A(float_of(0x7f800000u)); }
NNK_FN bool is_finite(A v) { return v - v == A(0); }

// --- conversions between storage and arithmetic --------------------------------------------------

// Both round to nearest, ties to even, and keep NaN.

NNK_FN float load(float v) { return v; }
NNK_FN double load(double v) { return v; }
NNK_FN float load(BFloat16 v) { return float_of(unsigned(v.bits) << 16); }

NNK_FN void convert(float v, float& to) { to = v; }
NNK_FN void convert(double v, double& to) { to = v; }
NNK_FN void convert(float v, BFloat16& to) {
  const unsigned bits = bits_of(v), rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  to.bits = (unsigned short)((v != v ? bits | 0x400000u : rounded) >> 16);
}

#ifdef __CUDACC__
NNK_FN float load(Half v) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(v.bits));
  return wide;
}
NNK_FN void convert(float v, Half& to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(v)); }
#else
NNK_FN float load(Half v) {
  _Float16 narrow;
  std::memcpy(&narrow, &v, sizeof narrow);
  return float(narrow);
}
NNK_FN void convert(float v, Half& to) {
  const _Float16 narrow = _Float16(v);
  std::memcpy(&to, &narrow, sizeof narrow);
}
#endif

NNK_FN T store(A v) {
  T to;
  convert(v, to);
  return to;
}

// --- elementary functions ------------------------------------------------------------------------

#ifndef NNK_HOST_KERNELS  // their own, which compilers vectorise, are included before

#define NNK_ELEMENTARY(name)                                                                      \
  NNK_FN float name(float v) { return ::name##f(v); }                                             \
  NNK_FN double name(double v) { return ::name(v); }

NNK_ELEMENTARY(erfc)
NNK_ELEMENTARY(exp)
NNK_ELEMENTARY(expm1)
NNK_ELEMENTARY(log)
NNK_ELEMENTARY(log1p)
NNK_ELEMENTARY(sqrt)
NNK_ELEMENTARY(tanh)

NNK_FN float abs(float v) { return ::fabsf(v); }
NNK_FN double abs(double v) { return ::fabs(v); }
NNK_FN float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
NNK_FN double fma(double a, double b, double c) { return ::fma(a, b, c); }

// exp(v²) erfc(v), for v >= 0.
#ifdef __CUDACC__
NNK_ELEMENTARY(erfcx)
#else  // no C library has it
NNK_FN double erfcx(double v) {
  const double square = v * v, lost = fma(v, v, -square);
  if (v < 25) return exp(square) * (1 + lost) * erfc(v);
  double series = 1;
  for (int odd = 11; odd > 0; odd -= 2) series = 1 - odd * (0.5 / square) * series;
  return series / (v * 1.7724538509055160273);  // sqrt(pi)
}
NNK_FN float erfcx(float v) { return float(erfcx(double(v))); }
#endif

#endif  // NNK_HOST_KERNELS

}  // namespace nnk
