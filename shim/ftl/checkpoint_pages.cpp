// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/checkpoint_pages.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "ftl/block_crcs.hpp"
#include "ftl/l2p.hpp"

namespace ftl {
namespace {

constexpr unsigned kNarrowShift = 30;
constexpr uint32_t kNarrowMask = (uint32_t{1} << kNarrowShift) - 1;

CheckpointBlock page(const PagesOf &of, Section section, uint64_t first, uint64_t count) {
    CheckpointBlock block{};
    block.magic = kCheckpointMagic;
    block.version = layout::kVersion;
    block.uuid = of.uuid;
    block.generation = of.generation;
    block.first = first;
    block.section = static_cast<uint16_t>(section);
    block.count = static_cast<uint16_t>(count);
    return block;
}

bool on_media(uint64_t entry, uint64_t media_end) {
    return L2p::tag(entry) != L2p::Tag::slot && L2p::payload(entry) < media_end;
}

bool put_entries(CheckpointBlock &block, std::span<const uint64_t> entries, uint64_t media_end, bool wide) {
    bool any = false;
    for (size_t i = 0; i < entries.size(); ++i) {
        const bool there = on_media(entries[i], media_end);
        any |= there;
        const uint64_t entry = there ? entries[i] : L2p::kInvalid;
        if (wide) {
            std::memcpy(block.data + i * sizeof(entry), &entry, sizeof(entry));
        } else {
            const uint32_t narrow = static_cast<uint32_t>(entry >> L2p::kTagShift) << kNarrowShift |
                                    (static_cast<uint32_t>(entry) & kNarrowMask);
            std::memcpy(block.data + i * sizeof(narrow), &narrow, sizeof(narrow));
        }
    }
    return any;
}

bool put_crcs(CheckpointBlock &block, std::span<const uint64_t> entries, std::span<const uint16_t> crcs,
              uint64_t media_end) {
    bool any = false;
    for (size_t i = 0; i < entries.size(); ++i) {
        const bool there = on_media(entries[i], media_end) && L2p::tag(entries[i]) == L2p::Tag::media;
        any |= there;
        const uint16_t crc = there ? crcs[i] : uint16_t{0};
        std::memcpy(block.data + i * sizeof(crc), &crc, sizeof(crc));
    }
    return any;
}

uint64_t entry_in(const CheckpointBlock &block, size_t i, bool wide) {
    if (wide) {
        uint64_t entry;
        std::memcpy(&entry, block.data + i * sizeof(entry), sizeof(entry));
        return entry;
    }
    uint32_t narrow;
    std::memcpy(&narrow, block.data + i * sizeof(narrow), sizeof(narrow));
    return narrow == ~uint32_t{0} ? L2p::kInvalid
                                  : uint64_t{narrow >> kNarrowShift} << L2p::kTagShift | (narrow & kNarrowMask);
}

bool is_whole(const CheckpointBlock &block, const PagesOf &of, uint64_t address, uint32_t index, uint64_t block_count) {
    const auto section = static_cast<Section>(block.section);
    if (section != Section::crcs && section != (of.wide ? Section::wide : Section::narrow)) {
        return false;
    }
    const uint64_t each = entries_in(section);
    return block.magic == kCheckpointMagic && block.version == layout::kVersion && block.uuid == of.uuid &&
           block.generation == of.generation && block.address == address && block.index == index &&
           block.first < block_count && block.first % each == 0 &&
           block.count == std::min(each, block_count - block.first) && block.crc == layout::block_crc(&block);
}

}  // namespace

std::vector<CheckpointBlock> make_pages(const PagesOf &of, uint64_t first_lba, std::span<const uint64_t> entries,
                                        std::span<const uint16_t> crcs, uint64_t media_end) {
    std::vector<CheckpointBlock> pages;
    const Section section = of.wide ? Section::wide : Section::narrow;
    const uint32_t each = entries_in(section);
    pages.reserve(entries.size() / each + crcs.size() / entries_in(Section::crcs) + 2);
    for (size_t at = 0; at < entries.size(); at += each) {
        const auto part = entries.subspan(at, std::min<size_t>(each, entries.size() - at));
        pages.push_back(page(of, section, first_lba + at, part.size()));
        if (!put_entries(pages.back(), part, media_end, of.wide)) {
            pages.pop_back();
        }
    }
    for (size_t at = 0; at < crcs.size(); at += entries_in(Section::crcs)) {
        const auto part = crcs.subspan(at, std::min<size_t>(entries_in(Section::crcs), crcs.size() - at));
        pages.push_back(page(of, Section::crcs, first_lba + at, part.size()));
        if (!put_crcs(pages.back(), entries.subspan(at, part.size()), part, media_end)) {
            pages.pop_back();
        }
    }
    return pages;
}

void seal_pages(std::span<CheckpointBlock> blocks, uint64_t address, uint32_t index) noexcept {
    for (CheckpointBlock &block : blocks) {
        block.address = address++;
        block.index = index++;
        block.crc = layout::block_crc(&block);
    }
}

bool take_pages(RestoredL2p &l2p, const PagesOf &of, const PagesAt &at, std::span<const CheckpointBlock> blocks,
                std::span<bool> has_crcs) {
    const int shift = std::has_single_bit(at.zone_size) ? std::countr_zero(at.zone_size) : -1;
    for (size_t number = 0; number < blocks.size(); ++number) {
        const CheckpointBlock &block = blocks[number];
        if (!is_whole(block, of, at.address + number, static_cast<uint32_t>(at.index + number), l2p.block_count())) {
            return false;
        }
        const uint64_t first = block.first;
        if (static_cast<Section>(block.section) == Section::crcs) {
            const uint64_t which = first / entries_in(Section::crcs);
            if (which >= has_crcs.size()) {
                return false;
            }
            has_crcs[which] = true;
            for (size_t i = 0; i < block.count; ++i) {
                uint16_t crc;
                std::memcpy(&crc, block.data + i * sizeof(crc), sizeof(crc));
                if (crc != 0) {
                    l2p.put_crc(first + i, crc);
                }
            }
            continue;
        }
        for (size_t i = 0; i < block.count; ++i) {
            const uint64_t entry = entry_in(block, i, of.wide);
            if (entry == L2p::kInvalid || L2p::tag(entry) == L2p::Tag::slot) {
                continue;
            }
            const uint64_t payload = L2p::payload(entry);
            // A division would take ten times as long.
            const uint64_t zone = shift >= 0 ? payload >> shift : payload / at.zone_size;
            if (zone < at.zones.size() && at.zones[zone]) {
                l2p.put(first + i, entry);
            }
        }
    }
    return true;
}

}  // namespace ftl
