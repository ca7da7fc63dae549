#include "check.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "device/simulated_work.hpp"

namespace check {

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

Register::Register(const char* title, void (*run)()) { tests().push_back({title, run}); }

unsigned trials(unsigned usual) {
  const char* told = std::getenv("VRAMX_TEST_PROGRAMS");
  if (told == nullptr) return usual;
  return std::max(1U, static_cast<unsigned>(std::stoull(told) * usual / 200));
}

void fail(const char* file, int line, const std::string& what) {
  throw Failed(std::string(file) + ":" + std::to_string(line) + ": not so: " + what);
}

}  // namespace check

namespace {

/// When the simulated card carries out its work, as the stand-in driver does by itself.
void choose_moments() {
  const char* told = std::getenv("VRAMX_TEST_SEED");
  const std::string seed = told != nullptr ? told : "1";
  std::printf("VRAMX_TEST_SEED=%s\n", seed.c_str());
  vramx::Moments moments;
  if (seed == "latest") {
    moments.when = vramx::Moment::latest;
  } else if (seed != "earliest") {
    moments = {.when = vramx::Moment::random, .seed = std::stoull(seed)};
  }
  vramx::set_moments(moments);
}

}  // namespace

int main(int count, char** arguments) {
  choose_moments();
  int run = 0;
  int failed = 0;
  for (const auto& test : check::tests()) {
    if (count > 1 && test.title.find(arguments[1]) == std::string::npos) continue;
    ++run;
    // Before it runs, so that a crash or a hang has a name.
    std::printf("%s\n", test.title.c_str());
    std::fflush(stdout);
    try {
      test.run();
    } catch (const std::exception& error) {
      ++failed;
      std::printf("  FAILED %s\n", error.what());
    }
  }
  std::printf("%d tests, %d failed\n", run, failed);
  return failed == 0 && run > 0 ? 0 : 1;
}
