// SPDX-License-Identifier: BSD-3-Clause
// Zeroed anonymous memory that costs nothing until it is touched.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>

namespace ftl {

class PageMemory {
public:
    PageMemory() = default;
    // Throws std::system_error. huge_pages is a hint.
    explicit PageMemory(uint64_t bytes, bool huge_pages = false) : bytes_(bytes) {
        void *data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (data == MAP_FAILED) {
            throw std::system_error(errno, std::generic_category(), std::to_string(bytes) + " bytes of memory");
        }
        data_ = static_cast<uint8_t *>(data);
        if (huge_pages) {
            ::madvise(data, bytes, MADV_HUGEPAGE);
        }
    }
    ~PageMemory() {
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

    [[nodiscard]] uint8_t *data() const noexcept { return data_; }

private:
    void swap(PageMemory &other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
    }

    uint8_t *data_ = nullptr;
    uint64_t bytes_ = 0;
};

}  // namespace ftl
