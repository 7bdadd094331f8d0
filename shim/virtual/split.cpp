// SPDX-License-Identifier: BSD-3-Clause
#include "virtual/split.hpp"

#include <stdexcept>
#include <string>
#include <utility>

#include "virtual/plain.hpp"

namespace ftl {

Split::Split(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base, uint64_t offset, uint64_t block_count)
    : Forwarder(std::move(base)), registration_(std::move(reactor), *this) {
    if (block_count == 0 || offset >= info_.block_count || block_count > info_.block_count - offset) {
        throw std::invalid_argument(std::to_string(block_count) + " blocks from block " + std::to_string(offset) +
                                    ": the base device has " + std::to_string(info_.block_count));
    }
    make_plain(info_);
    info_.block_count = block_count;
    offset_ = offset;
}

}  // namespace ftl
