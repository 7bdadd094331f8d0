// SPDX-License-Identifier: BSD-3-Clause
// Threads that read and write pages of files for threads that must not wait. A process has a few, as long as somebody
// uses them.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <semaphore>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "reactor/mailbox.hpp"

namespace ftl {

// The file cannot be made, or has lost its content; or threads for it cannot be made.
class PageFileError : public std::runtime_error {
public:
    PageFileError(int error, const std::string &what, std::string folder)
        : std::runtime_error(what), error_(error), folder_(std::move(folder)) {}
    [[nodiscard]] int error() const noexcept { return error_; }
    [[nodiscard]] const std::string &folder() const noexcept { return folder_; }

private:
    int error_;
    std::string folder_;
};

// A file without a name, with room for so many bytes. Throws PageFileError.
class PageFile {
public:
    PageFile(const std::string &folder, uint64_t bytes);
    ~PageFile();
    PageFile(const PageFile &) = delete;
    PageFile &operator=(const PageFile &) = delete;
    [[nodiscard]] int fd() const noexcept { return fd_; }

private:
    int fd_ = -1;
};

struct PageWake {
    void (*call)(void *context) = nullptr;
    void *context = nullptr;
    std::atomic<uint32_t> jobs_out{0};  // jobs that a thread has not let go of
};

struct PageJob {
    enum State : uint32_t { waits, done, failed };

    int fd = -1;
    uint64_t offset = 0;
    uint8_t *memory = nullptr;
    uint32_t bytes = 0;
    bool writes = false;
    uint32_t page = 0;
    uint32_t frame = 0;
    PageWake *wake = nullptr;
    PageJob *link = nullptr;
    std::atomic<uint32_t> state{waits};
};

class PageThreads {
public:
    // Throws PageFileError.
    [[nodiscard]] static std::shared_ptr<PageThreads> shared();
    PageThreads();
    ~PageThreads();
    PageThreads(const PageThreads &) = delete;
    PageThreads &operator=(const PageThreads &) = delete;

    // Any thread. The job's state says when it is done; nobody else touches the job until then.
    void submit(PageJob &job) noexcept;
    // In the caller's thread. False: an error.
    [[nodiscard]] static bool transfer(int fd, uint64_t offset, uint8_t *memory, uint32_t bytes, bool writes) noexcept;
    static void fail_io(bool fails) noexcept { fails_.store(fails, std::memory_order_relaxed); }

private:
    static constexpr uint32_t kThreads = 4;

    struct Worker {
        Mailbox<PageJob, &PageJob::link> jobs;
        std::counting_semaphore<> there{0};
        std::thread thread;
    };
    void work(Worker &worker) noexcept;
    void end() noexcept;

    static inline std::atomic<bool> fails_{false};

    std::atomic<bool> ends_{false};
    std::atomic<uint32_t> turn_{0};
    std::array<Worker, kThreads> workers_;
};

}  // namespace ftl
