// SPDX-License-Identifier: BSD-3-Clause
// The namespaces that hosts may use on one queue, and what bars them from it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "reactor/block_device.hpp"

namespace ftl {

// Why a host may not use a namespace on this queue; status::ok: it may.
struct Bars {
    Status read = status::ok;   // of commands that only read
    Status write = status::ok;  // of all others
};

class NamespaceTable {
public:
    struct Entry {
        uint32_t nsid;
        std::shared_ptr<BlockDevice> device;
        uint32_t users = 0;  // slots that refer to it
        bool removed = false;
        Bars bars{};
    };
    using Entries = std::vector<std::unique_ptr<Entry>>;
    using Devices = std::map<uint32_t, std::shared_ptr<BlockDevice>>;
    using BarsByNsid = std::map<uint32_t, Bars>;

    static constexpr uint32_t kBlockBytesMax = 16 * 1024;

    // Throws std::invalid_argument for a device that a queue with such a limit can't serve.
    NamespaceTable(Devices devices, const BarsByNsid &bars, uint32_t max_io_bytes);

    // Null if there is no device. Throws std::invalid_argument like the constructor.
    [[nodiscard]] static std::unique_ptr<Entry> entry_of(uint32_t nsid, std::shared_ptr<BlockDevice> device, Bars bars,
                                                         uint32_t max_io_bytes);
    // Reactor thread. Puts the entry (null: none) in the place of the one with this nsid. Gives back every removed
    // entry that no slot refers to.
    void set(uint32_t nsid, std::unique_ptr<Entry> entry, Entries &unused);
    // Only the latter. False: slots refer to removed entries still.
    bool give_back(Entries &unused);

    [[nodiscard]] Entry *find(uint32_t nsid) noexcept;
    [[nodiscard]] Entry *next(uint32_t after_nsid) noexcept;
    // Makes a slot refer to an entry, or to none.
    static void refer(Entry *&slot_entry, Entry *entry) noexcept {
        if (slot_entry != nullptr) {
            --slot_entry->users;
        }
        slot_entry = entry;
        if (entry != nullptr) {
            ++entry->users;
        }
    }
    // No slot refers to any entry.
    void clear() noexcept {
        entries_.clear();
        removed_.clear();
    }

private:
    Entries entries_;  // sorted by nsid
    Entries removed_;  // some slots still refer to them
};

}  // namespace ftl
