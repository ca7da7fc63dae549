#include "bind/versions.hpp"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "bind/bind.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace vramx::bind {

namespace {

using Word = std::uintptr_t;
using Count = volatile std::uint32_t;  // the framework counts by atomic additions

/// Where a count is: by words of the Python object, of the tensor it stands for, and, by halves of
/// words, of the counter.
struct Place {
  std::size_t tensor = 0, counter = 0, count = 0;
};

std::optional<Place> place;

// What is read of objects of unknown kinds is within the least that they can be.
constexpr std::size_t object_words = 6, tensor_words = 20, counter_halves = 7;
/// What was allocated by turns lies less far apart.
constexpr Word heap = Word{1} << 40;

const Word* words(const void* object) { return static_cast<const Word*>(object); }
const Word* words(Word object) { return reinterpret_cast<const Word*>(object); }  // NOLINT
Count* counts(Word counter) { return reinterpret_cast<Count*>(counter); }         // NOLINT

std::uint32_t asked(nb::handle tensor) {
  return static_cast<std::uint32_t>(nb::cast<std::int64_t>(tensor.attr("_version")));
}

/// The one index below `end` for which `holds` holds.
template <class Holds>
std::optional<std::size_t> only(std::size_t begin, std::size_t end, Holds&& holds) {
  std::optional<std::size_t> found;
  for (std::size_t i = begin; i < end; ++i) {
    if (!holds(i)) continue;
    if (found) return std::nullopt;
    found = i;
  }
  return found;
}

/// Null where the tensor has none.
Count* count_of(nb::handle tensor) {
  const Word counter = words(words(tensor.ptr())[place->tensor])[place->counter];
  return counter == 0 ? nullptr : counts(counter) + place->count;
}

/// Looks for the place: in `tensor`, with `alias`, which has the same count, and `other`, which has
/// its own but is otherwise as `alias`. Returns whether it was found.
bool find(nb::handle tensor, nb::handle alias, nb::handle other) {
  place.reset();
  const auto cdata = [](nb::handle each) { return nb::cast<Word>(each.attr("_cdata")); };
  const auto change = [&] { tensor.attr("add_")(0); };
  const std::size_t size = static_cast<std::size_t>(Py_TYPE(tensor.ptr())->tp_basicsize);
  const auto in_object =
      only(sizeof(PyObject) / sizeof(Word), std::min(object_words, size / sizeof(Word)),
           [&](std::size_t i) { return words(tensor.ptr())[i] == cdata(tensor); });
  if (!in_object) return false;
  const Word* const mine = words(cdata(tensor));
  const auto in_tensor = only(1, tensor_words, [&](std::size_t i) {
    const bool shared = mine[i] == words(cdata(alias))[i];
    const bool is_pointer = mine[i] % sizeof(Word) == 0 && (mine[i] ^ cdata(tensor)) < heap;
    return is_pointer && shared && mine[i] != words(cdata(other))[i];
  });
  if (!in_tensor) return false;
  Count* const all = counts(mine[*in_tensor]);
  // First comes what every object of a class has.
  const auto in_counter = only(sizeof(Word) / sizeof(*all), counter_halves, [&](std::size_t i) {
    for (int changes = 0; changes < 3; ++changes) {
      if (all[i] != asked(tensor)) return false;
      change();
    }
    return all[i] == asked(tensor);
  });
  if (!in_counter) return false;
  place = Place{.tensor = *in_object, .counter = *in_tensor, .count = *in_counter};
  return true;
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  for (const nb::object& each : nb::inst_ptr<Versions>(self)->tensors()) Py_VISIT(each.ptr());
  return 0;
}

int clear(PyObject* self) {
  nb::inst_ptr<Versions>(self)->clear();
  return 0;
}

PyType_Slot slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(traverse)},  // NOLINT
                       {Py_tp_clear, reinterpret_cast<void*>(clear)},        // NOLINT
                       {0, nullptr}};

}  // namespace

Versions::Versions(std::vector<nb::object> tensors)
    : tensors_(std::move(tensors)),
      in_place_(place && std::ranges::all_of(tensors_,
                                             [](const nb::object& tensor) {
                                               const Count* const count = count_of(tensor);
                                               return count != nullptr && *count == asked(tensor);
                                             })),
      total_(total()) {}

bool Versions::changed() {
  const std::int64_t now = total();
  return std::exchange(total_, now) != now;
}

std::int64_t Versions::total() const {
  std::int64_t total = 0;
  for (const nb::object& tensor : tensors_) {
    const Count* const count = in_place_ ? count_of(tensor) : nullptr;
    total += count != nullptr ? *count : asked(tensor);
  }
  return total;
}

void versions(nb::module_& module) {
  nb::class_<Versions>(module, "Versions", nb::type_slots(slots),
                       "How often tensors were changed in place, as of the last look.")
      .def(nb::init<std::vector<nb::object>>(), "tensors"_a)
      .def("changed", &Versions::changed, "Whether some were since the last look; this is one.");
  module.def("find_versions", &find, "tensor"_a, "alias"_a, "other"_a,
             "Finds where tensors keep how often they were changed; returns whether it did.");
}

}  // namespace vramx::bind
