// SPDX-License-Identifier: BSD-3-Clause
// The wire format: NVMe/TCP PDUs, submission and completion queue entries, as they lie in memory. NVMe/TCP Transport
// Specification 1.0, section 3; NVM Command Set 1.1. The formats for zones are in nvme/zns.hpp.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "reactor/block_device.hpp"
#include "reactor/error_class.hpp"

namespace ftl::wire {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian and so must the host be");

enum class PduType : uint8_t {
    ic_req = 0x00,
    ic_resp = 0x01,
    h2c_term_req = 0x02,
    c2h_term_req = 0x03,
    capsule_cmd = 0x04,
    capsule_resp = 0x05,
    h2c_data = 0x06,
    c2h_data = 0x07,
    r2t = 0x09,
};

constexpr bool is_term_req(PduType type) noexcept {
    return type == PduType::h2c_term_req || type == PduType::c2h_term_req;
}

namespace flag {
inline constexpr uint8_t header_digest = 0x01;
inline constexpr uint8_t data_digest = 0x02;
inline constexpr uint8_t last_pdu = 0x04;
inline constexpr uint8_t success = 0x08;  // C2HData only: no CapsuleResp follows
}  // namespace flag

// Fatal error status of a TermReq.
enum class Fes : uint16_t {
    invalid_header_field = 1,
    sequence_error = 2,
    header_digest_error = 3,
    out_of_range = 4,
    limit_exceeded = 5,
    unsupported_parameter = 6,
};

inline constexpr uint32_t kDigestBytes = 4;
inline constexpr uint32_t kTermReqDataMax = 128;  // from the header of the offending PDU

#pragma pack(push, 1)

struct CommonHeader {
    PduType type;
    uint8_t flags;
    uint8_t hlen;
    uint8_t pdo;
    uint32_t plen;  // length of the PDU: header, digests, padding, data
};
static_assert(sizeof(CommonHeader) == 8);

struct Sgl {
    uint64_t address;
    uint32_t length;
    uint8_t reserved[3];
    uint8_t type;
};
static_assert(sizeof(Sgl) == 16);

inline constexpr uint8_t kSglTransport = 0x5A;  // transport data block, transferred by R2T and C2HData
inline constexpr uint8_t kSglInCapsule = 0x01;  // data block; the address is an offset into the capsule
inline constexpr uint8_t kFlagsPsdtSgl = 0x40;  // SQE byte 1: PSDT = 01, not fused
inline constexpr uint8_t kFlagsPsdtMask = 0xC0;
inline constexpr uint8_t kFlagsFuseMask = 0x03;
inline constexpr uint8_t kFuseFirst = 0x01;
inline constexpr uint8_t kFuseSecond = 0x02;

struct Sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t cid;
    uint32_t nsid;  // fabrics commands: byte 4 is FCTYPE
    uint64_t cdw2_3;
    uint64_t mptr;
    Sgl sgl;
    uint64_t slba;  // cdw10-11
    uint32_t cdw12;
    uint32_t cdw13;
    uint32_t cdw14;
    uint32_t cdw15;
};
static_assert(sizeof(Sqe) == 64);
static_assert(offsetof(Sqe, nsid) == 4 && offsetof(Sqe, sgl) == 24 && offsetof(Sqe, slba) == 40);
static_assert(offsetof(Sqe, cdw12) == 48 && offsetof(Sqe, cdw15) == 60);

struct Cqe {
    uint64_t result;  // dw0-1
    uint16_t sqhd;
    uint16_t sqid;
    uint16_t cid;
    uint16_t status;  // phase 0, SC 8:1, SCT 11:9, CRD 13:12, M 14, DNR 15
};
static_assert(sizeof(Cqe) == 16);
static_assert(offsetof(Cqe, sqhd) == 8 && offsetof(Cqe, cid) == 12 && offsetof(Cqe, status) == 14);

struct DsmRange {
    uint32_t attributes;
    uint32_t block_count;
    uint64_t lba;
};
static_assert(sizeof(DsmRange) == 16);

// A source range of a Copy command, descriptor format 0.
struct CopyRange {
    uint64_t reserved0;
    uint64_t lba;
    uint16_t block_count;   // 0-based
    uint8_t reserved1[14];  // fields for protection information at the end
};
static_assert(sizeof(CopyRange) == 32 && offsetof(CopyRange, block_count) == 16);

struct CapsuleCmd {
    CommonHeader ch;
    Sqe sqe;
};
static_assert(sizeof(CapsuleCmd) == 72);

struct CapsuleResp {
    CommonHeader ch;
    Cqe cqe;
};
static_assert(sizeof(CapsuleResp) == 24);

struct H2cData {
    CommonHeader ch;
    uint16_t cccid;
    uint16_t ttag;
    uint32_t datao;
    uint32_t datal;
    uint32_t reserved;
};
static_assert(sizeof(H2cData) == 24 && offsetof(H2cData, datao) == 12 && offsetof(H2cData, datal) == 16);

struct C2hData {
    CommonHeader ch;
    uint16_t cccid;
    uint16_t reserved0;
    uint32_t datao;
    uint32_t datal;
    uint32_t reserved1;
};
static_assert(sizeof(C2hData) == 24 && offsetof(C2hData, datao) == 12 && offsetof(C2hData, datal) == 16);

struct R2t {
    CommonHeader ch;
    uint16_t cccid;
    uint16_t ttag;
    uint32_t r2to;
    uint32_t r2tl;
    uint32_t reserved;
};
static_assert(sizeof(R2t) == 24 && offsetof(R2t, r2to) == 12 && offsetof(R2t, r2tl) == 16);

struct TermReq {
    CommonHeader ch;
    Fes fes;
    uint32_t fei;  // offset of the faulty field within the PDU header, for FES 1 and 6
    uint8_t reserved[10];
};
static_assert(sizeof(TermReq) == 24 && offsetof(TermReq, fei) == 10);

#pragma pack(pop)

static_assert(std::is_trivially_copyable_v<CapsuleCmd> && std::is_trivially_copyable_v<TermReq>);

namespace opcode {
inline constexpr uint8_t flush = 0x00;
inline constexpr uint8_t write = 0x01;
inline constexpr uint8_t read = 0x02;
inline constexpr uint8_t write_uncorrectable = 0x04;
inline constexpr uint8_t compare = 0x05;
inline constexpr uint8_t write_zeroes = 0x08;
inline constexpr uint8_t dataset_management = 0x09;
inline constexpr uint8_t verify = 0x0C;
inline constexpr uint8_t copy = 0x19;
inline constexpr uint8_t reservation_register = 0x0D;
inline constexpr uint8_t reservation_report = 0x0E;
inline constexpr uint8_t reservation_acquire = 0x11;
inline constexpr uint8_t reservation_release = 0x15;
inline constexpr uint8_t zone_mgmt_send = 0x79;
inline constexpr uint8_t zone_mgmt_recv = 0x7A;
inline constexpr uint8_t zone_append = 0x7D;
inline constexpr uint8_t fabrics = 0x7F;
}  // namespace opcode

// Of the NVM command set's opcodes, those that a host that may only read may send (Base 2.0, "Command Behavior in the
// Presence of a Reservation"): Read, Compare, Verify and Zone Management Receive.
[[nodiscard]] constexpr bool only_reads(uint8_t opcode) noexcept {
    return opcode == opcode::read || opcode == opcode::compare || opcode == opcode::verify ||
           opcode == opcode::zone_mgmt_recv;
}

inline constexpr uint8_t kFabricsDisconnect = 0x08;
inline constexpr uint32_t kNsidAll = 0xFFFFFFFF;
inline constexpr uint32_t kCdw12NlbMask = 0xFFFF;  // 0-based
inline constexpr uint32_t kCdw12Fua = uint32_t{1} << 30;
inline constexpr uint32_t kCdw11Deallocate = 1U << 2;  // DSM, AD
inline constexpr uint32_t kDsmRangesMax = 256;
inline constexpr uint32_t kCdw12CopyFormatMask = 0xF00;
// Limits of a Copy command: MSRC + 1, MSSRL and MCL in the Identify data of a namespace.
inline constexpr uint32_t kCopyRangesMax = 128;
inline constexpr uint32_t kCopyBlocksMax = 4096;
inline constexpr uint32_t kReservationDataMax = 4096;

inline constexpr uint16_t kStatusDnr = 0x8000;

[[nodiscard]] constexpr uint16_t status_to_wire(Status status) noexcept {
    return static_cast<uint16_t>(((status & 0x7FF) << 1) | (dnr(status) ? kStatusDnr : 0));
}
[[nodiscard]] constexpr Status status_from_wire(uint16_t field) noexcept {
    return static_cast<Status>((field >> 1) & 0x7FF);
}
[[nodiscard]] constexpr bool dnr_from_wire(uint16_t field) noexcept {
    return (field & kStatusDnr) != 0;
}

}  // namespace ftl::wire
