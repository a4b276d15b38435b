// What the library exports, in C. nnkernels/backends/native/library.py reads it.
#pragma once
#include <cstdint>

// Changes whenever the meaning of anything here, of a record or of a table does.
#define NNK_ABI 1

extern "C" {

struct nnk_kernel {
  const char* op;         // of the catalogue, or a part's name that begins with an underscore
  const char* arguments;  // names, separated by spaces
  const char* over;       // label of the dimension that is divided; null: none
  const char* makes;      // outputs and scratch for whose sake it runs; null: outputs among arguments
  std::int64_t alternative;
  std::int64_t (*call)(const std::int64_t* record, std::int64_t first, std::int64_t last);
};

struct nnk_kernels {
  const nnk_kernel* first;
  std::int64_t count;
  std::int64_t vector_bytes;  // of the registers that products use
};
}
