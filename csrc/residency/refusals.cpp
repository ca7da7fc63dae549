#include "residency/refusals.hpp"

#include <algorithm>

#include "base/error.hpp"

namespace vramx {

namespace {

/// The modules that are running, in brackets; nothing where none is.
std::string names_of(const BlockTable& table, const std::vector<GroupId>& in_use) {
  constexpr std::size_t most = 5;
  std::vector<std::string> names;
  for (const GroupId group : in_use) {
    const std::string& name = table.group(group).name;
    if (!name.empty() && std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  if (names.empty()) return "";
  std::string all;
  for (std::size_t i = 0; i < std::min(most, names.size()); ++i) {
    all += (i == 0 ? "" : ", ") + names[i];
  }
  if (names.size() > most) all += " and " + std::to_string(names.size() - most) + " more";
  return " (" + all + ")";
}

}  // namespace

bool read_in_place(const Blocks& blocks, const BlockTable& table, Device& device) {
  return std::ranges::all_of(blocks, [&](BlockId id) {
    const Block& block = table[id];
    return block.confined ? block.committed()
                          : device.memory(block.purpose).reads_in_place(block.range);
  });
}

void check_not_leased(const Blocks& blocks, const std::string& action, const BlockTable& table) {
  const auto held = std::ranges::count_if(blocks, [&](BlockId id) { return table[id].leases > 0; });
  if (held > 0) {
    throw InUse("cannot " + action + ": " + std::to_string(held) + " of " +
                std::to_string(blocks.size()) +
                " blocks are leased by a running module or pinned; end those uses first");
  }
}

void out_of_memory(const Blocks& blocks, const BlockTable& table, Device& device,
                   const PerPlace<Bytes>& room, const std::vector<GroupId>& in_use) {
  Bytes asked = 0;
  for (const BlockId id : blocks) asked += table[id].range.size;
  const Bytes budget = room[Place::card];
  const Bytes host_limit = room[Place::host];
  const bool has_below = table[blocks.front()].lowest > Place::host;
  if (has_below && asked > host_limit) {
    throw OutOfMemory("a use of " + text(asked) + " does not fit the host_limit of " +
                          text(host_limit) + "; raise it, or manage smaller modules",
                      {.asked = asked, .budget = host_limit});
  }
  const Traits& traits = device.memory(Purpose::weights).traits();
  const char* where = !traits.keeps_raw ? "weights over the link with host=\"packed\""
                      : traits.reads_over_link
                          ? "all of it over the link, since the system refused to pin it so"
                          : "host memory over the link";
  const Sums& sums = table.sums();
  std::string held = text(sums.held[Place::card]) + " are resident, " + text(sums.leased) +
                     " of them leased by running modules" + names_of(table, in_use) + " and pins";
  if (sums.confined > 0) {
    held += " and " + text(sums.confined) + " activations and buffers, which stay on this card";
  }
  const bool confined = std::ranges::all_of(blocks, [&](BlockId id) { return table[id].confined; });
  const std::string why = confined
                              ? " has no concurrent managed access, so activations do not exceed it"
                              : std::string(" does not read ") + where;
  throw OutOfMemory(
      "a use of " + text(asked) + " does not fit the budget of " + text(budget) + ": " + held +
          ", and " + device.facts().name + why + ". Raise the budget, pin less, " +
          (sums.confined > 0 ? "work on less at a time, " : "") + "or manage smaller modules",
      {.asked = asked,
       .budget = budget,
       .resident = sums.held[Place::card],
       .leased = sums.leased + sums.confined});
}

}  // namespace vramx
