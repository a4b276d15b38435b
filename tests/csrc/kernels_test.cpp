// Every kernel of the library, called through its C interface with records that are built here: on heap arrays
// of exactly the size that it may touch, whole and in pieces, which must give the same bits. Products are also
// held against sums in double. AddressSanitizer sees a step beyond an array. Exits with 1 if anything is wrong.
#include "host/library.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" const char* nnk_variant(std::int64_t number, std::int64_t* runs_here);
extern "C" nnk_kernels nnk_kernels_of(const char* variant, std::int64_t dtype);

namespace {

using Cell = std::int64_t;
using Record = std::vector<Cell>;

int failures = 0;

void fail(const char* variant, const char* what, Cell b, Cell c) {
  if (++failures <= 20)
    std::fprintf(stderr, "%s: %s of %lld x %lld\n", variant, what, (long long)b, (long long)c);
}

// What each kernel takes, in the order of the library's table: its items, then one letter an argument.
//
// Items: t all b c elements, b rows, c columns, 6 the 64 segments, 1 everything at once.
// Arrays of elements: M b c, C c, R b, S one. Of doubles: D b, s c, P 64, d one. Of integers: L b labels, I b
// numbers of rows, N b, i one. Of flags: F b c, H b.
// Numbers: b, c, t sizes, f a double, k an integer, 0 an option, which is 0 or 1.
struct Row {
  const char *op, *takes;
};

#define NNK_ELEMENTS(name) {name, "bMMDc"}, {name, "1DS0bc"}, {name "_backward", "bSMMM0bc"}
#define NNK_CLASSES(name)                                                         \
  {name, "bMLDc"}, {name, "bMMDc"}, {name, "1DS0b"}, {name "_backward", "bSMLM0bc"}, \
      {name "_backward", "bSMMM0bc"}

const Row rows[] = {
    {"identity", "tMM"}, {"identity_backward", "tMM"}, {"step", "tMM"}, {"step_backward", "tM"},
    {"sigmoid", "tMM"}, {"sigmoid_backward", "tMMM"}, {"tanh", "tMM"}, {"tanh_backward", "tMMM"},
    {"relu", "tMM"}, {"relu_backward", "tMMM"}, {"silu", "tMM"}, {"silu_backward", "tMMM"},
    {"leaky_relu", "tMMf"}, {"leaky_relu_backward", "tMMMf"}, {"elu", "tMMf"},
    {"elu_backward", "tMMMf"}, {"softplus", "tMMf"}, {"softplus_backward", "tMMMf"},
    {"gelu", "tMM0"}, {"gelu_backward", "tMMM0"}, {"softmax", "bMMc"}, {"softmax_backward", "bMMMc"},
    {"log_softmax", "bMMc"}, {"log_softmax_backward", "bMMMc"},
    {"accumulate", "1dSf"}, {"count", "1di"}, {"advance", "1ik"}, {"tick", "1iidsc"},
    {"bias_add", "bMCMc"}, {"add", "tMMM"}, {"_sums", "cMCbc"},
    {"_own", nullptr}, {"_packed", nullptr}, {"_blas", nullptr}, {"_transpose", nullptr},
    NNK_ELEMENTS("mse"), NNK_ELEMENTS("mae"), NNK_ELEMENTS("binary_cross_entropy"),
    NNK_ELEMENTS("binary_cross_entropy_with_logits"),
    {"huber", "bMMDfc"}, {"huber", "1DS0bc"}, {"huber_backward", "bSMMMf0bc"},
    {"sum_squared_error", "bMMDc"}, {"sum_squared_error", "1DSb"},
    {"sum_squared_error_backward", "bSMMMbc"},
    NNK_CLASSES("categorical_cross_entropy"), NNK_CLASSES("nll_loss"),
    {"softmax_cross_entropy", "bMLMDc"}, {"softmax_cross_entropy", "bMMMDc"},
    {"softmax_cross_entropy", "1DS0b"}, {"softmax_cross_entropy_backward", "bSMLM0bc"},
    {"softmax_cross_entropy_backward", "bSMMM0bc"},
    {"gather_rows", "bMIMc"}, {"gather_rows", "bLIN"}, {"one_hot", "bLMc"}, {"argmax", "bMNc"},
    {"count_correct", "bMLHc"}, {"count_correct", "bMMHfc"}, {"count_correct", "1Hib"},
    {"batch_norm", "cMCCMCCCCCfbc"}, {"batch_norm_backward", "cMMCCCMCCCCCCfbc"},
    {"batch_norm_inference", "cCCCf"}, {"batch_norm_inference", "bMCCCMc"},
    {"update_running_statistics", "cCCCCkf"}, {"layer_norm", "bMCCMRRfc"},
    {"layer_norm_backward", "cMMRRCCCfbc"}, {"layer_norm_backward", "bMMCRRMfc"},
    {"dropout", "tMiiMFfkkc"}, {"dropout_backward", "tMFMf"},
    {"l1_penalty", "6MPt"}, {"l1_penalty", "1PSf"}, {"l1_penalty_backward", "tSMMf"},
    {"l2_penalty", "6MPt"}, {"l2_penalty", "1PSf"}, {"l2_penalty_backward", "tSMMf"},
    {"sgd", "tMMdf"}, {"momentum", "tMMMdf0f"}, {"rmsprop", "tMMMdfff"},
    {"adam", "tMMMMdiffff"}, {"adamw", "tMMMMdiffff"}, {"clip_by_value", "tMf"},
    {"clip_by_global_norm", "6MPt"}, {"clip_by_global_norm", "1Pddf"},
    {"clip_by_global_norm", "tMd"},
};

struct Shape {
  Cell b, c;

  Cell size(char letter) const {
    switch (letter) {
      case 't': case 'M': case 'F': return b * c;
      case 'b': case 'R': case 'D': case 'L': case 'I': case 'N': case 'H': return b;
      case 'c': case 'C': case 's': return c;
      case '6': case 'P': return 64;
      default: return 1;
    }
  }
};

template <typename A> constexpr std::size_t bytes_of(char letter) {
  if (std::strchr("MCRS", letter)) return sizeof(A);
  return std::strchr("FH", letter) ? 1 : 8;
}

// Arrays of their exact sizes, filled by a seed, and the record that points to them.
template <typename A> class Call {
 public:
  Call(const char* takes, Shape shape, Cell option) {
    std::mt19937 random(1);
    for (const char* at = takes + 1; *at != 0; ++at)
      record_.push_back(std::strchr("bctfk0", *at) ? number(*at, shape, option)
                                                   : array(*at, shape, random));
  }

  const Cell* record() const { return record_.data(); }

  bool operator==(const Call& other) const {
    for (std::size_t i = 0; i < arrays_.size(); ++i)
      if (std::memcmp(arrays_[i].get(), other.arrays_[i].get(), sizes_[i]) != 0) return false;
    return true;
  }

 private:
  static Cell number(char letter, Shape shape, Cell option) {
    if (letter == 'f') return __builtin_bit_cast(Cell, 0.3);
    return letter == 'k' ? 3 : letter == '0' ? option : shape.size(letter);
  }

  Cell array(char letter, Shape shape, std::mt19937& random) {
    const Cell count = shape.size(letter);
    sizes_.push_back(count * bytes_of<A>(letter));
    arrays_.emplace_back(new char[sizes_.back()]);
    char* place = arrays_.back().get();
    for (Cell i = 0; i < count; ++i) {
      const double share = (random() % 1000 + 1) / 1001.0;
      if (std::strchr("MCRS", letter)) {
        reinterpret_cast<A*>(place)[i] = A(share);
      } else if (std::strchr("DsPd", letter)) {
        reinterpret_cast<double*>(place)[i] = share;
      } else if (std::strchr("FH", letter)) {
        place[i] = share > 0.5;
      } else {
        const Cell limit = letter == 'I' ? shape.b : letter == 'L' ? shape.c : 8;
        reinterpret_cast<Cell*>(place)[i] = Cell(random()) % limit;
      }
    }
    return reinterpret_cast<Cell>(place);
  }

  Record record_;
  std::vector<std::unique_ptr<char[]>> arrays_;
  std::vector<std::size_t> sizes_;
};

// f(first, last) for pieces of 1, 2, 5, 17 and 40 items in turn, the last ones first.
template <typename F> void in_pieces(Cell items, F f) {
  const Cell lengths[] = {1, 5, 40, 2, 17};
  Cell last = items;
  for (int turn = 0; last > 0; ++turn) {
    const Cell first = std::max<Cell>(0, last - lengths[turn % 5]);
    f(first, last);
    last = first;
  }
}

template <typename A> void check_row(const char* variant, const nnk_kernel& kernel, const Row& row) {
  for (const Cell b : {1, 2, 5, 33})
    for (const Cell c : {1, 2, 3, 7, 16, 17, 31, 130, 600})
      for (const Cell option : {0, 1}) {
        const Shape shape{b, c};
        const Call<A> whole(row.takes, shape, option), pieces(row.takes, shape, option);
        const Cell items = shape.size(row.takes[0]);
        kernel.call(whole.record(), 0, items);
        in_pieces(items, [&](Cell first, Cell last) { kernel.call(pieces.record(), first, last); });
        if (!(whole == pieces)) fail(variant, kernel.op, b, c);
      }
}

// --- products ------------------------------------------------------------------------------------

template <typename A> std::unique_ptr<A[]> random_array(Cell count, unsigned seed) {
  std::mt19937 random(seed);
  std::unique_ptr<A[]> made(new A[count]);
  for (Cell i = 0; i < count; ++i) made[i] = A(int(random() % 2001) - 1000) / A(1000);
  return made;
}

struct Sizes {
  Cell m, n, k;
};

template <typename A> class ProductTest {
 public:
  ProductTest(const char* variant, Sizes sizes, bool turned, bool with_bias)
      : variant_(variant), s_(sizes), turned_(turned), a_(random_array<A>(s_.m * s_.k, 1)),
        b_(random_array<A>(s_.k * s_.n, 2)), bias_(random_array<A>(s_.n, 3)), with_bias_(with_bias) {}

  void check(const nnk_kernel& kernel, bool takes_any_order) const {
    for (const bool b_turned : {false, true}) {
      if (b_turned && !takes_any_order) continue;
      const std::unique_ptr<A[]> out(new A[s_.m * s_.n]);
      Record record = {address(a_), item(turned_ ? 1 : s_.k), item(turned_ ? s_.m : 1), address(b_)};
      record.push_back(item(b_turned ? 1 : s_.n));
      if (takes_any_order) record.push_back(item(b_turned ? s_.k : 1));
      for (const Cell cell : {with_bias_ ? address(bias_) : 0, s_.k, address(out), s_.m, s_.n})
        record.push_back(cell);
      in_pieces(s_.m, [&](Cell first, Cell last) { kernel.call(record.data(), first, last); });
      if (!is_right(out.get(), b_turned)) fail(variant_, kernel.op, s_.m, s_.n);
    }
  }

 private:
  static Cell address(const std::unique_ptr<A[]>& array) { return reinterpret_cast<Cell>(array.get()); }
  static Cell item(Cell count) { return count * Cell(sizeof(A)); }

  bool is_right(const A* out, bool b_turned) const {
    for (Cell i = 0; i < s_.m; ++i)
      for (Cell j = 0; j < s_.n; ++j) {
        double exact = with_bias_ ? bias_[j] : 0, size = std::fabs(exact);
        for (Cell kk = 0; kk < s_.k; ++kk) {
          const double term = double(a_[turned_ ? kk * s_.m + i : i * s_.k + kk]) *
                              double(b_[b_turned ? j * s_.k + kk : kk * s_.n + j]);
          exact += term;
          size += std::fabs(term);
        }
        const double bound = (double(s_.k) + 2) * std::numeric_limits<A>::epsilon() * size;
        if (!(std::fabs(double(out[i * s_.n + j]) - exact) <= bound)) return false;
      }
    return true;
  }

  const char* variant_;
  const Sizes s_;
  const bool turned_;
  const std::unique_ptr<A[]> a_, b_, bias_;
  const bool with_bias_;
};

template <typename A> void check_product(const char* variant, const nnk_kernel& kernel) {
  const bool packed = std::strcmp(kernel.op, "_packed") == 0;
  std::vector<Sizes> all = {{1, 1, 1}, {1, 17, 5}, {7, 1, 9}, {5, 3, 130}, {13, 33, 1}, {19, 67, 31},
                            {100, 129, 200}, {1, 300, 520}, {3, 40, 0}, {97, 65, 129}};
  for (const Sizes sizes : all)
    for (const bool turned : {false, true})
      for (const bool with_bias : {false, true})
        if (!packed || sizes.k > 0)
          ProductTest<A>(variant, sizes, turned, with_bias).check(kernel, packed);
}

template <typename A> void check_transpose(const char* variant, const nnk_kernel& kernel) {
  for (const Cell m : {1, 3, 16, 17, 50})
    for (const Cell n : {1, 8, 15, 33, 64}) {
      const auto a = random_array<A>(m * n, 1);
      const std::unique_ptr<A[]> out(new A[m * n]);
      const Record record = {reinterpret_cast<Cell>(a.get()), reinterpret_cast<Cell>(out.get()), m, n};
      in_pieces(m, [&](Cell first, Cell last) { kernel.call(record.data(), first, last); });
      bool right = true;
      for (Cell i = 0; i < m; ++i)
        for (Cell j = 0; j < n; ++j) right &= out[j * m + i] == a[i * n + j];
      if (!right) fail(variant, kernel.op, m, n);
    }
}

template <typename A> void check_all(const char* variant, Cell dtype) {
  const nnk_kernels table = nnk_kernels_of(variant, dtype);
  if (table.count != Cell(std::size(rows))) return fail(variant, "the number of kernels", table.count, 0);
  for (Cell i = 0; i < table.count; ++i) {
    const nnk_kernel& kernel = table.first[i];
    const std::string op = kernel.op;
    if (op != rows[i].op) {
      fail(variant, kernel.op, i, 0);
    } else if (rows[i].takes != nullptr) {
      check_row<A>(variant, kernel, rows[i]);
    } else if (op == "_own" || op == "_packed") {
      check_product<A>(variant, kernel);
    } else if (op == "_transpose") {
      check_transpose<A>(variant, kernel);
    }
  }
}

}  // namespace

int main() {
  int checked = 0;
  std::int64_t runs_here = 0;
  for (Cell number = 0; const char* variant = nnk_variant(number, &runs_here); ++number) {
    if (!runs_here) continue;
    check_all<float>(variant, 0);
    check_all<double>(variant, 1);
    ++checked;
  }
  if (failures == 0 && checked > 0) std::printf("%d instruction sets\n", checked);
  return failures == 0 && checked > 0 ? 0 : 1;
}
