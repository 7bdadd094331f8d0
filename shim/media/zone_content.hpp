// SPDX-License-Identifier: BSD-3-Clause
// What zones of emulated media hold without being stored: it is made at each read.
#pragma once

#include <cstdint>

#include "base/iov_cursor.hpp"

namespace ftl {

class ZoneContent {
public:
    ZoneContent() = default;
    ZoneContent(const ZoneContent &) = delete;
    ZoneContent &operator=(const ZoneContent &) = delete;
    virtual ~ZoneContent() = default;

    // Blocks from the zone's start on that it makes; 0: none.
    [[nodiscard]] virtual uint64_t written(uint32_t zone) const noexcept = 0;
    // Writes these blocks, all of them below written(), to `to`. The same call always gives the same bytes.
    virtual void read(uint32_t zone, uint64_t offset, uint64_t block_count, IovCursor &to) noexcept = 0;
};

}  // namespace ftl
