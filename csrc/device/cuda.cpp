#include "device/cuda.hpp"

#include <array>
#include <cstdio>

#include "base/error.hpp"

namespace vramx {

namespace {

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

CudaDevice::Card::~Card() {
  if (context == nullptr) return;
  for (const auto& events : spare) {
    for (CUevent event : events) driver->event_destroy(event);
  }
  if (apart) {
    driver->context_destroy(context);
  } else {
    driver->context_release(device);
  }
}

std::shared_ptr<CudaDevice::Card> CudaDevice::Card::another() const {
  auto made = std::make_shared<Card>();
  made->driver = driver;
  made->device = device;
  made->apart = true;
  driver->check(driver->context_create(&made->context, 0, device), "cuCtxCreate");
  // Nothing is computed there. On an H200 this halves what it takes of the card: 524 -> 264 MiB.
  const CUresult limited = driver->context_limit(CU_LIMIT_STACK_SIZE, 16);
  CUcontext popped = nullptr;
  driver->context_pop(&popped);
  driver->check(limited, "cuCtxSetLimit");
  return made;
}

CudaDevice::Lanes::Lanes(std::shared_ptr<Card> of, unsigned count) : card(std::move(of)) {
  const Driver& cuda = *card->driver;
  const Current here(cuda, card->context);
  for (Lane lane = 0; lane < count; ++lane) {
    CUstream stream = nullptr;
    const CUresult result = cuda.stream_create(&stream, CU_STREAM_NON_BLOCKING);
    if (result != CUDA_SUCCESS) {
      for (CUstream made : streams) cuda.stream_destroy(made);
      cuda.check(result, "cuStreamCreate");
    }
    streams.push_back(stream);
  }
}

CudaDevice::Lanes::~Lanes() {
  for (CUstream stream : streams) card->driver->stream_destroy(stream);
}

CudaDevice::Event::Event(std::shared_ptr<Card> of, bool with_time)
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
  const Current here(*card->driver, card->context);
  // Whoever waits for it sleeps: while blocks stream, the mover would spin on a core of its own.
  unsigned kind = CU_EVENT_BLOCKING_SYNC;
  if (!timed) kind |= CU_EVENT_DISABLE_TIMING;
  card->driver->check(card->driver->event_create(&event, kind), "cuEventCreate");
}

CudaDevice::Event::~Event() {
  const std::lock_guard lock(card->mutex);
  auto& spare = card->spare[timed];
  if (spare.size() < most_spare_events) {
    spare.push_back(event);
  } else {
    card->driver->event_destroy(event);
  }
}

CudaDevice::CudaDevice(const std::string& driver_path, int ordinal, Needs needs)
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
  int has = 0;
  cuda.check(cuda.device_attribute(&has, needs.attribute, card_->device), "cuDeviceGetAttribute");
  if (has == 0) throw NoDevice(std::string(name.data()) + " " + needs.lacking);
  CUuuid uuid{};
  cuda.check(cuda.device_uuid(&uuid, card_->device), "cuDeviceGetUuid");
  size_t capacity = 0;
  cuda.check(cuda.device_memory(&capacity, card_->device), "cuDeviceTotalMem");
  cuda.check(cuda.context_retain(&card_->context, card_->device), "cuDevicePrimaryCtxRetain");
  facts_ = Facts{.name = name.data(),
                 .kind = "",
                 .ordinal = ordinal,
                 .uuid = uuid_text(uuid),
                 .capacity = capacity,
                 .granule = 2 * MiB,
                 .unit = 2 * MiB,
                 .lanes = 2,
                 .reads_over_link = true,
                 .asynchronous = true};
  lanes_ = std::make_unique<Lanes>(card_, facts_.lanes);
}

CudaDevice::~CudaDevice() = default;

Bytes CudaDevice::free_bytes() const {
  const Current here = current();
  size_t free = 0;
  size_t total = 0;
  cuda().check(cuda().memory_info(&free, &total), "cuMemGetInfo");
  return free;
}

const CudaDevice::Event& CudaDevice::event_of(const Fence& fence) {
  return static_cast<const Event&>(*fence);
}

bool CudaDevice::is_over(const Fence& fence) { return !fence || event_of(fence).over; }

void CudaDevice::order_lane(CUstream lane, Fences after) const {
  for (const Fence& fence : after) {
    if (is_over(fence)) continue;
    cuda().check(cuda().stream_wait_event(lane, event_of(fence).event, 0), "cuStreamWaitEvent");
  }
}

void CudaDevice::record(const Event& event, CUstream lane) const {
  cuda().check(cuda().event_record(event.event, lane), "cuEventRecord");
}

void CudaDevice::order(Stream stream, const Fence& fence) {
  if (is_over(fence)) return;
  const Current here = current();
  order_lane(stream_of(stream), {&fence, 1});
}

Fence CudaDevice::mark(Stream stream) {
  const Current here = current();
  auto end = std::make_shared<Event>(card_);
  record(*end, stream_of(stream));
  return end;
}

Fence CudaDevice::clock(Stream stream) {
  const Current here = current();
  auto now = std::make_shared<Event>(card_, true);
  record(*now, stream_of(stream));
  return now;
}

Fence CudaDevice::lane_clock(Lane lane) {
  return clock(reinterpret_cast<Stream>(lanes_->at(lane)));  // NOLINT
}

double CudaDevice::seconds(const Fence& from, const Fence& to) const {
  const Current here = current();
  float milliseconds = 0;
  cuda().check(cuda().event_elapsed(&milliseconds, event_of(from).event, event_of(to).event),
               "cuEventElapsedTime");
  return milliseconds / 1e3;
}

bool CudaDevice::reached(const Fence& fence) const noexcept {
  if (is_over(fence)) return true;
  if (cuda().event_query(event_of(fence).event) != CUDA_SUCCESS) return false;
  event_of(fence).over = true;
  return true;
}

void CudaDevice::wait(const Fence& fence) {
  if (is_over(fence)) return;
  const Current here(cuda(), event_of(fence).card->context);
  cuda().check(cuda().event_wait(event_of(fence).event), "cuEventSynchronize");
  event_of(fence).over = true;
}

}  // namespace vramx
