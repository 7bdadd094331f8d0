// SPDX-License-Identifier: BSD-3-Clause
// Stores the bytes of emulated media: in anonymous memory, populated on first write, or in a sparse file. Ranges that
// were never written, or were released, read as zeroes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "base/iov_cursor.hpp"
#include "base/page_memory.hpp"
#include "reactor/block_device.hpp"

namespace ftl {

class MediaStore {
public:
    MediaStore() = default;
    // Throws std::system_error (its message names the path) or std::invalid_argument.
    static MediaStore in_memory(uint64_t bytes, bool huge_pages);
    // Opens or creates the file, and keeps its content. Locks the file: one drive per file.
    static MediaStore in_file(const std::string &path);
    // Makes the file at least that large. Throws std::system_error.
    void extend(const std::string &path, uint64_t bytes);

    MediaStore(MediaStore &&other) noexcept
        : kind_(other.kind_),
          created_(other.created_),
          memory_(std::move(other.memory_)),
          fd_(std::exchange(other.fd_, -1)) {}
    MediaStore &operator=(MediaStore &&) = delete;
    MediaStore(const MediaStore &) = delete;
    MediaStore &operator=(const MediaStore &) = delete;
    ~MediaStore();

    // No data existed before this store: it is in memory, or its file did not exist or was empty.
    [[nodiscard]] bool created() const noexcept { return created_; }

    // Offsets and lengths must lie within the store; the device has checked them. A null store reads zeroes.
    [[nodiscard]] Status read(uint64_t offset, IovCursor to, uint64_t bytes) noexcept;
    // `durable`: on return, the data is on the file's disk, not only in the page cache.
    [[nodiscard]] Status write(uint64_t offset, IovCursor from, uint64_t bytes, bool durable) noexcept;
    // The range reads as zeroes from now on. Frees its memory or disk space.
    [[nodiscard]] Status release(uint64_t offset, uint64_t bytes) noexcept;
    [[nodiscard]] Status sync() noexcept;

private:
    enum class Kind : uint8_t { none, memory, file };

    Kind kind_ = Kind::none;
    bool created_ = true;
    PageMemory memory_;
    int fd_ = -1;
};

// A small file mapped into memory. Its content survives a crash of the process.
class MappedFile {
public:
    // Throws std::system_error, or std::invalid_argument if the file has another size.
    MappedFile(const std::string &path, size_t bytes);

    // The file did not exist, was empty, or its creator died before it wrote the first 8 bytes.
    [[nodiscard]] bool created() const noexcept { return created_; }
    [[nodiscard]] uint8_t *data() noexcept { return memory_.data(); }
    [[nodiscard]] Status sync() noexcept;

private:
    PageMemory memory_;
    bool created_ = false;
};

}  // namespace ftl
