#include "base/error.hpp"
#include "policy/clairvoyant.hpp"
#include "policy/lru.hpp"
#include "policy/mru.hpp"

namespace vramx {

std::vector<std::string> policy_names() { return {"clairvoyant", "lru", "mru"}; }

std::unique_ptr<Policy> make_policy(const std::string& name, const Future& future) {
  if (name == "lru") return std::make_unique<Lru>();
  if (name == "mru") return std::make_unique<Mru>();
  if (name == "clairvoyant") return std::make_unique<Clairvoyant>(future);
  const std::vector<std::string> names = policy_names();
  std::string known;
  for (const auto& each : names) {
    known += (known.empty() ? "" : ", ") + each;
  }
  throw BadConfig("unknown policy '" + name + "'; the policies are: " + known);
}

}  // namespace vramx
