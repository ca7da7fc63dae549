#include "base/error.hpp"
#include "strategy/adaptive.hpp"
#include "strategy/clairvoyant.hpp"
#include "strategy/lru.hpp"
#include "strategy/mru.hpp"

namespace vramx {

std::vector<std::string> strategy_names() { return {"adaptive", "clairvoyant", "lru", "mru"}; }

std::unique_ptr<Strategy> make_strategy(const std::string& name, const View& view) {
  if (name == "adaptive") return std::make_unique<Adaptive>(view);
  if (name == "clairvoyant") return std::make_unique<Clairvoyant>(view.table);
  if (name == "lru") return std::make_unique<Lru>();
  if (name == "mru") return std::make_unique<Mru>();
  std::string known;
  for (const auto& each : strategy_names()) known += (known.empty() ? "" : ", ") + each;
  throw BadConfig("unknown policy '" + name + "'; the policies are: " + known);
}

}  // namespace vramx
