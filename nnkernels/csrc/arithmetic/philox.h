// Philox4x32-10, the counter-based generator behind dropout masks and shuffled batches: a block of
// four words is a function of counter and key. Semantics: nnkernels/catalog/philox.py.
//
// Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
#pragma once
#include "portable.h"

namespace nnk {

struct PhiloxBlock {
  unsigned words[4];
};

struct Philox {
  unsigned long long seed;
  unsigned third, fourth;  // of the counter

  // The words of block `number`: four neighbours in the stream.
  NNK_FN PhiloxBlock block(unsigned long long number) const {
    unsigned c0 = unsigned(number), c1 = unsigned(number >> 32), c2 = third, c3 = fourth;
    unsigned key0 = unsigned(seed), key1 = unsigned(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const unsigned long long even = 0xD2511F53ull * c0, odd = 0xCD9E8D57ull * c2;
      c0 = unsigned(odd >> 32) ^ c1 ^ key0;
      c2 = unsigned(even >> 32) ^ c3 ^ key1;
      c1 = unsigned(odd);
      c3 = unsigned(even);
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
  }

  // Word `number` of the stream.
  NNK_FN unsigned word(unsigned long long number) const {
    const PhiloxBlock found = block(number / 4);
    const unsigned lane = unsigned(number % 4);  // an index would put the block into local memory
    return lane < 2 ? (lane == 0 ? found.words[0] : found.words[1])
                    : (lane == 2 ? found.words[2] : found.words[3]);
  }
};

}  // namespace nnk
