#include "check.hpp"

#include <cstdio>
#include <cstring>

namespace check {

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

void fail(const char* file, int line, const std::string& what) {
  throw Failed(std::string(file) + ":" + std::to_string(line) + ": not so: " + what);
}

}  // namespace check

int main(int count, char** arguments) {
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
