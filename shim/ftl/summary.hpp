// SPDX-License-Identifier: BSD-3-Clause
// The summary of a zone, as a load reads it: all of its blocks are checked at once.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "ftl/layout.hpp"

namespace ftl {

class Summary {
public:
    // No seq is greater. A core never writes one that is, and accepting one would use up the seqs that are left.
    static constexpr uint64_t kSeqMax = uint64_t{1} << 62;

    // The blocks of one summary, one after the other; std::nullopt if any of them is missing, damaged, or of another
    // zone. They must outlive it.
    static std::optional<Summary> of(std::span<const layout::SummaryBlock> blocks, const layout::Uuid &uuid,
                                     uint32_t band, uint32_t punit);

    // Row i is for offset i of the zone.
    [[nodiscard]] const layout::BlockEntry &row(size_t i) const noexcept {
        return blocks_[i / layout::kEntriesPerBlock].entries[i % layout::kEntriesPerBlock];
    }
    [[nodiscard]] size_t row_count() const noexcept { return row_count_; }
    [[nodiscard]] uint64_t band_seq() const noexcept { return blocks_.front().band_seq; }
    [[nodiscard]] uint64_t highest_seq() const noexcept { return highest_seq_; }
    // Offsets of headers of records: what they say is only there.
    [[nodiscard]] const std::vector<uint32_t> &record_headers() const noexcept { return record_headers_; }

private:
    explicit Summary(std::span<const layout::SummaryBlock> blocks) : blocks_(blocks) {}
    void read_rows();

    std::span<const layout::SummaryBlock> blocks_;
    size_t row_count_ = 0;
    uint64_t highest_seq_ = 0;
    std::vector<uint32_t> record_headers_;
};

}  // namespace ftl
