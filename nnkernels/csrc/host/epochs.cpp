// The loop over a thread's table, its barriers, and threads that stay awake for more work. What a table, a
// barrier and a mailbox are says nnkernels/backends/_compiled/epochs/engine.py.
#include <sched.h>
#include <time.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "library.h"

namespace {

using Word = std::int64_t;
using Kernel = Word(const Word* record, Word first, Word last);

enum Kind : Word { END, WINDOW, RUN, BARRIER, GUARD };
enum State : Word { AWAY, WAITING, RESERVED, WORK, RUNNING };
constexpr Word MEMBER = 4, MAILBOX = 16, TABLE = 1, STEPS = 2, DEADLINE = 7;
constexpr Word LOOK = 8, SPINS = 2000, PATIENCE_NS = 2'000'000;

Word now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return Word(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits a little, and after many times leaves the processor to others.
class Patience {
 public:
  void wait() {
    relax();
    if (++spins_ > SPINS) sched_yield();
  }
  Word spins() const { return spins_; }

 private:
  Word spins_ = 0;
};

Word look(const Word* place) { return __atomic_load_n(place, __ATOMIC_SEQ_CST); }
Word swap(Word* place, Word value) { return __atomic_exchange_n(place, value, __ATOMIC_SEQ_CST); }
Word replace(Word* place, Word expected, Word value) {
  __atomic_compare_exchange_n(place, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return expected;
}
void put(Word* place, Word value) { __atomic_store_n(place, value, __ATOMIC_SEQ_CST); }

void arrive(Word* barrier, Word goal) {
  __atomic_fetch_add(barrier, 1, __ATOMIC_SEQ_CST);
  Patience patience;
  while (look(barrier) < goal) patience.wait();
}

bool is_finite(const void* place, bool is_double) {
  if (is_double) return std::isfinite(*static_cast<const double*>(place));
  return std::isfinite(*static_cast<const float*>(place));
}

struct Member {
  Kernel* kernel;
  const Word* record;
  Word factor;
  Word* clock;
};
static_assert(sizeof(Member) == sizeof(Word) * MEMBER);

// All members on units [first, last), chunk by chunk; `call` gives whether one of them failed.
template <typename Call> bool run_members(const Word* at, Call call) {
  const Word count = at[1], last = at[3], chunk = at[4];
  const Member* members = reinterpret_cast<const Member*>(at + 5);
  bool failed = false;
  for (Word start = at[2]; start < last; start += chunk) {
    const Word stop = last - start < chunk ? last : start + chunk;
    for (Word i = 0; i < count; ++i)
      failed |= call(members[i], start * members[i].factor, stop * members[i].factor);
  }
  return failed;
}

const Word* after_members(const Word* at) { return at + 5 + MEMBER * at[1]; }

void open_window(const Word* at, Word row) { *reinterpret_cast<Word*>(at[1]) = at[2] + row * at[3]; }

bool call_member(const Member& member, Word first, Word last) {
  return member.kernel(member.record, first, last) != 0;
}

bool call_timed(const Member& member, Word first, Word last) {
  const Word began = now_ns();
  const bool failed = call_member(member, first, last);
  *member.clock += now_ns() - began;
  return failed;
}

bool loss_is_finite(const Word* at) {
  return is_finite(reinterpret_cast<const void*>(at[1]), at[2] != 0);
}

// The goals at which all are to stop lie behind the barrier: because a kernel failed, and because it is
// late. No thread may leave while another is on its way to a barrier; so one that finds it late says so
// before the step's first barrier, and all leave when the step is done.
Word walk(const Word* table, Word steps, const Word* row, Word* diverged, Word* barrier, Word threads,
          Word deadline_ns) {
  Word arrivals = 0;
  for (Word step = 0; step < steps; ++step) {
    if (step > 0 && (threads > 1 || step % LOOK == 0) && now_ns() > deadline_ns) {
      if (threads == 1) return step;
      put(barrier + 2, arrivals + 1);
    }
    for (const Word* at = table; *at != END;) {
      switch (*at) {
        case RUN:
          if (run_members(at, call_member)) {
            if (threads == 1) return -1;
            put(barrier + 1, arrivals + threads);
          }
          at = after_members(at);
          break;
        case BARRIER: {
          arrivals += threads;
          arrive(barrier, arrivals);
          const Word failed = look(barrier + 1);
          if (0 < failed && failed <= arrivals) return -1;
          at += 1;
          break;
        }
        case WINDOW:
          open_window(at, *row);
          at += 4;
          break;
        default:  // GUARD
          if (!loss_is_finite(at)) {
            *diverged = 1;
            return step;
          }
          at += 3;
      }
    }
    const Word late = look(barrier + 2);
    if (0 < late && late <= arrivals) return step + 1;
  }
  return steps;
}

Word walk_mailbox(const Word* mailbox) {
  const Word* at = mailbox + TABLE;
  return walk(reinterpret_cast<const Word*>(at[0]), at[1], reinterpret_cast<const Word*>(at[2]),
              reinterpret_cast<Word*>(at[3]), reinterpret_cast<Word*>(at[4]), at[5], at[6]);
}

// Waits for work and takes it; false when the worker is to leave instead.
bool has_work(Word* mailbox) {
  const Word began = now_ns();
  Patience patience;
  while (true) {
    const Word state = look(mailbox);
    if (state == WORK && replace(mailbox, WORK, RUNNING) == WORK) return true;
    if (state == AWAY || state == RUNNING) return false;  // dismissed, or another was called for it
    patience.wait();
    const bool late = patience.spins() % 64 == 0 && now_ns() - began > PATIENCE_NS;
    if (late && replace(mailbox, WAITING, AWAY) == WAITING) return false;
  }
}

}  // namespace

#define NNK_EXPORT extern "C" __attribute__((visibility("default")))

NNK_EXPORT Word nnk_walk(const Word* table, Word steps, const Word* row, Word* diverged, Word* barrier,
                         Word threads, Word deadline_ns) {
  return walk(table, steps, row, diverged, barrier, threads, deadline_ns);
}

NNK_EXPORT Word nnk_walk_timed(const Word* table, Word steps, const Word* row) {
  for (Word step = 0; step < steps; ++step) {
    for (const Word* at = table; *at != END;) {
      switch (*at) {
        case RUN:
          run_members(at, call_timed);
          at = after_members(at);
          break;
        case WINDOW:
          open_window(at, *row);
          at += 4;
          break;
        case GUARD:
          if (!loss_is_finite(at)) return step;
          at += 3;
          break;
        default:  // BARRIER: there is one thread
          at += 1;
      }
    }
  }
  return steps;
}

NNK_EXPORT Word nnk_serve(Word* mailbox) {
  replace(mailbox, AWAY, WAITING);
  while (has_work(mailbox)) {
    walk_mailbox(mailbox);
    swap(mailbox, WAITING);
  }
  return 0;
}

NNK_EXPORT Word nnk_reserve(Word* mailbox) { return swap(mailbox, RESERVED); }

NNK_EXPORT Word nnk_dismiss(Word* mailbox) { return replace(mailbox, RESERVED, AWAY); }

NNK_EXPORT Word nnk_lead(const Word* table, Word steps, const Word* row, Word* diverged, Word* barrier,
                         Word threads, Word deadline_ns, Word* mailboxes) {
  for (Word worker = 0; worker < threads - 1; ++worker) {
    Word* mailbox = mailboxes + MAILBOX * worker;
    mailbox[STEPS] = steps;
    mailbox[DEADLINE] = deadline_ns;
    swap(mailbox, WORK);
  }
  const Word completed = walk(table, steps, row, diverged, barrier, threads, deadline_ns);
  for (Word worker = 0; worker < threads - 1; ++worker) {
    Patience patience;
    while (look(mailboxes + MAILBOX * worker) >= WORK) patience.wait();
  }
  return completed;
}
