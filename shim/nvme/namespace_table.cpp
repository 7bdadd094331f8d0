// SPDX-License-Identifier: BSD-3-Clause
#include "nvme/namespace_table.hpp"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>

#include "nvme/wire.hpp"

namespace ftl {
namespace {

void check_device(uint32_t nsid, const BlockDevice &device, uint32_t max_io_bytes) {
    const uint32_t bytes = device.info().block_bytes;
    if (nsid == 0 || nsid >= wire::kNsidAll - 1) {
        throw std::invalid_argument("nsid " + std::to_string(nsid) + " is reserved");
    }
    if (bytes == 0 || bytes % 4 != 0 || bytes > NamespaceTable::kBlockBytesMax || bytes > max_io_bytes) {
        throw std::invalid_argument(
            "blocks of " + std::to_string(bytes) +
            " bytes, including metadata, are not supported: " + "use a multiple of 4, at most 16384 and max_io_bytes");
    }
}

}  // namespace

NamespaceTable::NamespaceTable(Devices devices, const BarsByNsid &bars, uint32_t max_io_bytes) {
    for (auto &[nsid, device] : devices) {
        if (!device) {
            throw std::invalid_argument("namespace " + std::to_string(nsid) + " has no device");
        }
        const auto barred = bars.find(nsid);
        entries_.push_back(
            entry_of(nsid, std::move(device), barred != bars.end() ? barred->second : Bars{}, max_io_bytes));
    }
}

std::unique_ptr<NamespaceTable::Entry> NamespaceTable::entry_of(uint32_t nsid, std::shared_ptr<BlockDevice> device,
                                                                Bars bars, uint32_t max_io_bytes) {
    if (!device) {
        return nullptr;
    }
    check_device(nsid, *device, max_io_bytes);
    auto entry = std::make_unique<Entry>(Entry{nsid, std::move(device)});
    entry->bars = bars;
    return entry;
}

void NamespaceTable::set(uint32_t nsid, std::unique_ptr<Entry> entry, Entries &unused) {
    const auto place =
        std::lower_bound(entries_.begin(), entries_.end(), nsid,
                         [](const std::unique_ptr<Entry> &each, uint32_t value) { return each->nsid < value; });
    const bool found = place != entries_.end() && (*place)->nsid == nsid;
    if (found) {
        (*place)->removed = true;
        removed_.push_back(std::move(*place));
    }
    if (entry && found) {
        *place = std::move(entry);
    } else if (entry) {
        entries_.insert(place, std::move(entry));
    } else if (found) {
        entries_.erase(place);
    }
    give_back(unused);
}

bool NamespaceTable::give_back(Entries &unused) {
    const auto idle = std::partition(removed_.begin(), removed_.end(),
                                     [](const std::unique_ptr<Entry> &each) { return each->users > 0; });
    std::move(idle, removed_.end(), std::back_inserter(unused));
    removed_.erase(idle, removed_.end());
    return removed_.empty();
}

NamespaceTable::Entry *NamespaceTable::find(uint32_t nsid) noexcept {
    const auto found =
        std::lower_bound(entries_.begin(), entries_.end(), nsid,
                         [](const std::unique_ptr<Entry> &each, uint32_t value) { return each->nsid < value; });
    return found != entries_.end() && (*found)->nsid == nsid ? found->get() : nullptr;
}

NamespaceTable::Entry *NamespaceTable::next(uint32_t after_nsid) noexcept {
    const auto found =
        std::upper_bound(entries_.begin(), entries_.end(), after_nsid,
                         [](uint32_t value, const std::unique_ptr<Entry> &each) { return value < each->nsid; });
    return found != entries_.end() ? found->get() : nullptr;
}

}  // namespace ftl
