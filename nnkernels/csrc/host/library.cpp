// What Python finds when it opens the library: who it is, and the kernels for an instruction set.
#include "library.h"

#include <cstring>

#define NNK_DECLARE(variant)        \
  namespace variant {               \
  nnk_kernels kernels_of_variant(); \
  }

NNK_DECLARE(nnk_baseline_float32)
NNK_DECLARE(nnk_baseline_float64)
#if defined(__x86_64__)
NNK_DECLARE(nnk_avx2_float32)
NNK_DECLARE(nnk_avx2_float64)
NNK_DECLARE(nnk_avx512_float32)
NNK_DECLARE(nnk_avx512_float64)
#endif

namespace {

struct Variant {
  const char* name;
  bool (*runs_here)();
  nnk_kernels (*of[2])();  // float32, float64
};

#define NNK_OF(isa) {nnk_##isa##_float32::kernels_of_variant, nnk_##isa##_float64::kernels_of_variant}

// From the best to what every processor of the kind has.
const Variant variants[] = {
#if defined(__x86_64__)
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2") &&
              __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
     },
     NNK_OF(avx512)},
    {"avx2",
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("bmi2");
     },
     NNK_OF(avx2)},
#endif
    {"baseline", [] { return true; }, NNK_OF(baseline)},
};
constexpr std::int64_t VARIANTS = sizeof variants / sizeof *variants;

}  // namespace

#define NNK_EXPORT extern "C" __attribute__((visibility("default")))

NNK_EXPORT std::int64_t nnk_abi() { return NNK_ABI; }

// A digest of the sources that it was built from.
NNK_EXPORT const char* nnk_sources() { return NNK_SOURCES; }

NNK_EXPORT const char* nnk_compiler() { return NNK_COMPILER; }

// Name of a variant, from the best one on; null behind the last. `runs_here` gets whether this processor
// has its instructions.
NNK_EXPORT const char* nnk_variant(std::int64_t number, std::int64_t* runs_here) {
  if (number < 0 || number >= VARIANTS) return nullptr;
  *runs_here = variants[number].runs_here();
  return variants[number].name;
}

// The kernels of a variant for float32 (0) or float64 (1); none where there is no such variant.
NNK_EXPORT nnk_kernels nnk_kernels_of(const char* variant, std::int64_t dtype) {
  if (dtype < 0 || dtype > 1) return {};
  for (const Variant& found : variants)
    if (std::strcmp(found.name, variant) == 0) return found.of[dtype]();
  return {};
}
