// Named tests and what they require. One program a file; an argument picks the tests whose titles
// contain it.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace check {

struct Failed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Test {
  std::string title;
  void (*run)();
};

std::vector<Test>& tests();
/// So many random trials as usual, or in the proportion that VRAMX_TEST_PROGRAMS is of its usual
/// 200.
unsigned trials(unsigned usual);
[[noreturn]] void fail(const char* file, int line, const std::string& what);

struct Register {
  Register(const char* title, void (*run)());
};

}  // namespace check

#define CHECK_JOIN_(a, b) a##b
#define CHECK_JOIN(a, b) CHECK_JOIN_(a, b)

/// TEST("what always holds") { ... }
#define TEST(title)                                                                            \
  static void CHECK_JOIN(test_, __LINE__)();                                                   \
  static const check::Register CHECK_JOIN(registered_, __LINE__)(title,                        \
                                                                 CHECK_JOIN(test_, __LINE__)); \
  static void CHECK_JOIN(test_, __LINE__)()

#define REQUIRE(...)                                                   \
  do {                                                                 \
    if (!(__VA_ARGS__)) check::fail(__FILE__, __LINE__, #__VA_ARGS__); \
  } while (false)

/// The statement throws an Error of exactly this kind or one derived from it.
#define REQUIRE_THROWS(Kind, ...)                                                         \
  do {                                                                                    \
    bool check_thrown = false;                                                            \
    try {                                                                                 \
      __VA_ARGS__;                                                                        \
    } catch (const Kind&) {                                                               \
      check_thrown = true;                                                                \
    }                                                                                     \
    if (!check_thrown) check::fail(__FILE__, __LINE__, #__VA_ARGS__ " throws no " #Kind); \
  } while (false)
