// SPDX-License-Identifier: BSD-3-Clause
// The transmission phase of the NBD protocol as it is in memory, in network byte order. Source: doc/proto.md of the NBD
// project (https://github.com/NetworkBlockDevice/nbd), sections "Transmission", "Structured reply flags", "Values".
#pragma once

#include <endian.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ftl::nbd {

inline constexpr uint32_t kRequestMagic = 0x25609513;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr uint32_t kStructuredReplyMagic = 0x668e33ef;

namespace command {
inline constexpr uint16_t read = 0;
inline constexpr uint16_t write = 1;
inline constexpr uint16_t disconnect = 2;
inline constexpr uint16_t flush = 3;
inline constexpr uint16_t trim = 4;
inline constexpr uint16_t write_zeroes = 6;
}  // namespace command

namespace command_flag {
inline constexpr uint16_t fua = 1 << 0;
inline constexpr uint16_t no_hole = 1 << 1;        // write_zeroes
inline constexpr uint16_t dont_fragment = 1 << 2;  // read, with structured replies
inline constexpr uint16_t fast_zero = 1 << 4;      // write_zeroes
}  // namespace command_flag

inline constexpr uint16_t kReplyFlagDone = 1 << 0;

namespace reply_type {
inline constexpr uint16_t offset_data = 1;
inline constexpr uint16_t error = (1 << 15) | 1;
}  // namespace reply_type

// The protocol's numbers, which are Linux's.
namespace error {
inline constexpr uint32_t none = 0;
inline constexpr uint32_t perm = 1;
inline constexpr uint32_t io = 5;
inline constexpr uint32_t inval = 22;
inline constexpr uint32_t nospc = 28;
inline constexpr uint32_t notsup = 95;
inline constexpr uint32_t shutdown = 108;
}  // namespace error

#pragma pack(push, 1)

// A number in network byte order.
struct Be16 {
    uint16_t raw;
    [[nodiscard]] uint16_t get() const noexcept { return be16toh(raw); }
    void set(uint16_t value) noexcept { raw = htobe16(value); }
};

struct Be32 {
    uint32_t raw;
    [[nodiscard]] uint32_t get() const noexcept { return be32toh(raw); }
    void set(uint32_t value) noexcept { raw = htobe32(value); }
};

struct Be64 {
    uint64_t raw;
    [[nodiscard]] uint64_t get() const noexcept { return be64toh(raw); }
    void set(uint64_t value) noexcept { raw = htobe64(value); }
};

struct Request {
    Be32 magic;
    Be16 flags;
    Be16 type;
    uint64_t cookie;  // the client's; echoed as it is
    Be64 offset;      // bytes
    Be32 length;      // bytes; a write's data follows
};

struct SimpleReply {
    Be32 magic;
    Be32 error;
    uint64_t cookie;
};

struct StructuredReply {
    Be32 magic;
    Be16 flags;
    Be16 type;
    uint64_t cookie;
    Be32 length;  // bytes that follow
};

struct DataChunk {
    StructuredReply head;
    Be64 offset;
};

struct ErrorChunk {
    StructuredReply head;
    Be32 error;
    Be16 message_length;
};

#pragma pack(pop)

static_assert(sizeof(Request) == 28 && std::is_trivially_copyable_v<Request>);
static_assert(offsetof(Request, flags) == 4 && offsetof(Request, type) == 6 && offsetof(Request, cookie) == 8);
static_assert(offsetof(Request, offset) == 16 && offsetof(Request, length) == 24);
static_assert(sizeof(SimpleReply) == 16 && std::is_trivially_copyable_v<SimpleReply>);
static_assert(offsetof(SimpleReply, error) == 4 && offsetof(SimpleReply, cookie) == 8);
static_assert(sizeof(StructuredReply) == 20 && std::is_trivially_copyable_v<StructuredReply>);
static_assert(offsetof(StructuredReply, flags) == 4 && offsetof(StructuredReply, type) == 6);
static_assert(offsetof(StructuredReply, cookie) == 8 && offsetof(StructuredReply, length) == 16);
static_assert(sizeof(DataChunk) == 28 && offsetof(DataChunk, offset) == 20);
static_assert(sizeof(ErrorChunk) == 26 && offsetof(ErrorChunk, error) == 20);
static_assert(offsetof(ErrorChunk, message_length) == 24);

}  // namespace ftl::nbd
