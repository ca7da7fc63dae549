#include "device/card_codec.hpp"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>

#include "base/error.hpp"
#include "forms/packing_kernels.hpp"

namespace vramx {

namespace {

constexpr std::array<const char*, 3> type_names{"bf16", "fp16", "fp32"};
constexpr std::array<const char*, 7> words_names{"",     "bf16",    "fp16",  "fp16_7",
                                                 "fp32", "fp32_10", "fp32_7"};
constexpr unsigned blocks_each = 5;  // thread blocks a multiprocessor
/// What a thread block has to do at least.
constexpr Bytes bytes_a_block = 4 * KiB;

struct Seen {
  std::uint32_t exponents[256];
  std::uint32_t low;
};
struct Verdict {
  std::uint64_t differing;
  std::uint64_t digest;
};

std::size_t index_of(Words words) { return static_cast<std::size_t>(words); }

void check_room(const char* what, Bytes needed, Bytes given) {
  if (given >= needed) return;
  throw BadConfig(std::string("packing this block takes ") + text(needed) + " of " + what +
                  " memory, not " + text(given) + "; give it more");
}

}  // namespace

/// A run whose place in the packed form is not known yet, and what its tiles have.
struct CardCodec::Counted {
  Type type;
  Survey survey;
  Run run;
  Address second, exceptions;
  Escapes escapes;
};

CardCodec::Module::Module(std::shared_ptr<CudaContext> of) : context(std::move(of)) {
  const PackingKernels kernels = packing_kernels();
  if (kernels.ptx.empty()) {
    throw BadConfig("this build of vramx cannot pack weights: " + std::string(kernels.origin) +
                    ". Build it where nvidia-cuda-nvrtc-cu12 can be installed, or do not pack");
  }
  const Current here = context->current();
  const Driver& cuda = *context->driver;
  cuda.check(cuda.module_load(&module, kernels.ptx.data()), "cuModuleLoadData");
}

CardCodec::Module::~Module() {
  try {
    const Current here = context->current();
    context->driver->module_unload(module);
  } catch (const Error&) {
    // The context is gone, and the module with it.
  }
}

CardCodec::Kernel CardCodec::Module::kernel(const std::string& name) const {
  const Current here = context->current();
  const Driver& cuda = *context->driver;
  Kernel found;
  found.name = name;
  cuda.check(cuda.module_function(&found.function, module, name.c_str()),
             ("cuModuleGetFunction of " + name).c_str());
  return found;
}

CardCodec::CardCodec(std::shared_ptr<CudaContext> context) : loaded_(std::move(context)) {
  int multiprocessors = 0;
  cuda().check(cuda().device_attribute(&multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                                       loaded_.context->device),
               "cuDeviceGetAttribute");
  multiprocessors_ = static_cast<unsigned>(multiprocessors);
  for (std::size_t i = 0; i < type_names.size(); ++i) {
    survey_[i] = loaded_.kernel(std::string("vramx_survey_") + type_names[i]);
  }
  for (std::size_t i = 1; i < words_names.size(); ++i) {
    count_[i] = loaded_.kernel(std::string("vramx_count_") + words_names[i]);
    pack_[i] = loaded_.kernel(std::string("vramx_pack_") + words_names[i]);
    unpack_[i] = loaded_.kernel(std::string("vramx_unpack_") + words_names[i]);
  }
  place_ = loaded_.kernel("vramx_place");
  place_.threads = 1024;
  compare_ = loaded_.kernel("vramx_compare");
  digest_ = loaded_.kernel("vramx_digest");
  verify_ = loaded_.kernel("vramx_verify");
  verify_.threads = warp_lanes;
}

CardCodec::~CardCodec() = default;

Bytes CardCodec::scratch_bytes(Bytes block) { return round_up(block, 16) + sizeof(Verdict); }

/// In as many thread blocks as there is work for; in one where it cannot be divided.
template <class... Arguments>
void CardCodec::launch(const Kernel& kernel, Bytes work, CUstream stream,
                       Arguments... arguments) const {
  const Bytes most = Bytes{multiprocessors_} * blocks_each;
  const auto blocks =
      static_cast<unsigned>(std::clamp<Bytes>((work + bytes_a_block - 1) / bytes_a_block, 1, most));
  void* all[] = {&arguments...};
  const CUresult result =
      cuda().launch(kernel.function, blocks, 1, 1, kernel.threads, 1, 1, 0, stream, all, nullptr);
  if (result != CUDA_SUCCESS) cuda().check(result, ("cuLaunchKernel of " + kernel.name).c_str());
}

void CardCodec::zero(Address at, Bytes size, CUstream stream) const {
  if (size == 0) return;
  cuda().check(cuda().fill(at, 0, size / 4, stream), "cuMemsetD32Async");
}

void CardCodec::copy(Address to, Address from, Bytes size, CUstream stream) const {
  cuda().check(cuda().copy_on_card(to, from, size, stream), "cuMemcpyDtoDAsync");
}

const void* CardCodec::read(Address from, Bytes size, CUstream stream) {
  if (size > room_) {
    const auto& driver = loaded_.context->driver;
    seen_.reset();
    room_ = 0;
    try {
      seen_ = std::make_unique<HostCopy>(driver, size, true);
    } catch (const PinRefused&) {
      seen_ = std::make_unique<HostCopy>(driver, size, false);
    }
    room_ = size;
  }
  void* const to = Range{seen_->start(), size}.data();
  cuda().check(cuda().copy_to_host(to, from, size, stream), "cuMemcpyDtoHAsync");
  cuda().check(cuda().stream_wait(stream), "cuStreamSynchronize");
  return to;
}

std::vector<Survey> CardCodec::survey(Range block, const std::vector<TypedRange>& typed,
                                      Address scratch, CUstream stream) {
  const Bytes size = typed.size() * sizeof(Seen);
  zero(scratch, size, stream);
  for (std::size_t i = 0; i < typed.size(); ++i) {
    const auto type = *typed[i].type;
    const Address seen = scratch + i * sizeof(Seen);
    launch(survey_[static_cast<std::size_t>(type)], typed[i].size, stream,
           block.start + typed[i].offset,
           std::uint64_t{typed[i].size / shape_of(all_bits(type)).bytes},
           Address{seen + offsetof(Seen, exponents)}, Address{seen + offsetof(Seen, low)});
  }
  const auto* seen = static_cast<const Seen*>(read(scratch, size, stream));
  std::vector<Survey> surveys(typed.size());
  for (std::size_t i = 0; i < typed.size(); ++i) {
    std::copy_n(seen[i].exponents, surveys[i].exponents.size(), surveys[i].exponents.begin());
    surveys[i].low = seen[i].low;
  }
  return surveys;
}

std::vector<CardCodec::Counted> CardCodec::count(Range block, const std::vector<TypedRange>& typed,
                                                 const std::vector<Survey>& surveys,
                                                 Address scratch, CUstream stream) {
  std::vector<Counted> counted;
  const Bytes totals = typed.size() * sizeof(Escapes);
  Address free = scratch + round_up(totals, 16);
  for (std::size_t i = 0; i < typed.size(); ++i) {
    const Type type = *typed[i].type;
    const Run run = begin_run(type, surveys[i], typed[i].offset, typed[i].size, 0);
    const Bytes by_tile = round_up(run.tiles * sizeof(std::uint32_t), 16);
    counted.push_back({type, surveys[i], run, free, free + by_tile, {}});
    free += 2 * by_tile;
  }
  for (std::size_t i = 0; i < counted.size(); ++i) {
    const Counted& each = counted[i];
    launch(count_[index_of(each.run.words)], each.run.size, stream, block.start, each.run,
           each.second, each.exceptions);
    // For the totals alone: until they are known, so are no places of what comes after.
    Run alone = each.run;
    alone.places = 0;
    alone.bases -= each.run.places;
    launch(place_, 0, stream, alone, each.second, each.exceptions, free,
           Address{scratch + i * sizeof(Escapes)});
  }
  const auto* found = static_cast<const Escapes*>(read(scratch, totals, stream));
  for (std::size_t i = 0; i < counted.size(); ++i) counted[i].escapes = found[i];
  return counted;
}

void CardCodec::write(Range block, const std::vector<Run>& runs,
                      const std::vector<Counted>& counted, Address packed, Address scratch,
                      CUstream stream) const {
  auto next = counted.begin();
  for (const Run& run : runs) {
    if (run.words == Words::raw) {
      const Bytes whole = run.size / 16 * 16;
      zero(packed + run.first + whole, run.end - run.first - whole, stream);
      copy(packed + run.first, block.start + run.at, run.size, stream);
      continue;
    }
    next = std::find_if(next, counted.end(),
                        [&](const Counted& each) { return each.run.at == run.at; });
    zero(packed + run.places, run.end - run.places, stream);
    launch(place_, 0, stream, run, next->second, next->exceptions, packed, scratch);
    launch(pack_[index_of(run.words)], run.size, stream, block.start, run, packed);
  }
}

PackedBlock CardCodec::pack(Range block, const std::vector<TypedRange>& ranges, Range packed,
                            Range scratch, Stream on) {
  const std::vector<TypedRange> pieces = runs_of(block.size, ranges);
  check_room("scratch", scratch_bytes(block.size), scratch.size);
  std::vector<TypedRange> typed;
  std::copy_if(pieces.begin(), pieces.end(), std::back_inserter(typed),
               [](const TypedRange& piece) { return piece.type.has_value(); });
  if (block.size == 0) return {};
  const std::lock_guard lock(mutex_);
  const Current here = loaded_.context->current();
  const CUstream stream = stream_of(on);
  std::vector<Counted> counted;
  if (!typed.empty()) {
    const auto surveys = survey(block, typed, scratch.start, stream);
    counted = count(block, typed, surveys, scratch.start, stream);
  }
  PackedBlock made;
  auto next = counted.begin();
  for (const TypedRange& piece : pieces) {
    Run run = raw_run(piece.offset, piece.size, made.size);
    if (piece.type) {
      Run small = begin_run(*piece.type, next->survey, piece.offset, piece.size, made.size);
      end_run(small, next->escapes);
      if (pays(small)) run = small;
      ++next;
    }
    add_run(made.runs, run);
    made.size = made.runs.back().end;
  }
  check_room("packed", made.size, packed.size);
  const Address verdict = scratch.start + round_up(block.size, 16);
  write(block, made.runs, counted, packed.start, verdict, stream);
  unpack(made.runs, packed.start, scratch.start, on);
  zero(verdict, sizeof(Verdict), stream);
  launch(compare_, block.size, stream, block.start, scratch.start, std::uint64_t{block.size},
         Address{verdict + offsetof(Verdict, differing)});
  launch(digest_, made.size, stream, packed.start, std::uint64_t{made.size},
         Address{verdict + offsetof(Verdict, digest)});
  const auto* found = static_cast<const Verdict*>(read(verdict, sizeof(Verdict), stream));
  if (found->differing != 0) {
    throw Corrupted("packed weights of " + text(block.size) +
                    " unpack to other bytes: " + std::to_string(found->differing) +
                    " pieces of 16 bytes differ. Pack them when nothing writes them");
  }
  made.digest = found->digest;
  return made;
}

void CardCodec::verify(const PackedBlock& form, Address packed, Told told, Stream on) const {
  const Current here = loaded_.context->current();
  const CUstream stream = stream_of(on);
  const Address sum = packed + form.size;
  zero(sum, sizeof(form.digest), stream);
  launch(digest_, form.size, stream, packed, std::uint64_t{form.size}, sum);
  launch(verify_, 0, stream, sum, form.digest, told.damaged, told.any);
}

void CardCodec::unpack(std::span<const Run> runs, Address packed, Address block, Stream on) const {
  const Current here = loaded_.context->current();
  const CUstream stream = stream_of(on);
  for (const Run& run : runs) {
    if (run.words == Words::raw) {
      copy(block + run.at, packed + run.first, run.size, stream);
    } else {
      launch(unpack_[index_of(run.words)], run.size, stream, packed, block, run);
    }
  }
}

}  // namespace vramx
