// SPDX-License-Identifier: BSD-3-Clause
// The wire format of zones: states, actions and reports, as they lie in memory. Zoned Namespace Command Set 1.1,
// section 3.4.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ftl::zns {

static_assert(std::endian::native == std::endian::little, "reports are written as they lie in memory");

enum class ZoneState : uint8_t {  // ZS of a zone descriptor
    empty = 0x1,
    implicitly_open = 0x2,
    explicitly_open = 0x3,
    closed = 0x4,
    read_only = 0xD,
    full = 0xE,
    offline = 0xF,
};

// --- Zone Management Send

enum class ZoneAction : uint8_t {  // ZSA
    close = 0x01,
    finish = 0x02,
    open = 0x03,
    reset = 0x04,
    offline = 0x05,
    set_descriptor_extension = 0x10,
};

inline constexpr uint32_t kCdw13SelectAll = 1U << 8;

// --- Zone Management Receive

enum class ReportAction : uint8_t {  // ZRA
    zones = 0x00,
    extended = 0x01,  // with descriptor extensions
};

inline constexpr uint32_t kCdw13FilterShift = 8;
inline constexpr uint32_t kCdw13Partial = 1U << 16;

// ZRASF: 0 reports every zone, n the zones in state kFilterStates[n - 1].
inline constexpr ZoneState kFilterStates[] = {
    ZoneState::empty, ZoneState::implicitly_open, ZoneState::explicitly_open, ZoneState::closed,
    ZoneState::full,  ZoneState::read_only,       ZoneState::offline};

inline constexpr uint8_t kZoneTypeSequential = 2;

// ZA of a zone descriptor.
inline constexpr uint8_t kFinishedByController = 1U << 0;  // ZFC
inline constexpr uint8_t kFinishRecommended = 1U << 1;     // FZR
inline constexpr uint8_t kResetRecommended = 1U << 2;      // RZR

inline constexpr uint64_t kNoWritePointer = ~uint64_t{0};  // undefined for full, read-only and offline zones

#pragma pack(push, 1)

struct ReportHeader {
    uint64_t zone_count;
    uint8_t reserved[56];
};
static_assert(sizeof(ReportHeader) == 64 && offsetof(ReportHeader, zone_count) == 0);

struct ZoneDescriptor {
    uint8_t type;
    uint8_t state;  // ZoneState in the high nibble
    uint8_t attributes;
    uint8_t attributes_information;
    uint8_t reserved0[4];
    uint64_t capacity;
    uint64_t start;
    uint64_t write_pointer;
    uint8_t reserved1[32];
};
static_assert(sizeof(ZoneDescriptor) == 64);
static_assert(offsetof(ZoneDescriptor, type) == 0 && offsetof(ZoneDescriptor, state) == 1);
static_assert(offsetof(ZoneDescriptor, attributes) == 2 && offsetof(ZoneDescriptor, attributes_information) == 3);
static_assert(offsetof(ZoneDescriptor, capacity) == 8 && offsetof(ZoneDescriptor, start) == 16);
static_assert(offsetof(ZoneDescriptor, write_pointer) == 24);

#pragma pack(pop)

static_assert(std::is_trivially_copyable_v<ReportHeader> && std::is_trivially_copyable_v<ZoneDescriptor>);

[[nodiscard]] constexpr uint8_t state_field(ZoneState state) noexcept {
    return static_cast<uint8_t>(static_cast<uint8_t>(state) << 4);
}
[[nodiscard]] constexpr uint8_t code(ZoneAction action) noexcept {
    return static_cast<uint8_t>(action);
}
[[nodiscard]] constexpr uint8_t code(ReportAction action) noexcept {
    return static_cast<uint8_t>(action);
}

}  // namespace ftl::zns
