// All kernels for one type of elements and one instruction set: compiled once for each, with the flags of
// that set, NNK_STORAGE (1 float, 2 double) and NNK_VARIANT, the namespace in which everything is. No
// function may be shared with another set, or the linker could keep the one with the wrong instructions.
#define NNK_HOST_KERNELS
#define nnk NNK_VARIANT
#include "mathematics.h"

#include "../arithmetic/portable.h"
#include "kernels/activations.h"
#include "kernels/bookkeeping.h"
#include "kernels/linear.h"
#include "kernels/losses.h"
#include "kernels/movement.h"
#include "kernels/normalisation.h"
#include "kernels/regularisation.h"
#include "kernels/updates.h"

namespace nnk {
namespace {

struct Table {
  nnk_kernel kernels[128] = {};
  std::int64_t count = 0;

  template <std::size_t N> constexpr void add(const nnk_kernel (&family)[N]) {
    for (const nnk_kernel& kernel : family) kernels[count++] = kernel;
  }
};

constexpr Table all() {
  Table table;
  table.add(kernels::activations);
  table.add(kernels::bookkeeping);
  table.add(kernels::linear);
  table.add(kernels::losses);
  table.add(kernels::movement);
  table.add(kernels::normalisation);
  table.add(kernels::regularisation);
  table.add(kernels::updates);
  return table;
}

constexpr Table table = all();

}  // namespace

nnk_kernels kernels_of_variant() { return {table.kernels, table.count, VECTOR_BYTES}; }

}  // namespace nnk
