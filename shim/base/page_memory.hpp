// SPDX-License-Identifier: BSD-3-Clause
// Whole pages of memory from the kernel: zeroed, which cost nothing until they are touched, or mapped from a file.
// Memory that another process may map lies in a file, and is registered as such (base/shared_memory.hpp).
#pragma once

#include <sys/mman.h>

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "base/shared_memory.hpp"

namespace ftl {

enum class Pages : uint8_t {
    sparse,       // the kernel does not account for it: most of it may never be touched
    sparse_huge,  // like sparse, preferably with huge pages
    counted,      // the kernel accounts for it, and may refuse it now rather than when it is touched
};

class PageMemory {
public:
    PageMemory() = default;
    // Throws std::system_error.
    explicit PageMemory(uint64_t bytes, Pages pages = Pages::sparse)
        : PageMemory(bytes, MAP_PRIVATE | MAP_ANONYMOUS | (pages == Pages::counted ? 0 : MAP_NORESERVE), -1) {
        if (pages == Pages::sparse_huge) {
            ::madvise(data_, bytes_, MADV_HUGEPAGE);
        }
    }
    // Like the constructor, but throws std::bad_alloc.
    static PageMemory or_bad_alloc(uint64_t bytes, Pages pages) {
        try {
            return PageMemory(bytes, pages);
        } catch (const std::system_error &) {
            throw std::bad_alloc();
        }
    }
    // Maps the first `bytes` bytes of a file, which must be at least that large. Writes go to the file. Throws
    // std::system_error.
    static PageMemory of_file(int fd, uint64_t bytes) { return PageMemory(bytes, MAP_SHARED, fd); }
    // Pages that another process may map. Throws std::system_error.
    static PageMemory shared(uint64_t bytes, Sharing sharing) {
        constexpr uint64_t unit = uint64_t{2} << 20;  // SPDK registers memory for DMA in units of 2 MiB
        const uint64_t whole = (bytes + unit - 1) / unit * unit;
        const int fd = shared_memory::sealed_file("spdk-ftl", whole);
        try {
            PageMemory memory = of_file(fd, whole);
            memory.share(fd, sharing);
            ::close(fd);
            return memory;
        } catch (...) {
            ::close(fd);
            throw;
        }
    }
    static PageMemory shared_or_bad_alloc(uint64_t bytes, Sharing sharing) {
        try {
            return shared(bytes, sharing);
        } catch (const std::system_error &) {
            throw std::bad_alloc();
        }
    }
    ~PageMemory() {
        if (shared_) {
            shared_memory::remove(shared_);
        }
        if (data_ != nullptr) {
            ::munmap(data_, bytes_);
        }
    }
    PageMemory(PageMemory &&other) noexcept { swap(other); }
    PageMemory &operator=(PageMemory &&other) noexcept {
        swap(other);
        return *this;
    }
    PageMemory(const PageMemory &) = delete;
    PageMemory &operator=(const PageMemory &) = delete;

    // Another process may map this memory. fd: the file that it is mapped from, at offset 0. Once. Throws
    // std::system_error.
    void share(int fd, Sharing sharing) { shared_ = shared_memory::add(data_, bytes_, fd, 0, sharing); }

    [[nodiscard]] uint8_t *data() const noexcept { return data_; }
    [[nodiscard]] uint64_t bytes() const noexcept { return bytes_; }

private:
    PageMemory(uint64_t bytes, int flags, int fd) {
        void *data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
        if (data == MAP_FAILED) {
            throw std::system_error(errno, std::generic_category(), std::to_string(bytes) + " bytes of memory");
        }
        data_ = static_cast<uint8_t *>(data);
        bytes_ = bytes;
    }
    void swap(PageMemory &other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        std::swap(shared_, other.shared_);
    }

    uint8_t *data_ = nullptr;
    uint64_t bytes_ = 0;
    std::shared_ptr<SharedRange> shared_;
};

}  // namespace ftl
