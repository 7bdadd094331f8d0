// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/write_buffer.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace ftl {
namespace {

constexpr uint64_t kBufferMagic = layout::magic_of("FTLWRBUF");
constexpr uint32_t kBufferVersion = 1;

constexpr size_t round_up(size_t bytes) {
    return (bytes + kBlockSize - 1) / kBlockSize * kBlockSize;
}

class File {
public:
    // A new file: one that is there may still be mapped by a core that is being taken down.
    File(const std::string &path, size_t bytes) : fd_(make(path)) {
        if (fd_ < 0) {
            throw std::system_error(errno, std::generic_category(), "write buffer " + path);
        }
        // posix_fallocate: a full tmpfs must be an error now, not a SIGBUS later.
        const int error = posix_fallocate(fd_, 0, static_cast<off_t>(bytes));
        if (error != 0) {
            close(fd_);
            unlink(path.c_str());
            throw std::system_error(error, std::generic_category(), "write buffer " + path);
        }
    }
    File(const File &) = delete;
    File &operator=(const File &) = delete;
    ~File() { close(fd_); }
    [[nodiscard]] int fd() const noexcept { return fd_; }

private:
    static int make(const std::string &path) {
        unlink(path.c_str());
        return open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    }

    int fd_;
};

}  // namespace

BufferMapping::BufferMapping(uint32_t slot_count, uint32_t record_count, uint64_t block_count, const layout::Uuid &uuid,
                             const std::optional<std::string> &path) {
    BufferHeader header{};
    header.magic = kBufferMagic;
    header.version = kBufferVersion;
    header.uuid = uuid;
    header.slot_count = slot_count;
    header.record_count = record_count;
    header.slots_offset = kBlockSize;
    header.records_offset = header.slots_offset + round_up(sizeof(SlotRecord) * slot_count);
    header.data_offset = header.records_offset + round_up(sizeof(PendingRecord) * record_count);
    header.block_count = block_count;
    header.crc = crc32c(0, &header, sizeof(header));
    const size_t data_bytes = size_t{slot_count} * kBlockSize;
    if (path) {
        const size_t bytes = header.data_offset + data_bytes;
        memory_ = PageMemory::of_file(File(*path, bytes).fd(), bytes);
        data_ = memory_.data() + header.data_offset;
    } else {
        // Who may map a file may map all of it, so the data are apart. A file that has a path is not shared at all: it
        // can't be sealed.
        memory_ = PageMemory(header.data_offset, Pages::counted);
        data_memory_ = PageMemory::shared(data_bytes, Sharing::sends);
        data_ = data_memory_.data();
    }
    uint8_t *base = memory_.data();
    slots_ = reinterpret_cast<SlotRecord *>(base + header.slots_offset);
    records_ = reinterpret_cast<PendingRecord *>(base + header.records_offset);
    std::atomic_thread_fence(std::memory_order_release);
    std::memcpy(base, &header, sizeof(header));
}

}  // namespace ftl
