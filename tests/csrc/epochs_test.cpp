// The loops over tables on tables that are made here: windows, chunks, barriers, the guard, kernels that fail,
// deadlines, and workers that are reserved, dismissed, called twice, or left without work. Meant for
// ThreadSanitizer, too. Exits with 1 if anything is wrong.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <memory>
#include <thread>
#include <vector>

using Word = std::int64_t;

extern "C" {
Word nnk_walk(const Word* table, Word steps, const Word* row, Word* diverged, Word* barrier,
              Word threads, Word deadline_ns);
Word nnk_walk_timed(const Word* table, Word steps, const Word* row);
Word nnk_serve(Word* mailbox);
Word nnk_reserve(Word* mailbox);
Word nnk_dismiss(Word* mailbox);
Word nnk_lead(const Word* table, Word steps, const Word* row, Word* diverged, Word* barrier,
              Word threads, Word deadline_ns, Word* mailboxes);
}

namespace {

enum Kind : Word { END, WINDOW, RUN, BARRIER, GUARD };
constexpr Word MAILBOX = 16, NEVER = INT64_MAX;
enum State : Word { AWAY, WAITING };

int failures = 0;

void check(bool right, const char* what) {
  if (right) return;
  ++failures;
  std::fprintf(stderr, "wrong: %s\n", what);
}

template <typename T> Word address(T* place) { return reinterpret_cast<Word>(place); }

Word now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();  // CLOCK_MONOTONIC
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// --- kernels -------------------------------------------------------------------------------------

// Record: out, in, size. out[i] += in[size - 1 - i], which another thread wrote before the barrier.
Word add_opposite(const Word* record, Word first, Word last) {
  double* out = reinterpret_cast<double*>(record[0]);
  const double* in = reinterpret_cast<const double*>(record[1]);
  for (Word i = first; i < last; ++i) out[i] += in[record[2] - 1 - i];
  return 0;
}

// Record: counter. Every thread's own.
Word advance(const Word* record, Word, Word) {
  ++*reinterpret_cast<Word*>(record[0]);
  return 0;
}

// Record: counter, limit: fails when the counter has reached it.
Word fail_at(const Word* record, Word, Word) {
  return *reinterpret_cast<const Word*>(record[0]) >= record[1];
}

// Record: window's address, total: adds what the window shows.
Word read_window(const Word* record, Word, Word) {
  *reinterpret_cast<double*>(record[1]) += *reinterpret_cast<const double*>(record[0]);
  return 0;
}

// Record: loss, counter, limit: a loss that is infinite from there on.
Word lose(const Word* record, Word, Word) {
  const bool bad = *reinterpret_cast<const Word*>(record[1]) >= record[2];
  *reinterpret_cast<double*>(record[0]) = bad ? INFINITY : 1;
  return 0;
}

using Kernel = Word(const Word*, Word, Word);

// --- a program of two stages over several threads -------------------------------------------------

// Each thread adds the other end of `b` to its part of `a`, waits, then the other end of `a` to its part of
// `b`: wrong unless barriers separate them. Then it counts the step.
class Exchange {
 public:
  static constexpr Word SIZE = 48;

  explicit Exchange(Word threads, Word fails_at = NEVER, Word loses_at = NEVER)
      : threads_(threads), a_(SIZE, 1), b_(SIZE, 1), members_(threads), mailboxes_(MAILBOX * threads) {
    for (Word thread = 0; thread < threads; ++thread) build(thread, fails_at, loses_at);
  }

  // Runs with workers called for as Python calls them.
  Word run(Word steps, Word deadline_ns = NEVER) {
    prepare();
    for (Word worker = 0; worker + 1 < threads_; ++worker) reserve(worker);
    return lead(steps, deadline_ns);
  }

  void prepare() {
    for (Word i = 0; i < 16; ++i) barrier_[i] = 0;
    for (Member& member : members_) member.diverged = 0;
  }

  void reserve(Word worker) {
    if (nnk_reserve(mailbox(worker)) == AWAY) call(worker);
  }

  void call(Word worker) {
    pool_.emplace_back([place = mailbox(worker)] { nnk_serve(place); });
  }

  Word lead(Word steps, Word deadline_ns = NEVER) {
    Member& first = members_[0];
    return nnk_lead(first.table.data(), steps, &first.row, &first.diverged, barrier_, threads_,
                    deadline_ns, mailboxes_.data());
  }

  Word* mailbox(Word worker) { return &mailboxes_[MAILBOX * worker]; }

  void join() {
    for (std::thread& each : pool_) each.join();
    pool_.clear();
  }

  Word steps(Word thread) const { return members_[thread].steps; }
  Word diverged(Word thread) const { return members_[thread].diverged; }

  // What one thread would compute in so many steps.
  bool is_after(Word steps) const {
    double a = 1, b = 1;
    for (Word step = 0; step < steps; ++step) {
      a += b;
      b = std::fmod(b + a, 1024);
      a = std::fmod(a, 1024);
    }
    for (Word i = 0; i < SIZE; ++i)
      if (std::fmod(a_[i], 1024) != a || std::fmod(b_[i], 1024) != b) return false;
    return true;
  }

  ~Exchange() { join(); }

 private:
  struct Member {
    std::vector<Word> table;
    std::vector<std::unique_ptr<Word[]>> records;
    Word row = 0, diverged = 0, steps = 0, clock = 0;
    double loss = 1;
  };

  void add(Member& member, Kernel* kernel, Word first, Word last, std::vector<Word> record) {
    member.records.emplace_back(new Word[record.size()]);
    std::copy(record.begin(), record.end(), member.records.back().get());
    for (const Word word : {Word(RUN), Word(1), first, last, Word(5), address(kernel),
                            address(member.records.back().get()), Word(1), address(&member.clock)})
      member.table.push_back(word);
  }

  static Word wrap(const Word* record, Word first, Word last) {
    double* values = reinterpret_cast<double*>(record[0]);
    for (Word i = first; i < last; ++i) values[i] = std::fmod(values[i], 1024);
    return 0;
  }

  void build(Word thread, Word fails_at, Word loses_at) {
    Member& member = members_[thread];
    const Word first = thread * SIZE / threads_, last = (thread + 1) * SIZE / threads_;
    add(member, lose, 0, 1, {address(&member.loss), address(&member.steps), loses_at});
    member.table.insert(member.table.end(), {GUARD, address(&member.loss), 1});
    add(member, add_opposite, first, last, {address(a_.data()), address(b_.data()), SIZE});
    if (thread == threads_ - 1)
      add(member, fail_at, 0, 1, {address(&member.steps), fails_at});
    member.table.push_back(BARRIER);
    add(member, add_opposite, first, last, {address(b_.data()), address(a_.data()), SIZE});
    add(member, advance, 0, 1, {address(&member.steps)});
    member.table.push_back(BARRIER);
    add(member, wrap, first, last, {address(a_.data())});
    add(member, wrap, first, last, {address(b_.data())});
    member.table.insert(member.table.end(), {BARRIER, END});
    if (thread == 0) return;
    Word* mailbox = &mailboxes_[MAILBOX * (thread - 1)];
    const Word arguments[] = {address(member.table.data()), 0, address(&member.row),
                              address(&member.diverged), address(barrier_), threads_};
    std::copy(std::begin(arguments), std::end(arguments), mailbox + 1);
  }

  const Word threads_;
  std::vector<double> a_, b_;
  std::vector<Member> members_;
  alignas(64) Word barrier_[16] = {};
  std::vector<Word> mailboxes_;
  std::vector<std::thread> pool_;
};

// --- tests ---------------------------------------------------------------------------------------

void one_thread() {
  const double values[] = {1, 2, 4, 8};
  double total = 0, loss = 1;
  Word row = 0, steps = 0, diverged = 0, clock = 0, barrier[16] = {};
  Word reads[] = {0, address(&total)}, counts[] = {address(&row)}, steps_of[] = {address(&steps)};
  Word loses[] = {address(&loss), address(&row), 3};
  const Word table[] = {
      WINDOW, address(&reads[0]), address(values), 8,
      RUN, 1, 0, 1, 1, address(lose), address(loses), 1, address(&clock),
      GUARD, address(&loss), 1,
      RUN, 3, 0, 1, 1, address(read_window), address(reads), 1, address(&clock),
      address(advance), address(counts), 1, address(&clock), address(advance), address(steps_of), 1,
      address(&clock),
      END};
  check(nnk_walk(table, 2, &row, &diverged, barrier, 1, NEVER) == 2, "two steps of one thread");
  check(total == 3 && row == 2 && steps == 2 && diverged == 0, "windows and members");
  check(nnk_walk(table, 9, &row, &diverged, barrier, 1, NEVER) == 1, "steps before the guard's");
  check(total == 7 && row == 3 && diverged == 1, "what the guard leaves");
  row = 0;
  check(nnk_walk_timed(table, 9, &row) == 3 && total == 14 && clock > 0, "the timed walk");
  row = 0;
  total = 0;
  const Word late = nnk_walk(table, 3, &row, &diverged, barrier, 1, 0);
  check(late == 3, "fewer steps than between two looks at the clock");
}

void chunks_are_whole() {
  std::vector<double> out(50, 0), in(50, 1);
  Word record[] = {address(out.data()), address(in.data()), 50}, row = 0, diverged = 0, clock = 0;
  Word barrier[16] = {};
  const Word table[] = {RUN, 1, 3, 25, 7, address(add_opposite), address(record), 2, address(&clock), END};
  check(nnk_walk(table, 1, &row, &diverged, barrier, 1, NEVER) == 1, "a step of chunks");
  bool right = true;
  for (Word i = 0; i < 50; ++i) right &= out[i] == (i >= 6 ? 1 : 0);
  check(right, "every item of all chunks once");
}

void many_short_runs(Word threads) {
  Exchange exchange(threads);
  Word done = 0;
  for (Word run = 0; run < 300; ++run) {
    const Word steps = run % 4;
    check(exchange.run(steps) == steps, "a short run");
    done += steps;
    if (run % 100 == 99) std::this_thread::sleep_for(std::chrono::milliseconds(5));  // they leave
  }
  check(exchange.is_after(done), "what short runs computed");
  for (Word thread = 0; thread < threads; ++thread)
    check(exchange.steps(thread) == done, "every thread's own counter");
}

void failing_kernel(Word threads) {
  Exchange exchange(threads, 7);
  check(exchange.run(20) == -1, "a run in which a kernel fails");
  for (Word thread = 0; thread < threads; ++thread)
    check(exchange.steps(thread) == 7, "the steps before the failure");
}

void diverging(Word threads) {
  Exchange exchange(threads, NEVER, 5);
  check(exchange.run(20) == 5, "a run that diverges");
  for (Word thread = 0; thread < threads; ++thread)
    check(exchange.diverged(thread) == 1 && exchange.steps(thread) == 5, "all threads saw it");
  check(exchange.is_after(5), "what came before");
}

void deadline(Word threads) {
  Exchange exchange(threads);
  const Word done = exchange.run(Word(1) << 40, now_ns() + 20'000'000);
  check(0 < done && done < Word(1) << 40, "a run ends at its deadline");
  for (Word thread = 0; thread < threads; ++thread)
    check(exchange.steps(thread) == done, "all threads end with the same step");
  check(exchange.is_after(done), "whole steps");
  check(exchange.run(3, 0) == 2 && exchange.is_after(done + 2), "a late run ends behind its barriers");
}

// Reserved, then left without work: dismissed, they leave; not dismissed, they would wait for ever.
void dismissal(Word threads) {
  Exchange exchange(threads);
  Word done = 0;
  for (Word round = 0; round < 50; ++round) {
    for (Word worker = 0; worker + 1 < threads; ++worker) exchange.reserve(worker);
    for (Word worker = 0; worker + 1 < threads; ++worker) nnk_dismiss(exchange.mailbox(worker));
    if (round % 3 == 0) done += exchange.run(2);
  }
  exchange.join();
  for (Word worker = 0; worker + 1 < threads; ++worker)
    check(*exchange.mailbox(worker) == AWAY, "who is dismissed leaves");
  check(exchange.is_after(done), "runs between dismissals");
}

// A worker that was called although the earlier one has not left yet: one of them works, once.
void called_twice() {
  Exchange exchange(2);
  for (Word round = 0; round < 50; ++round) {
    exchange.prepare();
    exchange.reserve(0);
    exchange.call(0);
    check(exchange.lead(1) == 1, "a run with a worker too many");
  }
  check(exchange.is_after(50), "the work was done once");
}

void two_crews() {
  Exchange first(2), second(3);
  Word done[2] = {};
  std::thread other([&] {
    for (int run = 0; run < 100; ++run) done[1] += second.run(2);
  });
  for (int run = 0; run < 100; ++run) done[0] += first.run(3);
  other.join();
  check(done[0] == 300 && done[1] == 200 && first.is_after(300) && second.is_after(200), "two crews");
}

}  // namespace

int main() {
  one_thread();
  chunks_are_whole();
  for (const Word threads : {2, 3, 4}) {
    many_short_runs(threads);
    failing_kernel(threads);
    diverging(threads);
    deadline(threads);
    dismissal(threads);
  }
  called_twice();
  two_crews();
  if (failures == 0) std::puts("loops and crews are right");
  return failures == 0 ? 0 : 1;
}
