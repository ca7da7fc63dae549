// What the learned order predicts.
#include "strategy/order.hpp"

#include <algorithm>
#include <numeric>
#include <random>

#include "check.hpp"

using namespace vramx;

namespace {

using Groups = std::vector<GroupId>;

Groups ahead(const Order& order, std::size_t count) {
  Groups next;
  order.ahead(count, [&](GroupId group) {
    next.push_back(group);
    return true;
  });
  return next;
}

/// Uses the groups; returns how many of them had been predicted as the very next.
std::size_t predicted(Order& order, const Groups& uses) {
  std::size_t right = 0;
  for (const GroupId group : uses) {
    right += ahead(order, 1) == Groups{group} ? 1 : 0;
    order.used(group);
  }
  return right;
}

Groups times(const Groups& pass, std::size_t count) {
  Groups all;
  for (std::size_t i = 0; i < count; ++i) all.insert(all.end(), pass.begin(), pass.end());
  return all;
}

Groups from_to(GroupId first, GroupId last) {
  Groups groups;
  for (GroupId group = first; group < last; ++group) groups.push_back(group);
  return groups;
}

}  // namespace

TEST("nothing is predicted where nothing is known") {
  Order order;
  REQUIRE(ahead(order, 3).empty());
  REQUIRE(!order.distance(0));
  REQUIRE(predicted(order, from_to(0, 20)) == 0);
  REQUIRE(ahead(order, 3).empty());
  REQUIRE(!order.distance(5));
}

TEST("a cycle is predicted from its second pass on, around its end") {
  Order order;
  predicted(order, from_to(0, 10));
  order.used(0);
  REQUIRE(ahead(order, 12) == Groups({1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2}));
  order.used(1);
  REQUIRE(order.distance(2) == 1);
  REQUIRE(order.distance(9) == 8);
  REQUIRE(order.distance(0) == 9);
  REQUIRE(order.distance(1) == 10);
  REQUIRE(predicted(order, from_to(2, 10)) == 8);
  REQUIRE(predicted(order, times(from_to(0, 10), 5)) == 50);
}

TEST("distances agree with what is predicted") {
  Order order;
  predicted(order, times({0, 1, 0, 2, 3, 1, 4}, 4));
  const Groups next = ahead(order, 7);
  for (GroupId group = 0; group < 5; ++group) {
    const auto first = std::find(next.begin(), next.end(), group);
    REQUIRE(order.distance(group) == static_cast<std::uint64_t>(first - next.begin()) + 1);
  }
}

TEST("the visitor ends the look ahead") {
  Order order;
  predicted(order, times({0, 1, 2}, 3));
  int visits = 0;
  order.ahead(100, [&](GroupId) { return ++visits < 2; });
  REQUIRE(visits == 2);
}

TEST("a seed is followed from its first use on") {
  Order order;
  order.seed({3, 1, 2});
  REQUIRE(ahead(order, 1).empty());
  order.used(3);
  REQUIRE(ahead(order, 3) == Groups({1, 2, 3}));
  REQUIRE(predicted(order, {1, 2, 3, 1, 2, 3}) == 6);
}

TEST("a group used several times in a pass is told apart by what came before it") {
  Order order;
  const Groups pass = {0, 1, 0, 2, 0, 3, 1, 0};
  predicted(order, times(pass, 2));
  REQUIRE(predicted(order, times(pass, 4)) == 4 * pass.size());
}

TEST("after an eviction the longest known context decides") {
  Order order;
  enum : GroupId { a, b, c, d };
  predicted(order, times({a, b, 10, a, c, 11, d, b, 12, d, c, 13}, 2));
  for (const GroupId group : {GroupId{99}, GroupId{a}, GroupId{b}}) order.used(group);
  REQUIRE(ahead(order, 1) == Groups{10});
  for (const GroupId group : {GroupId{99}, GroupId{d}, GroupId{b}}) order.used(group);
  REQUIRE(ahead(order, 1) == Groups{12});
}

TEST("models by turns are predicted within each, whoever's turn it is") {
  Order order;
  const Groups one = from_to(0, 10);
  const Groups two = from_to(10, 30);
  predicted(order, one);
  predicted(order, two);
  std::mt19937 random(1);
  for (int turn = 0; turn < 40; ++turn) {
    const Groups& pass = random() % 2 == 0 ? one : two;
    REQUIRE(predicted(order, pass) >= pass.size() - 1);
  }
}

TEST("strict turns are predicted across the change of model too") {
  Order order;
  Groups round = from_to(0, 5);
  const Groups other = from_to(5, 12);
  round.insert(round.end(), other.begin(), other.end());
  predicted(order, round);
  order.used(round[0]);
  REQUIRE(predicted(order, Groups(round.begin() + 1, round.end())) == round.size() - 1);
  REQUIRE(predicted(order, times(round, 3)) == 3 * round.size());
}

TEST("an eviction is forgotten as soon as the known order is met again") {
  Order order;
  predicted(order, times(from_to(0, 10), 2));
  REQUIRE(predicted(order, {0, 1, 2}) == 3);
  REQUIRE(predicted(order, {50, 51}) == 0);
  order.used(5);
  REQUIRE(ahead(order, 2) == Groups({6, 7}));
  REQUIRE(predicted(order, {6, 7, 8, 9}) == 4);
}

TEST("an early exit is mistaken for the rule twice, then once, then no more") {
  Order order;
  const Groups pass = from_to(0, 10);
  predicted(order, times(pass, 2));
  REQUIRE(predicted(order, {0, 1, 2, 3}) == 4);
  REQUIRE(predicted(order, pass) >= 8);
  REQUIRE(predicted(order, pass) >= 9);
  REQUIRE(predicted(order, times(pass, 3)) == 30);
}

TEST("an order without order costs predictions, not correctness") {
  Order order;
  std::mt19937 random(2);
  for (int i = 0; i < 5000; ++i) {
    order.used(random() % 20);
    const Groups next = ahead(order, 5);
    REQUIRE(next.size() == 5 || next.empty());
    for (const GroupId group : next) REQUIRE(group < 20);
    if (!next.empty()) REQUIRE(order.distance(next[0]) == 1);
  }
}

TEST("the history is trimmed without losing the place") {
  Order order;
  const std::size_t most_history = std::size_t{1} << 20;
  const Groups pass = from_to(0, 97);
  const std::size_t passes = most_history / pass.size() + 2;
  predicted(order, pass);
  order.used(0);
  REQUIRE(predicted(order, Groups(pass.begin() + 1, pass.end())) == pass.size() - 1);
  REQUIRE(predicted(order, times(pass, passes)) == passes * pass.size());
  for (const GroupId group : pass) REQUIRE(order.distance(group) == group + 1);
}

TEST("what comes as it likes is not trusted, and what follows it always is") {
  Order order;
  std::mt19937 random(3);
  const GroupId router = 0;
  const GroupId choices = 8;
  const auto chosen = [&] { return 1 + static_cast<GroupId>(random() % choices); };
  const auto follower = [&](GroupId choice) { return choice + choices; };
  unsigned trusted = 0;
  for (int turn = 0; turn < 600; ++turn) {
    order.used(router);
    const Groups next = ahead(order, 1);
    if (turn >= 100 && !next.empty()) trusted += order.trusts(next[0]) ? 1 : 0;
    const GroupId choice = chosen();
    order.used(choice);
    order.used(follower(choice));
  }
  REQUIRE(trusted < 50);
  REQUIRE(order.trusts(router));
  for (GroupId choice = 1; choice <= choices; ++choice) REQUIRE(order.trusts(follower(choice)));
}

TEST("what was never expected is trusted while nearly all has come as expected") {
  const GroupId groups = 40;
  Groups registered(groups);
  std::iota(registered.begin(), registered.end(), GroupId{0});
  Order order;
  order.seed(registered);
  REQUIRE(order.trusts(groups - 1));
  for (GroupId group = 0; group < groups / 2; ++group) order.used(group);
  REQUIRE(order.trusts(groups - 1));
  // Every other one is left out: half of what is expected does not come.
  for (GroupId group = groups / 2; group < groups - 2; group += 2) order.used(group);
  REQUIRE(!order.trusts(groups - 1));
  for (int pass = 0; pass < 2; ++pass) {
    for (GroupId group = 0; group < groups / 2; ++group) order.used(group);
  }
  REQUIRE(order.trusts(groups - 1));
}
