// SPDX-License-Identifier: BSD-3-Clause
// What the volatile cache of a conventional drive may lose: the log holds the content of each block at the last flush.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/iov_cursor.hpp"
#include "base/prng.hpp"
#include "media/media_store.hpp"

namespace ftl {

// A real drive writes its cache back eventually. If the log exceeds this many blocks, all blocks count as durable.
inline constexpr size_t kUndoBlocksMax = 64 * 1024;

class UndoLog {
public:
    // Call it before blocks are written. It allocates memory: this medium is made for crash tests, not for speed.
    void remember(MediaStore &store, uint64_t lba, uint64_t block_count, uint32_t block_bytes) {
        if (block_count > kUndoBlocksMax || before_.size() + block_count > kUndoBlocksMax) {
            before_.clear();
            return;
        }
        for (uint64_t block = lba; block < lba + block_count; ++block) {
            const auto [entry, fresh] = before_.try_emplace(block);
            if (!fresh) {
                continue;
            }
            entry->second.resize(block_bytes);
            if (at(entry->second, block_bytes,
                   [&](IovCursor to) { return store.read(block * block_bytes, to, block_bytes); }) != status::ok) {
                before_.erase(entry);
            }
        }
    }
    // These blocks are durable now (FUA).
    void forget(uint64_t lba, uint64_t block_count) {
        before_.erase(before_.lower_bound(lba), before_.lower_bound(lba + block_count));
    }
    void clear() noexcept { before_.clear(); }

    // Power loss: any subset of the blocks, chosen by `prng`, gets its old content back.
    void roll_back(MediaStore &store, Prng &prng, uint32_t block_bytes) {
        const uint64_t lost_of_4 = prng.below(5);  // from none to all
        for (auto &[block, content] : before_) {
            if (prng.below(4) < lost_of_4) {
                const uint64_t offset = block * block_bytes;
                (void)at(content, block_bytes,
                         [&](IovCursor from) { return store.write(offset, from, block_bytes, false); });
            }
        }
        before_.clear();
    }

private:
    template <typename Transfer>
    static Status at(std::vector<uint8_t> &content, uint32_t block_bytes, Transfer transfer) {
        const iovec memory{content.data(), block_bytes};
        return transfer(IovCursor(memory));
    }

    std::map<uint64_t, std::vector<uint8_t>> before_;
};

}  // namespace ftl
