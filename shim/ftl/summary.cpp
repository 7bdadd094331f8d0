// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/summary.hpp"

#include <algorithm>

namespace ftl {

std::optional<Summary> Summary::of(std::span<const layout::SummaryBlock> blocks, const layout::Uuid &uuid,
                                   uint32_t band, uint32_t punit) {
    if (blocks.empty() || blocks.front().band_seq > kSeqMax) {
        return std::nullopt;
    }
    Summary summary(blocks);
    for (size_t i = 0; i < blocks.size(); ++i) {
        const layout::SummaryBlock &block = blocks[i];
        const bool last = i + 1 == blocks.size();
        if (block.magic != layout::kSummaryMagic || block.version != layout::kVersion || block.uuid != uuid ||
            block.band != band || block.punit != punit || block.band_seq != summary.band_seq() || block.index != i ||
            block.count > layout::kEntriesPerBlock || (!last && block.count != layout::kEntriesPerBlock) ||
            block.crc != layout::block_crc(&block)) {
            return std::nullopt;
        }
        summary.row_count_ += block.count;
    }
    summary.read_rows();
    if (summary.highest_seq_ > kSeqMax) {
        return std::nullopt;
    }
    return summary;
}

void Summary::read_rows() {
    for (size_t i = 0; i < row_count_; ++i) {
        const layout::BlockEntry &entry = row(i);
        highest_seq_ = std::max(highest_seq_, uint64_t{entry.seq});
        if (entry.flags == (layout::kHeaderFlag | static_cast<uint32_t>(layout::BatchKind::records))) {
            record_headers_.push_back(static_cast<uint32_t>(i));
        }
    }
}

}  // namespace ftl
