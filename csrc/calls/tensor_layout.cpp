#include "calls/tensor_layout.hpp"

#include <algorithm>

namespace nb = nanobind;

namespace vramx::calls {

namespace {

using Count = volatile std::uint32_t;  // the framework counts by atomic additions

/// By words of the Python object, of the tensor it stands for and of the storage, and, by halves of
/// words, of the counter.
struct Layout {
  std::size_t tensor = 0, storage = 0, data = 0, counter = 0, count = 0;
};

std::optional<Layout> layout;

// What is read of objects of unknown kinds is within the least that they can be.
constexpr std::size_t object_words = 6, tensor_words = 20, storage_words = 6, counter_halves = 7;
/// What was allocated by turns lies less far apart.
constexpr Word heap = Word{1} << 40;

const Word* words(const void* object) { return static_cast<const Word*>(object); }
const Word* words(Word object) { return reinterpret_cast<const Word*>(object); }  // NOLINT
Count* counts(Word counter) { return reinterpret_cast<Count*>(counter); }         // NOLINT

Word cdata_of(nb::handle object) { return nb::cast<Word>(object.attr("_cdata")); }

std::uint32_t asked_version(nb::handle tensor) {
  return static_cast<std::uint32_t>(nb::cast<std::int64_t>(tensor.attr("_version")));
}

/// Null where the framework says that there is none.
nb::object asked_storage(nb::handle tensor) {
  try {
    return tensor.attr("untyped_storage")();
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_NotImplementedError) && !error.matches(PyExc_RuntimeError)) throw;
    return {};
  }
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

const Word* tensor_of(nb::handle object) { return words(words(object.ptr())[layout->tensor]); }

std::optional<std::size_t> find_count(nb::handle tensor, Count* all) {
  const auto change = [&] { tensor.attr("add_")(0); };
  // First comes what every object of a class has.
  return only(sizeof(Word) / sizeof(*all), counter_halves, [&](std::size_t i) {
    for (int changes = 0; changes < 3; ++changes) {
      if (all[i] != asked_version(tensor)) return false;
      change();
    }
    return all[i] == asked_version(tensor);
  });
}

}  // namespace

bool find_layout(nb::handle tensor, nb::handle alias, nb::handle other) {
  layout.reset();
  const std::size_t size = static_cast<std::size_t>(Py_TYPE(tensor.ptr())->tp_basicsize);
  const auto in_object =
      only(sizeof(PyObject) / sizeof(Word), std::min(object_words, size / sizeof(Word)),
           [&](std::size_t i) { return words(tensor.ptr())[i] == cdata_of(tensor); });
  if (!in_object) return false;
  const Word* const mine = words(cdata_of(tensor));
  const nb::object storage = asked_storage(tensor);
  if (!storage.is_valid()) return false;
  const auto of_storage =
      only(1, tensor_words, [&](std::size_t i) { return mine[i] == cdata_of(storage); });
  const Word data = nb::cast<Word>(storage.attr("data_ptr")());
  const auto of_data =
      only(1, storage_words, [&](std::size_t i) { return words(cdata_of(storage))[i] == data; });
  const auto of_counter = only(1, tensor_words, [&](std::size_t i) {
    const bool shared = mine[i] == words(cdata_of(alias))[i];
    const bool is_pointer = mine[i] % sizeof(Word) == 0 && (mine[i] ^ cdata_of(tensor)) < heap;
    return is_pointer && shared && mine[i] != words(cdata_of(other))[i];
  });
  if (!of_storage || !of_data || !of_counter) return false;
  const auto of_count = find_count(tensor, counts(mine[*of_counter]));
  if (!of_count) return false;
  layout = Layout{.tensor = *in_object,
                  .storage = *of_storage,
                  .data = *of_data,
                  .counter = *of_counter,
                  .count = *of_count};
  return true;
}

std::uint32_t version_of(nb::handle tensor) {
  if (layout) {
    const Word counter = tensor_of(tensor)[layout->counter];
    if (counter != 0) return counts(counter)[layout->count];
  }
  return asked_version(tensor);
}

Word storage_of(nb::handle tensor) {
  if (layout) return tensor_of(tensor)[layout->storage];
  const nb::object storage = asked_storage(tensor);
  return storage.is_valid() ? cdata_of(storage) : 0;
}

Address data_of(nb::handle tensor) {
  if (layout) {
    const Word storage = tensor_of(tensor)[layout->storage];
    return storage == 0 ? 0 : words(storage)[layout->data];
  }
  const nb::object storage = asked_storage(tensor);
  return storage.is_valid() ? nb::cast<Address>(storage.attr("data_ptr")()) : 0;
}

}  // namespace vramx::calls
