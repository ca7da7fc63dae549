#include "device/managed.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <limits>

#include "base/error.hpp"

namespace vramx {

namespace {

std::atomic<Bytes> limit{std::numeric_limits<Bytes>::max()};
std::atomic<Bytes> held{0};

void count(Bytes size) {
  const Bytes before = held.fetch_add(size);
  const Bytes allowed = limit.load();
  if (before + size > allowed) {
    held.fetch_sub(size);
    throw OutOfMemory("VRAMX_MANAGED_LIMIT is reached: " + text(before) + " of " + text(allowed) +
                          " managed memory are held and " + text(size) +
                          " more were asked for. Raise the limit or manage less",
                      {.asked = size, .budget = allowed, .resident = before});
  }
}

constexpr std::size_t most_spare_events = 256;

/// As NVML writes it: GPU-8-4-4-4-12 hexadecimal digits.
std::string uuid_text(const CUuuid& uuid) {
  std::string out = "GPU";
  for (std::size_t i = 0; i < sizeof(uuid.bytes); ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    std::array<char, 3> digits{};
    std::snprintf(digits.data(), digits.size(), "%02x", static_cast<unsigned char>(uuid.bytes[i]));
    out += digits.data();
  }
  return out;
}

}  // namespace

Bytes set_managed_limit(Bytes allowed) { return limit.exchange(allowed); }
Bytes managed_bytes() { return held.load(); }

/// What outlives the device object while a fence does: the context and the spare events.
struct ManagedDevice::Card {
  std::shared_ptr<const Driver> driver;
  CUdevice device = 0;
  CUcontext context = nullptr;
  std::mutex mutex;
  std::vector<CUevent> spare[2];  ///< without and with times

  ~Card() {
    if (context == nullptr) return;
    for (const auto& events : spare) {
      for (CUevent event : events) driver->event_destroy(event);
    }
    driver->context_release(device);
  }
};

struct ManagedDevice::Event final : Mark {
  explicit Event(std::shared_ptr<Card> of, bool with_time = false)
      : card(std::move(of)), timed(with_time) {
    {
      const std::lock_guard lock(card->mutex);
      auto& spare = card->spare[timed];
      if (!spare.empty()) {
        event = spare.back();
        spare.pop_back();
        return;
      }
    }
    card->driver->check(
        card->driver->event_create(&event, timed ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING),
        "cuEventCreate");
  }
  ~Event() override {
    const std::lock_guard lock(card->mutex);
    auto& spare = card->spare[timed];
    if (spare.size() < most_spare_events) {
      spare.push_back(event);
    } else {
      card->driver->event_destroy(event);
    }
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  std::shared_ptr<Card> card;
  bool timed;
  CUevent event = nullptr;
};

namespace {

template <class Event>
CUevent event_of(const Fence& fence) {
  return static_cast<const Event&>(*fence).event;
}

CUstream stream_of(Stream stream) { return reinterpret_cast<CUstream>(stream); }  // NOLINT

}  // namespace

ManagedDevice::ManagedDevice(const std::string& driver_path, int ordinal)
    : card_(std::make_shared<Card>()) {
  card_->driver = Driver::open(driver_path);
  const Driver& cuda = *card_->driver;
  int cards = 0;
  cuda.check(cuda.device_count(&cards), "cuDeviceGetCount");
  if (ordinal < 0 || ordinal >= cards) {
    throw NoDevice("there is no CUDA device " + std::to_string(ordinal) + ": the driver lists " +
                   std::to_string(cards) + ", numbered from 0");
  }
  cuda.check(cuda.device_get(&card_->device, ordinal), "cuDeviceGet");
  std::array<char, 128> name{};
  cuda.check(cuda.device_name(name.data(), name.size(), card_->device), "cuDeviceGetName");
  int concurrent = 0;
  cuda.check(cuda.device_attribute(&concurrent, CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS,
                                   card_->device),
             "cuDeviceGetAttribute");
  if (concurrent == 0) {
    throw NoDevice(std::string(name.data()) +
                   " has no concurrent managed access here (it is absent on Windows, WSL and "
                   "cards before Pascal), so memory cannot be oversubscribed");
  }
  CUuuid uuid{};
  cuda.check(cuda.device_uuid(&uuid, card_->device), "cuDeviceGetUuid");
  size_t capacity = 0;
  cuda.check(cuda.device_memory(&capacity, card_->device), "cuDeviceTotalMem");
  cuda.check(cuda.context_retain(&card_->context, card_->device), "cuDevicePrimaryCtxRetain");
  facts_ = Facts{.name = name.data(),
                 .kind = "managed",
                 .ordinal = ordinal,
                 .uuid = uuid_text(uuid),
                 .capacity = capacity,
                 .granule = 2 * MiB,
                 .lanes = 2,
                 .reads_over_link = true,
                 .asynchronous = true};
  const Current current(cuda, card_->context);
  for (Lane lane = 0; lane < facts_.lanes; ++lane) {
    CUstream stream = nullptr;
    const CUresult result = cuda.stream_create(&stream, CU_STREAM_NON_BLOCKING);
    if (result != CUDA_SUCCESS) {
      for (CUstream made : lanes_) cuda.stream_destroy(made);
      cuda.check(result, "cuStreamCreate");
    }
    lanes_.push_back(stream);
  }
}

ManagedDevice::~ManagedDevice() {
  for (CUstream lane : lanes_) card_->driver->stream_destroy(lane);
}

Bytes ManagedDevice::free_bytes() const {
  const Current current(*card_->driver, card_->context);
  size_t free = 0;
  size_t total = 0;
  card_->driver->check(card_->driver->memory_info(&free, &total), "cuMemGetInfo");
  return free;
}

void ManagedDevice::advise(Range range, CUmem_advise advice, CUdevice where) const {
  card_->driver->check(card_->driver->advise(range.start, range.size, advice, where),
                       "cuMemAdvise");
}

Range ManagedDevice::reserve(Bytes size, Use use) {
  if (size == 0 || size % facts_.granule != 0) {
    throw BadConfig("reserve takes a multiple of " + text(facts_.granule) + ", not " +
                    std::to_string(size) + " bytes");
  }
  const Driver& cuda = *card_->driver;
  const Current current(cuda, card_->context);
  count(size);
  CUdeviceptr start = 0;
  try {
    cuda.check(cuda.allocate_managed(&start, size, CU_MEM_ATTACH_GLOBAL), "cuMemAllocManaged");
    const Range range{start, size};
    if (range.start % facts_.granule != 0) {
      throw DeviceFailure("cuMemAllocManaged gave an address that is not 2 MiB-aligned");
    }
    advise(range, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_DEVICE_CPU);
    if (use == Use::scratch) {
      advise(range, CU_MEM_ADVISE_SET_ACCESSED_BY, card_->device);
      const std::lock_guard lock(mutex_);
      scratch_.push_back(range);
    }
    return range;
  } catch (...) {
    if (start != 0) cuda.free(start);
    held.fetch_sub(size);
    throw;
  }
}

void ManagedDevice::release(Range range) noexcept {
  try {
    const Current current(*card_->driver, card_->context);
    card_->driver->free(range.start);
  } catch (const Error&) {
    // The context is gone, and the memory with it.
  }
  held.fetch_sub(range.size);
  const std::lock_guard lock(mutex_);
  std::erase_if(scratch_, [&](const Range& each) { return each.start == range.start; });
}

void ManagedDevice::store(Address to, const void* from, Bytes size) {
  std::memcpy(Range{to, size}.data(), from, size);
}

void ManagedDevice::load(void* to, Address from, Bytes size) {
  std::memcpy(to, Range{from, size}.data(), size);
}

Fence ManagedDevice::bring(Range range, Arrive how, Lane lane, Fences after) {
  const Driver& cuda = *card_->driver;
  const Current current(cuda, card_->context);
  CUstream stream = lanes_.at(lane);
  auto arrival = std::make_shared<Event>(card_);
  for (const Fence& fence : after) {
    if (fence) {
      cuda.check(cuda.stream_wait_event(stream, event_of<Event>(fence), 0), "cuStreamWaitEvent");
    }
  }
  if (how == Arrive::duplicate) advise(range, CU_MEM_ADVISE_SET_READ_MOSTLY, card_->device);
  try {
    cuda.check(cuda.prefetch(range.start, range.size, card_->device, stream), "cuMemPrefetchAsync");
    cuda.check(cuda.event_record(arrival->event, stream), "cuEventRecord");
  } catch (...) {
    cuda.advise(range.start, range.size, CU_MEM_ADVISE_UNSET_READ_MOSTLY, card_->device);
    if (how != Arrive::duplicate) cuda.prefetch(range.start, range.size, CU_DEVICE_CPU, stream);
    throw;
  }
  return arrival;
}

Fence ManagedDevice::leave(Range range, Leave how, Lane lane, Fences after) {
  const Driver& cuda = *card_->driver;
  const Current current(cuda, card_->context);
  // Advice has no stream: it takes hold at once, so the last use must be over.
  for (const Fence& fence : after) wait(fence);
  if (how != Leave::drop) {
    const auto gone = std::make_shared<Event>(card_);
    CUstream stream = lanes_.at(lane);
    cuda.check(cuda.prefetch(range.start, range.size, CU_DEVICE_CPU, stream), "cuMemPrefetchAsync");
    try {
      cuda.check(cuda.event_record(gone->event, stream), "cuEventRecord");
      wait(gone);
    } catch (...) {
      cuda.prefetch(range.start, range.size, card_->device, stream);
      throw;
    }
  }
  advise(range, CU_MEM_ADVISE_UNSET_READ_MOSTLY, card_->device);
  return nullptr;
}

void ManagedDevice::expose(Range range) {
  const Driver& cuda = *card_->driver;
  const Current current(cuda, card_->context);
  // Pages that nobody touched yet are populated on the host first: the card's own first touch of
  // them would fault at a twentieth of the link.
  cuda.check(cuda.prefetch(range.start, range.size, CU_DEVICE_CPU, lanes_.front()),
             "cuMemPrefetchAsync");
  advise(range, CU_MEM_ADVISE_SET_ACCESSED_BY, card_->device);
}

void ManagedDevice::conceal(Range range) {
  {
    const std::lock_guard lock(mutex_);
    const bool for_good = std::any_of(scratch_.begin(), scratch_.end(),
                                      [&](const Range& each) { return each.contains(range); });
    if (for_good) return;
  }
  const Current current(*card_->driver, card_->context);
  advise(range, CU_MEM_ADVISE_UNSET_ACCESSED_BY, card_->device);
}

void ManagedDevice::use_over_link(Stream /*stream*/, Range /*range*/) {}

void ManagedDevice::order(Stream stream, const Fence& fence) {
  if (!fence) return;
  const Current current(*card_->driver, card_->context);
  card_->driver->check(
      card_->driver->stream_wait_event(stream_of(stream), event_of<Event>(fence), 0),
      "cuStreamWaitEvent");
}

Fence ManagedDevice::mark(Stream stream) { return record(stream, false); }

Fence ManagedDevice::clock(Stream stream) { return record(stream, true); }

Fence ManagedDevice::record(Stream stream, bool timed) {
  const Current current(*card_->driver, card_->context);
  auto end = std::make_shared<Event>(card_, timed);
  card_->driver->check(card_->driver->event_record(end->event, stream_of(stream)), "cuEventRecord");
  return end;
}

double ManagedDevice::seconds(const Fence& from, const Fence& to) const {
  const Current current(*card_->driver, card_->context);
  float milliseconds = 0;
  card_->driver->check(
      card_->driver->event_elapsed(&milliseconds, event_of<Event>(from), event_of<Event>(to)),
      "cuEventElapsedTime");
  return milliseconds / 1e3;
}

bool ManagedDevice::reached(const Fence& fence) const noexcept {
  return !fence || card_->driver->event_query(event_of<Event>(fence)) == CUDA_SUCCESS;
}

void ManagedDevice::wait(const Fence& fence) {
  if (!fence) return;
  const Current current(*card_->driver, card_->context);
  card_->driver->check(card_->driver->event_wait(event_of<Event>(fence)), "cuEventSynchronize");
}

// Managed memory is readable wherever it is.
void ManagedDevice::settle(Range /*range*/) noexcept {}

}  // namespace vramx
