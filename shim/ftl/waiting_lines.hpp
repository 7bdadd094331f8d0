// SPDX-License-Identifier: BSD-3-Clause
// Writes that found no room, and all trims: one line for each Io::ordered_by (a queue of a host), strictly in order. So
// of overlapping writes and trims in one line, the last one submitted wins. Lines take turns, so a host that trims
// without end only delays itself. An issuer that finds no free line uses the line of those without one.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "ftl/core_state.hpp"
#include "reactor/block_device.hpp"
#include "reactor/io_list.hpp"

namespace ftl {

struct WaitingLine {
    IoList ios;
    const void *ordered_by = nullptr;
    // The write at the front waits for pages of the L2P, since so many had come or gone.
    bool paging = false;
    uint64_t paging_since = 0;
    // The trim at the front of the line.
    bool trimming = false;
    uint32_t record = kNoSlot;
    uint64_t cursor = 0;
    uint64_t record_lba = 0;  // first LBA of the record
};

class WaitingLines {
public:
    static constexpr uint32_t kLines = 64;

    WaitingLines() noexcept {
        for (uint32_t i = 0; i < kLines; ++i) {
            order_[i] = static_cast<uint16_t>(i);
        }
    }

    [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
    [[nodiscard]] uint32_t count() const noexcept { return count_; }
    // In the order of their turns.
    [[nodiscard]] WaitingLine &at(uint32_t turn) noexcept { return lines_[order_[(first_ + turn) % count_]]; }

    // There is an earlier Io that it must not overtake.
    [[nodiscard]] bool has(const Io &io) const noexcept {
        return count_ > 0 && (crowded_ || find(io.ordered_by) != nullptr);
    }

    void push(Io &io) noexcept {
        WaitingLine *line = find(io.ordered_by);
        if (line == nullptr && io.ordered_by != nullptr) {
            // An issuer that had to use the line of those without one keeps using it until it is empty.
            crowded_ = crowded_ || count_ >= kLines - 1;
            line = crowded_ ? find(nullptr) : nullptr;
        }
        if (line == nullptr) {
            line = &lines_[order_[count_++]];
            line->ordered_by = crowded_ ? nullptr : io.ordered_by;
        }
        line->ios.push(io);
    }

    // The line in which the Io would wait; null: none.
    [[nodiscard]] WaitingLine *line_of(const Io &io) noexcept {
        WaitingLine *line = find(io.ordered_by);
        return line == nullptr && crowded_ ? find(nullptr) : line;
    }

    // Gives the first turn to the next line. Empty lines are free again.
    void turn() noexcept {
        first_ = count_ > 0 ? (first_ + 1) % count_ : 0;
        for (uint32_t i = count_; i-- > 0;) {
            WaitingLine &line = lines_[order_[i]];
            if (!line.ios.empty()) {
                continue;
            }
            crowded_ = crowded_ && line.ordered_by != nullptr;
            std::swap(order_[i], order_[--count_]);
        }
        if (first_ >= count_) {
            first_ = 0;
        }
    }

private:
    [[nodiscard]] const WaitingLine *find(const void *ordered_by) const noexcept {
        for (uint32_t i = 0; i < count_; ++i) {
            if (lines_[order_[i]].ordered_by == ordered_by) {
                return &lines_[order_[i]];
            }
        }
        return nullptr;
    }
    [[nodiscard]] WaitingLine *find(const void *ordered_by) noexcept {
        return const_cast<WaitingLine *>(std::as_const(*this).find(ordered_by));
    }

    std::array<WaitingLine, kLines> lines_;
    std::array<uint16_t, kLines> order_;  // the first count_ lines are not empty
    uint32_t count_ = 0;
    uint32_t first_ = 0;
    bool crowded_ = false;  // some issuers use the line of those without one
};

}  // namespace ftl
