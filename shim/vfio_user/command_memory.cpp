// SPDX-License-Identifier: BSD-3-Clause
#include "vfio_user/command_memory.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "base/iov_cursor.hpp"

namespace ftl {
namespace {

constexpr uint32_t kPrpPage = DmaMap::kPageBytes;
constexpr uint64_t kPrpOffsetMask = kPrpPage - 1;
constexpr uint32_t kPrpBytes = 8;

// Type and subtype of an SGL descriptor. The only subtype is an address.
constexpr uint8_t kSglBlock = 0x00;
constexpr uint8_t kSglSegment = 0x20;
constexpr uint8_t kSglLastSegment = 0x30;

}  // namespace

void copy_once(void *to, const void *from, size_t bytes) noexcept {
    std::memcpy(to, from, bytes);
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

Status CommandMemory::point(const wire::Sqe &sqe, uint32_t length, bool to_client, std::span<iovec> iov,
                            uint32_t &count) noexcept {
    Pieces pieces{iov, 0, length, to_client};
    const Status bad = (sqe.flags & wire::kFlagsPsdtMask) == 0 ? prps(sqe, pieces) : sgl(sqe.sgl, pieces);
    count = pieces.count;
    return bad;
}

Status CommandMemory::add(uint64_t address, uint32_t bytes, Pieces &pieces) noexcept {
    while (bytes > 0) {
        const iovec found = map_.find(address, bytes, pieces.to_client, data_hint_);
        if (found.iov_len == 0) {
            return status::data_transfer_error;
        }
        if (pieces.count == pieces.iov.size()) {
            return status::sgl_count;
        }
        pieces.count = add_piece(pieces.iov.data(), pieces.count, found.iov_base, found.iov_len);
        const auto taken = static_cast<uint32_t>(found.iov_len);
        address += taken;
        bytes -= taken;
        pieces.left -= taken;
    }
    return status::ok;
}

// --- PRPs ---------------------------------------------------------------------------------------------------------

Status CommandMemory::prps(const wire::Sqe &sqe, Pieces &pieces) noexcept {
    std::array<uint64_t, 2> prp;
    static_assert(sizeof prp == sizeof sqe.sgl);
    std::memcpy(prp.data(), &sqe.sgl, sizeof prp);
    if (prp[0] % 4 != 0) {
        return status::prp_offset;
    }
    const auto offset = static_cast<uint32_t>(prp[0] & kPrpOffsetMask);
    if (const Status bad = add(prp[0], std::min(pieces.left, kPrpPage - offset), pieces); bad != status::ok) {
        return bad;
    }
    if (pieces.left == 0) {
        return status::ok;
    }
    return pieces.left <= kPrpPage ? add_page(prp[1], pieces) : prp_list(prp[1], pieces);
}

Status CommandMemory::add_page(uint64_t address, Pieces &pieces) noexcept {
    if ((address & kPrpOffsetMask) != 0) {
        return status::prp_offset;
    }
    return add(address, std::min(pieces.left, kPrpPage), pieces);
}

// The last entry of a page of the list names the next page, if there are more pages of data than entries. Only the
// first page of a list may begin anywhere, so each further page has many entries of data, and the list ends.
Status CommandMemory::prp_list(uint64_t list, Pieces &pieces) noexcept {
    if (list % kPrpBytes != 0) {
        return status::prp_offset;
    }
    for (;;) {
        const uint32_t room = (kPrpPage - static_cast<uint32_t>(list & kPrpOffsetMask)) / kPrpBytes;
        const uint32_t needed = (pieces.left + kPrpPage - 1) / kPrpPage;
        const bool more = needed > room;
        const uint32_t entries = more ? room : needed;
        const iovec found = map_.find(list, uint64_t{entries} * kPrpBytes, false, list_hint_);
        if (found.iov_len != size_t{entries} * kPrpBytes) {
            return status::data_transfer_error;
        }
        const auto *entry = static_cast<const uint8_t *>(found.iov_base);
        for (uint32_t i = 0; i < entries; ++i, entry += kPrpBytes) {
            uint64_t address;
            copy_once(&address, entry, kPrpBytes);
            if (more && i + 1 == entries) {
                list = address;
                break;
            }
            if (const Status bad = add_page(address, pieces); bad != status::ok) {
                return bad;
            }
        }
        if (!more) {
            return status::ok;
        }
        if ((list & kPrpOffsetMask) != 0) {
            return status::prp_offset;
        }
    }
}

// --- SGL ----------------------------------------------------------------------------------------------------------

Status CommandMemory::sgl_block(const wire::Sgl &block, Pieces &pieces) noexcept {
    if (block.type != kSglBlock) {
        return status::sgl_type;
    }
    return block.length > pieces.left ? Status{status::sgl_data_length} : add(block.address, block.length, pieces);
}

Status CommandMemory::sgl(const wire::Sgl &first, Pieces &pieces) noexcept {
    wire::Sgl descriptor = first;
    uint32_t descriptors = 0;
    while (descriptor.type == kSglSegment || descriptor.type == kSglLastSegment) {
        const bool last = descriptor.type == kSglLastSegment;
        const uint32_t count = descriptor.length / sizeof(wire::Sgl);
        if (count == 0 || descriptor.length % sizeof(wire::Sgl) != 0 || descriptor.address % 8 != 0) {
            return status::sgl_segment;
        }
        descriptors += std::min(count, kSglDescriptorsMax + 1);
        if (descriptors > kSglDescriptorsMax) {
            return status::sgl_count;
        }
        uint64_t address = descriptor.address;
        for (uint32_t i = 0; i < count; ++i, address += sizeof(wire::Sgl)) {
            const iovec found = map_.find(address, sizeof(wire::Sgl), false, list_hint_);
            if (found.iov_len != sizeof(wire::Sgl)) {
                return status::data_transfer_error;
            }
            copy_once(&descriptor, found.iov_base, sizeof descriptor);
            const bool next_segment = !last && i + 1 == count;
            if (next_segment && (descriptor.type == kSglSegment || descriptor.type == kSglLastSegment)) {
                break;
            }
            if (next_segment) {
                return status::sgl_segment;
            }
            if (const Status bad = sgl_block(descriptor, pieces); bad != status::ok) {
                return bad;
            }
        }
        if (last) {
            return pieces.left == 0 ? status::ok : status::sgl_data_length;
        }
    }
    const Status bad = sgl_block(descriptor, pieces);
    return bad == status::ok && pieces.left != 0 ? Status{status::sgl_data_length} : bad;
}

}  // namespace ftl
