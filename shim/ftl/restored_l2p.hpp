// SPDX-License-Identifier: BSD-3-Clause
// The L2P of an FTL while a load restores it: for each LBA the newest version found so far, and its seq. Python reads
// the zones and says what counts (docs/restore.md, "The newest version").
//
// Memory: the L2P, 8 bytes for each LBA that has a version (the seqs, until drop_seqs()), and one Copy for each version
// that is on media more than once. With a running checkpoint (docs/checkpoint.md) only LBAs of bands that are read have
// seqs; without `many_seqs` their memory is taken in small pages. For one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/page_memory.hpp"
#include "ftl/block_crcs.hpp"
#include "ftl/l2p.hpp"
#include "ftl/layout.hpp"
#include "ftl/summary.hpp"

namespace ftl {

class RestoredL2p {
public:
    using BlockEntry = layout::BlockEntry;

    // A block with the seq that its LBA had already.
    struct Copy {
        uint64_t lba;
        uint64_t seq;
        uint64_t address;
        uint32_t crc;
        uint32_t reserved;
    };
    static_assert(sizeof(Copy) == 32);

    // The rows of one zone, taken together.
    struct Added {
        std::vector<uint32_t> doubtful;  // rows that were left out: to verify, and to merge() if they are whole
        uint64_t blocks = 0;             // rows with an LBA of the device, whether they are the newest version or not
        double seq_sum = 0;              // of these
    };

    // What the table holds that is in force.
    struct Counts {
        std::vector<uint64_t> blocks;   // by zone: LBAs with data there
        std::vector<uint64_t> records;  // LBAs with a record there
        uint64_t zone_size = 0;
        uint64_t known = 0;    // LBAs that are not never-written
        uint64_t content = 0;  // of these, LBAs that are not trimmed
        uint32_t chunk_blocks = 0;
        PageMemory chunk_content;  // by chunk: LBAs with content, as Trims keeps them
        uint64_t of_version = 0;   // of the table, when it was counted
    };

    // base: where addresses can be; determines the form of entries, as in L2p. Throws std::bad_alloc, PageFileError.
    RestoredL2p(uint64_t block_count, const ZoneAddresses &base, bool with_crcs, bool with_seqs, bool many_seqs = true,
                Paging paging = {});

    // From now on an entry without a seq counts as a version with this one: entries of a checkpoint are put so.
    void assume(uint64_t seq) noexcept { assumed_ = seq; }

    // Takes what a zone says about its blocks. Of rows that are not older than what is known, those of held LBAs are
    // left out as doubtful, with all_doubtful all of them. Rows and addresses have the same length.
    Added add(std::span<const BlockEntry> rows, std::span<const uint64_t> addresses, bool all_doubtful);
    // The same for a zone with a summary; the zone begins at `start`.
    Added add(const Summary &summary, uint64_t start, bool all_doubtful);
    // Takes rows that were verified.
    void merge(std::span<const BlockEntry> rows, std::span<const uint64_t> addresses);
    // LBAs for which something may be newer than media, or as new. Throws std::out_of_range.
    void hold(uint64_t lba, uint64_t count);
    // A record counts for the LBAs of its range that have nothing newer. Throws std::out_of_range.
    void apply_record(uint64_t lba, uint64_t count, uint64_t seq, uint64_t entry);
    // LBAs of the range with something older than seq: their entries are gone. Returns how many there are. Throws
    // std::out_of_range.
    uint64_t supersede(uint64_t lba, uint64_t count, uint64_t seq);
    [[nodiscard]] const std::vector<Copy> &copies() const noexcept { return copies_; }

    // As a checkpoint has them. Throws std::out_of_range.
    void put_range(uint64_t first, std::span<const uint32_t> narrow);
    void put_range(uint64_t first, std::span<const uint64_t> wide);
    void put_crcs(uint64_t first, std::span<const uint16_t> cut_crcs);

    // Below, lba must be one of the device.
    [[nodiscard]] uint64_t entry(uint64_t lba) const noexcept { return l2p_.get(lba); }
    [[nodiscard]] uint64_t peek(uint64_t lba) const noexcept { return l2p_.peek(lba); }
    [[nodiscard]] uint16_t peek_crc(uint64_t lba) const noexcept { return crcs_.peek(lba); }
    [[nodiscard]] uint16_t crc(uint64_t lba) const noexcept { return crcs_.get(lba); }
    // 0: no version is known, or the seqs were dropped.
    [[nodiscard]] uint64_t seq(uint64_t lba) const noexcept { return has_seqs() ? known_seq(lba) : 0; }
    // An entry that the L2P cannot have is left out, and count() fails from then on.
    void put(uint64_t lba, uint64_t entry) noexcept {
        ++version_;
        if (l2p_.holds(entry)) {
            l2p_.set(lba, entry);
        } else {
            strange_ = true;
        }
    }
    void put_crc(uint64_t lba, uint16_t crc) noexcept { crcs_.set(lba, crc); }
    void put_seq(uint64_t lba, uint64_t seq) noexcept {
        if (has_seqs()) {
            seqs()[lba] = seq;
        }
    }
    // chunk_blocks: as in Trims. Throws std::out_of_range if an entry is not an address in one of these zones,
    // std::bad_alloc.
    [[nodiscard]] Counts count(uint64_t zone_size, uint64_t zone_count, uint32_t chunk_blocks) const;
    [[nodiscard]] uint64_t block_count() const noexcept { return l2p_.block_count(); }
    [[nodiscard]] bool has_seqs() const noexcept { return seqs_.data() != nullptr; }
    [[nodiscard]] bool has_crcs() const noexcept { return crcs_.kept(); }
    [[nodiscard]] bool is_like(const L2p &l2p) const noexcept { return l2p_.is_like(l2p); }
    [[nodiscard]] const std::string &page_folder() const noexcept { return paging_.folder; }
    // Throws PageFileError if a page could not be read or written: the content is wrong.
    void check_pages() const;
    // Pages allow one user at a time, who may only read, too.
    [[nodiscard]] std::unique_lock<std::mutex> lock() const { return std::unique_lock(*alone_); }
    // It increases with every change.
    [[nodiscard]] uint64_t version() const noexcept { return version_; }

    void drop_seqs();
    // Gives the entries and the CRCs away, and has those instead, which must be of the same kind. crcs: may be null.
    void exchange(L2p &l2p, BlockCrcs *crcs) noexcept;
    // The same entries on a larger device, without seqs. Throws std::invalid_argument for a smaller one.
    [[nodiscard]] RestoredL2p grown(uint64_t block_count, const ZoneAddresses &base) const;

private:
    void check_range(uint64_t lba, uint64_t count, const char *what) const;
    void check_seqs(uint64_t lba, uint64_t count, const char *what) const;
    void consider(const BlockEntry &row, uint32_t number, uint64_t address, bool doubtful, Added &added);
    void take(const BlockEntry &row, uint64_t address);
    void prefetch(uint64_t lba) const noexcept;
    [[nodiscard]] uint64_t *seqs() const noexcept { return reinterpret_cast<uint64_t *>(seqs_.data()); }
    [[nodiscard]] uint64_t known_seq(uint64_t lba) const noexcept {
        const uint64_t known = seqs()[lba];
        return known == 0 && assumed_ != 0 && l2p_.get(lba) != L2p::kInvalid ? assumed_ : known;
    }
    [[nodiscard]] uint64_t *held() const noexcept { return reinterpret_cast<uint64_t *>(held_.data()); }
    [[nodiscard]] bool is_held(uint64_t lba) const noexcept {
        return held_.data() != nullptr && (held()[lba / 64] >> (lba % 64) & 1) != 0;
    }

    Paging paging_;
    L2p l2p_;
    BlockCrcs crcs_;
    PageMemory seqs_;
    PageMemory held_;  // one bit for each LBA
    uint64_t assumed_ = 0;
    bool strange_ = false;  // something was to be put that the L2P cannot have
    std::vector<Copy> copies_;
    uint64_t version_ = 0;
    std::unique_ptr<std::mutex> alone_ = std::make_unique<std::mutex>();
};

// The parts of ranges that no range before them has. Ranges are cut at `end`.
struct RangePart {
    uint64_t range;  // its number
    uint64_t first;
    uint64_t count;
};
std::vector<RangePart> uncovered_parts(std::span<const uint64_t> firsts, std::span<const uint64_t> counts,
                                       uint64_t end);

}  // namespace ftl
