// SPDX-License-Identifier: BSD-3-Clause
// Faults injected into emulated media: which I/Os they hit, after how many matches, how often, and with what effect.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "reactor/block_device.hpp"

namespace ftl {

struct Fault {
    uint32_t id = 0;
    std::optional<Op> op;  // nullopt: any op
    uint64_t lba = 0;
    uint64_t block_count = 0;  // 0: any LBA
    Status status = status::ok;
    bool do_not_retry = false;  // sets DNR in the answer, whatever dnr() returns for the status
    bool takes_effect = false;  // the I/O is executed, and only its answer is an error
    bool drops_cache = false;   // the volatile cache is lost, as in a power loss
    bool flip = false;          // a read returns one wrong bit, with any status
    uint64_t latency_ns = 0;
    uint64_t skip = 0;   // remaining matches to skip
    uint64_t times = 0;  // remaining matches to hit; ignored if for_ever
    bool for_ever = true;
};

inline constexpr size_t kFaultsMax = 1024;

class FaultTable {
public:
    uint32_t add(Fault fault) {
        if (faults_.size() >= kFaultsMax) {
            throw std::length_error("at most " + std::to_string(kFaultsMax) + " faults at once: clear some");
        }
        fault.id = ++last_id_;
        faults_.push_back(fault);
        return fault.id;
    }
    void clear(std::optional<uint32_t> id) {
        std::erase_if(faults_, [&](const Fault &fault) { return !id || fault.id == *id; });
    }
    [[nodiscard]] bool empty() const noexcept { return faults_.empty(); }

    struct Effect {
        Status status = status::ok;
        bool do_not_retry = false;
        bool takes_effect = false;
        bool drops_cache = false;
        uint64_t latency_ns = 0;
        bool flip = false;
    };
    // The I/O touches [lba, lba + block_count). block_count 0: all blocks.
    Effect hit(Op op, uint64_t lba, uint64_t block_count) noexcept {
        Effect effect;
        for (Fault &fault : faults_) {
            const bool touches =
                fault.block_count == 0 || block_count == 0 ||
                (lba < fault.lba ? fault.lba - lba < block_count : lba - fault.lba < fault.block_count);
            if ((fault.op && *fault.op != op) || !touches || (!fault.for_ever && fault.times == 0)) {
                continue;
            }
            if (fault.skip > 0) {
                --fault.skip;
                continue;
            }
            fault.times -= fault.for_ever ? 0 : 1;
            effect.latency_ns += fault.latency_ns;
            effect.flip |= fault.flip;
            if (effect.status == status::ok) {
                effect.status = fault.status;
                effect.do_not_retry = fault.do_not_retry;
                effect.takes_effect = fault.takes_effect;
                effect.drops_cache = fault.drops_cache;
            }
        }
        return effect;
    }

private:
    std::vector<Fault> faults_;
    uint32_t last_id_ = 0;
};

}  // namespace ftl
