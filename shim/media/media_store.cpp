// SPDX-License-Identifier: BSD-3-Clause
#include "media/media_store.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace ftl {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint32_t kVectorMax = 64;  // iovecs per system call
// For fewer bytes, clearing memory is cheaper than faulting it in again.
constexpr uint64_t kAdviseBytesMin = 16 * kPageBytes;
constexpr mode_t kFileMode = 0600;

[[noreturn]] void fail(const std::string &what) {
    throw std::system_error(errno, std::generic_category(), what);
}

// Up to kVectorMax pieces with at most `bytes` bytes in total.
struct Pieces {
    std::array<iovec, kVectorMax> iov;
    int count = 0;
    uint64_t bytes = 0;

    Pieces(IovCursor &cursor, uint64_t wanted) noexcept {
        while (count < static_cast<int>(kVectorMax) && bytes < wanted) {
            const iovec piece = cursor.piece(wanted - bytes);
            if (piece.iov_len == 0) {
                break;
            }
            iov[static_cast<size_t>(count++)] = piece;
            bytes += piece.iov_len;
        }
    }
    // Removes the transferred bytes.
    void consume(uint64_t done) noexcept {
        bytes -= done;
        int first = 0;
        while (first < count && done >= iov[static_cast<size_t>(first)].iov_len) {
            done -= iov[static_cast<size_t>(first++)].iov_len;
        }
        std::copy(iov.begin() + first, iov.begin() + count, iov.begin());
        count -= first;
        if (count > 0) {
            iov[0].iov_base = static_cast<uint8_t *>(iov[0].iov_base) + done;
            iov[0].iov_len -= done;
        }
    }
};

Status write_status(int error) noexcept {
    return error == ENOSPC || error == EDQUOT || error == EFBIG ? status::capacity_exceeded : status::write_fault;
}

}  // namespace

MediaStore MediaStore::in_memory(uint64_t bytes, bool huge_pages) {
    MediaStore store;
    store.kind_ = Kind::memory;
    store.memory_ = PageMemory(bytes, huge_pages ? Pages::sparse_huge : Pages::sparse);
    return store;
}

MediaStore MediaStore::in_file(const std::string &path) {
    MediaStore store;
    store.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kFileMode);
    if (store.fd_ < 0) {
        fail(path);
    }
    store.kind_ = Kind::file;
    struct stat found {};
    if (::fstat(store.fd_, &found) != 0) {
        fail(path);
    }
    store.created_ = found.st_size == 0;
    if (!S_ISREG(found.st_mode)) {
        throw std::invalid_argument(path + " is not a regular file: emulated media needs one");
    }
    if (::flock(store.fd_, LOCK_EX | LOCK_NB) != 0) {
        fail(path + " is in use by another emulated drive");
    }
    return store;
}

void MediaStore::extend(const std::string &path, uint64_t bytes) {
    struct stat found {};
    if (::fstat(fd_, &found) != 0) {
        fail(path);
    }
    if (static_cast<uint64_t>(found.st_size) < bytes && ::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) {
        fail(path);
    }
}

MediaStore::~MediaStore() {
    if (fd_ >= 0) {
        ::close(fd_);
    }
}

Status MediaStore::read(uint64_t offset, IovCursor to, uint64_t bytes) noexcept {
    if (kind_ == Kind::none) {
        to.write_zeroes(bytes);
        return status::ok;
    }
    if (kind_ == Kind::memory) {
        to.write(memory_.data() + offset, bytes);
        return status::ok;
    }
    while (bytes > 0) {
        Pieces pieces(to, bytes);
        bytes -= pieces.bytes;
        while (pieces.bytes > 0) {
            const ssize_t got = ::preadv(fd_, pieces.iov.data(), pieces.count, static_cast<off_t>(offset));
            if (got < 0 && errno == EINTR) {
                continue;
            }
            if (got <= 0) {  // 0: the file has been truncated
                return status::unrecovered_read;
            }
            offset += static_cast<uint64_t>(got);
            pieces.consume(static_cast<uint64_t>(got));
        }
    }
    return status::ok;
}

Status MediaStore::write(uint64_t offset, IovCursor from, uint64_t bytes, bool durable) noexcept {
    if (kind_ == Kind::none) {
        return status::ok;
    }
    if (kind_ == Kind::memory) {
        from.read(memory_.data() + offset, bytes);
        return status::ok;
    }
    const int flags = durable ? RWF_DSYNC : 0;
    while (bytes > 0) {
        Pieces pieces(from, bytes);
        bytes -= pieces.bytes;
        while (pieces.bytes > 0) {
            const ssize_t put = ::pwritev2(fd_, pieces.iov.data(), pieces.count, static_cast<off_t>(offset), flags);
            if (put < 0 && errno == EINTR) {
                continue;
            }
            if (put <= 0) {
                return write_status(put < 0 ? errno : ENOSPC);
            }
            offset += static_cast<uint64_t>(put);
            pieces.consume(static_cast<uint64_t>(put));
        }
    }
    return status::ok;
}

Status MediaStore::release(uint64_t offset, uint64_t bytes) noexcept {
    if (bytes == 0 || kind_ == Kind::none) {
        return status::ok;
    }
    if (kind_ == Kind::file) {
        const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        while (::fallocate(fd_, mode, static_cast<off_t>(offset), static_cast<off_t>(bytes)) != 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno != EOPNOTSUPP) {
                return write_status(errno);
            }
            // The file system has no holes, so write zeroes.
            static constexpr std::array<uint8_t, 64 * 1024> kZeroes{};
            while (bytes > 0) {
                const size_t piece = std::min<uint64_t>(bytes, kZeroes.size());
                const ssize_t put = ::pwrite(fd_, kZeroes.data(), piece, static_cast<off_t>(offset));
                if (put <= 0) {
                    if (put < 0 && errno == EINTR) {
                        continue;
                    }
                    return write_status(put < 0 ? errno : ENOSPC);
                }
                offset += static_cast<uint64_t>(put);
                bytes -= static_cast<uint64_t>(put);
            }
            break;
        }
        return status::ok;
    }
    const uint64_t first = (offset + kPageBytes - 1) & ~(kPageBytes - 1);
    const uint64_t last = (offset + bytes) & ~(kPageBytes - 1);
    if (last < first + kAdviseBytesMin || ::madvise(memory_.data() + first, last - first, MADV_DONTNEED) != 0) {
        std::memset(memory_.data() + offset, 0, bytes);
        return status::ok;
    }
    std::memset(memory_.data() + offset, 0, first - offset);
    std::memset(memory_.data() + last, 0, offset + bytes - last);
    return status::ok;
}

Status MediaStore::sync() noexcept {
    return kind_ == Kind::file && ::fdatasync(fd_) != 0 ? status::write_fault : status::ok;
}

MappedFile::MappedFile(const std::string &path, size_t bytes) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kFileMode);
    if (fd < 0) {
        fail(path);
    }
    struct stat found {};
    int error = ::fstat(fd, &found) == 0 ? 0 : errno;
    created_ = found.st_size == 0;
    if (error == 0 && created_) {
        // Allocate the space now: a full disk must not cause a SIGBUS when the table is written.
        error = ::posix_fallocate(fd, 0, static_cast<off_t>(bytes));
    }
    if (error == 0 && !created_ && static_cast<uint64_t>(found.st_size) != bytes) {
        ::close(fd);
        throw std::invalid_argument(path + " belongs to a drive of another geometry: " + std::to_string(found.st_size) +
                                    " bytes, " + std::to_string(bytes) + " expected. Remove both files to start again");
    }
    if (error == 0) {
        try {
            memory_ = PageMemory::of_file(fd, bytes);
        } catch (const std::system_error &refused) {
            error = refused.code().value();
        }
    }
    ::close(fd);
    if (error != 0) {
        throw std::system_error(error, std::generic_category(), path);
    }
    created_ =
        created_ || std::all_of(data(), data() + std::min<size_t>(bytes, 8), [](uint8_t byte) { return byte == 0; });
}

Status MappedFile::sync() noexcept {
    return ::msync(memory_.data(), memory_.bytes(), MS_SYNC) != 0 ? status::write_fault : status::ok;
}

}  // namespace ftl
