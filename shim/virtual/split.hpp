// SPDX-License-Identifier: BSD-3-Clause
// Some of the blocks of a device: what SPDK's split bdev is. A flush flushes the whole device.
#pragma once

#include <memory>

#include "virtual/forwarder.hpp"

namespace ftl {

class Split final : public Forwarder {
public:
    // Throws std::invalid_argument if the base does not have these blocks.
    Split(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base, uint64_t offset, uint64_t block_count);

private:
    PollerRegistration registration_;
};

}  // namespace ftl
