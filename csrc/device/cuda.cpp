#include "device/cuda.hpp"

#include <array>
#include <cstdio>
#include <utility>

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

CudaContext::~CudaContext() {
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

std::shared_ptr<CudaContext> CudaContext::another() const {
  auto made = std::make_shared<CudaContext>();
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

CudaLanes::CudaLanes(std::shared_ptr<CudaContext> of, unsigned count, bool urgent)
    : context(std::move(of)) {
  const Driver& cuda = *context->driver;
  const Current here = context->current();
  int least = 0;
  int most = 0;
  if (urgent) {
    cuda.check(cuda.stream_priorities(&least, &most), "cuCtxGetStreamPriorityRange");
  }
  for (Lane lane = 0; lane < count; ++lane) {
    CUstream stream = nullptr;
    const CUresult result = urgent ? cuda.stream_create_prior(&stream, CU_STREAM_NON_BLOCKING, most)
                                   : cuda.stream_create(&stream, CU_STREAM_NON_BLOCKING);
    if (result != CUDA_SUCCESS) {
      for (CUstream made : streams) cuda.stream_destroy(made);
      cuda.check(result, "cuStreamCreate");
    }
    streams.push_back(stream);
  }
}

CudaLanes::~CudaLanes() {
  for (CUstream stream : streams) context->driver->stream_destroy(stream);
}

CudaEvent::CudaEvent(std::shared_ptr<CudaContext> of, bool with_time)
    : context(std::move(of)), timed(with_time) {
  {
    const std::lock_guard lock(context->mutex);
    auto& spare = context->spare[timed];
    if (!spare.empty()) {
      event = spare.back();
      spare.pop_back();
      return;
    }
  }
  const Current here = context->current();
  // Whoever waits for it sleeps: while blocks stream, the mover would spin on a core of its own.
  unsigned kind = CU_EVENT_BLOCKING_SYNC;
  if (!timed) kind |= CU_EVENT_DISABLE_TIMING;
  const Driver& cuda = *context->driver;
  cuda.check(cuda.event_create(&event, kind), "cuEventCreate");
}

CudaEvent::~CudaEvent() {
  const std::lock_guard lock(context->mutex);
  auto& spare = context->spare[timed];
  if (spare.size() < most_spare_events) {
    spare.push_back(event);
  } else {
    context->driver->event_destroy(event);
  }
}

namespace {

const CudaEvent& event_of(const Fence& fence) { return static_cast<const CudaEvent&>(*fence); }

/// Whether it is known to be reached, without asking the driver.
bool is_over(const Fence& fence) { return !fence || event_of(fence).over; }

std::shared_ptr<CudaContext> open(const std::string& driver_path, int ordinal) {
  auto context = std::make_shared<CudaContext>();
  context->driver = Driver::open(driver_path);
  const Driver& cuda = *context->driver;
  int cards = 0;
  cuda.check(cuda.device_count(&cards), "cuDeviceGetCount");
  if (ordinal < 0 || ordinal >= cards) {
    throw NoDevice("there is no CUDA device " + std::to_string(ordinal) + ": the driver lists " +
                   std::to_string(cards) + ", numbered from 0");
  }
  cuda.check(cuda.device_get(&context->device, ordinal), "cuDeviceGet");
  cuda.check(cuda.context_retain(&context->context, context->device), "cuDevicePrimaryCtxRetain");
  return context;
}

Facts facts_of(const CudaContext& context, int ordinal) {
  const Driver& cuda = *context.driver;
  std::array<char, 128> name{};
  cuda.check(cuda.device_name(name.data(), name.size(), context.device), "cuDeviceGetName");
  CUuuid uuid{};
  cuda.check(cuda.device_uuid(&uuid, context.device), "cuDeviceGetUuid");
  size_t capacity = 0;
  cuda.check(cuda.device_memory(&capacity, context.device), "cuDeviceTotalMem");
  return {.name = name.data(),
          .kind = "",
          .ordinal = ordinal,
          .uuid = uuid_text(uuid),
          .capacity = capacity,
          .lanes = 2};
}

}  // namespace

CudaCard::CudaCard(const std::string& driver_path, int ordinal, bool deny_managed)
    : context_(open(driver_path, ordinal)),
      deny_managed_(deny_managed),
      facts_(facts_of(*context_, ordinal)),
      lanes_(context_, facts_.lanes) {}

Bytes CudaCard::free_bytes() const {
  const Current here = context_->current();
  size_t free = 0;
  size_t total = 0;
  cuda().check(cuda().memory_info(&free, &total), "cuMemGetInfo");
  return free;
}

int CudaCard::attribute(CUdevice_attribute which) const {
  if (deny_managed_ && which == CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS) return 0;
  int value = 0;
  cuda().check(cuda().device_attribute(&value, which, context_->device), "cuDeviceGetAttribute");
  return value;
}

void CudaCard::order_lane(CUstream lane, Fences after) const {
  for (const Fence& fence : after) {
    if (is_over(fence)) continue;
    cuda().check(cuda().stream_wait_event(lane, event_of(fence).event, 0), "cuStreamWaitEvent");
  }
}

void CudaCard::order(Stream stream, const Fence& fence) {
  if (is_over(fence)) return;
  const Current here = context_->current();
  order_lane(stream_of(stream), {&fence, 1});
}

Fence CudaCard::mark(Stream stream) {
  const Current here = context_->current();
  auto end = std::make_shared<CudaEvent>(context_);
  cuda().check(cuda().event_record(end->event, stream_of(stream)), "cuEventRecord");
  return end;
}

Fence CudaCard::clock(Stream stream) {
  const Current here = context_->current();
  auto now = std::make_shared<CudaEvent>(context_, true);
  cuda().check(cuda().event_record(now->event, stream_of(stream)), "cuEventRecord");
  return now;
}

double CudaCard::seconds(const Fence& from, const Fence& to) const {
  const Current here = context_->current();
  float milliseconds = 0;
  cuda().check(cuda().event_elapsed(&milliseconds, event_of(from).event, event_of(to).event),
               "cuEventElapsedTime");
  return milliseconds / 1e3;
}

bool CudaCard::reached(const Fence& fence) const noexcept {
  if (is_over(fence)) return true;
  try {
    const Current here = event_of(fence).context->current();
    const CUresult result = cuda().event_query(event_of(fence).event);
    if (result == CUDA_SUCCESS) event_of(fence).over = true;
    return result != CUDA_ERROR_NOT_READY;
  } catch (const Error&) {
    return true;
  }
}

void CudaCard::wait(const Fence& fence) {
  if (is_over(fence)) return;
  const Current here = event_of(fence).context->current();
  cuda().check(cuda().event_wait(event_of(fence).event), "cuEventSynchronize");
  event_of(fence).over = true;
}

CudaStore::CudaStore(std::shared_ptr<CudaCard> card, Needs needs) : card_(std::move(card)) {
  if (card_->attribute(needs.attribute) == 0) {
    throw NoDevice(name() + " " + needs.lacking +
                   (card_->attribute(needs.instead) != 0
                        ? std::string("; ") + needs.remedy
                        : ". It has neither that nor what the other kind of memory needs, so "
                          "nothing can be managed on it"));
  }
  traits_.reads_over_link = true;
}

Fence CudaStore::lane_clock(Lane lane) { return card_->clock(number_of(card_->lanes().at(lane))); }

void CudaStore::record(const CudaEvent& event, CUstream lane) const {
  cuda().check(cuda().event_record(event.event, lane), "cuEventRecord");
}

}  // namespace vramx
