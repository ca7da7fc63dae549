// A build for which there was no NVRTC.
#include "base/error.hpp"
#include "check.hpp"
#include "device/card_codec.hpp"
#include "forms/packing_kernels.hpp"
#include "loopback.h"

using namespace vramx;

TEST("a build without kernels says why, and loads none") {
  REQUIRE(packing_kernels().ptx.empty());
  REQUIRE(packing_kernels().origin == "built without NVRTC");
  const CudaCard card(LOOPBACK_PATH, 0);
  REQUIRE_THROWS(BadConfig, CardCodec(card.context()));
  REQUIRE(loopback_calls("cuModuleLoadData") == 0);
}
