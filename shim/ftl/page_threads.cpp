// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/page_threads.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <mutex>
#include <system_error>

namespace ftl {
namespace {

int nameless(const std::string &folder) noexcept {
    const int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) {
        return fd;
    }
    // Not every file system has such files.
    std::string path = folder + "/spdk-ftl-l2p-XXXXXX";
    const int named = ::mkostemp(path.data(), O_CLOEXEC);
    if (named >= 0) {
        ::unlink(path.c_str());
    }
    return named;
}

}  // namespace

PageFile::PageFile(const std::string &folder, uint64_t bytes) : fd_(nameless(folder)) {
    int error = fd_ < 0 ? errno : 0;
    if (error == 0 && ::fallocate(fd_, 0, 0, static_cast<off_t>(bytes)) != 0) {
        error = errno;
        if (error == EOPNOTSUPP) {
            error = ::ftruncate(fd_, static_cast<off_t>(bytes)) != 0 ? errno : 0;
        }
    }
    if (error != 0) {
        if (fd_ >= 0) {
            ::close(fd_);
        }
        throw PageFileError(error, "a file of " + std::to_string(bytes) + " bytes", folder);
    }
}

PageFile::~PageFile() {
    ::close(fd_);
}

std::shared_ptr<PageThreads> PageThreads::shared() {
    static std::mutex lock;
    static std::weak_ptr<PageThreads> last;
    const std::lock_guard held(lock);
    std::shared_ptr<PageThreads> threads = last.lock();
    if (!threads) {
        threads = std::make_shared<PageThreads>();
        last = threads;
    }
    return threads;
}

PageThreads::PageThreads() {
    try {
        for (Worker &worker : workers_) {
            worker.thread = std::thread([this, &worker] { work(worker); });
        }
    } catch (const std::system_error &error) {
        end();
        throw PageFileError(error.code().value(), "no thread", "");
    }
}

PageThreads::~PageThreads() {
    end();
}

void PageThreads::end() noexcept {
    ends_.store(true, std::memory_order_relaxed);
    for (Worker &worker : workers_) {
        if (worker.thread.joinable()) {
            worker.there.release();
            worker.thread.join();
        }
    }
}

void PageThreads::submit(PageJob &job) noexcept {
    job.state.store(PageJob::waits, std::memory_order_relaxed);
    job.wake->jobs_out.fetch_add(1, std::memory_order_relaxed);
    Worker &worker = workers_[turn_.fetch_add(1, std::memory_order_relaxed) % kThreads];
    worker.jobs.push(job);
    worker.there.release();
}

void PageThreads::work(Worker &worker) noexcept {
    while (!ends_.load(std::memory_order_relaxed)) {
        worker.there.acquire();
        PageJob *next = nullptr;
        for (PageJob *job = worker.jobs.take(); job != nullptr; job = next) {
            next = job->link;
            PageWake &wake = *job->wake;
            const bool whole = transfer(job->fd, job->offset, job->memory, job->bytes, job->writes);
            job->state.store(whole ? PageJob::done : PageJob::failed, std::memory_order_release);
            job->state.notify_all();
            // The job belongs to its owner again, and he waits for jobs_out before he ends.
            if (wake.call != nullptr) {
                wake.call(wake.context);
            }
            wake.jobs_out.fetch_sub(1, std::memory_order_release);
        }
    }
}

bool PageThreads::transfer(int fd, uint64_t offset, uint8_t *memory, uint32_t bytes, bool writes) noexcept {
    if (fails_.load(std::memory_order_relaxed)) {
        return false;
    }
    for (uint32_t at = 0; at < bytes;) {
        const auto place = static_cast<off_t>(offset + at);
        const ssize_t count =
            writes ? ::pwrite(fd, memory + at, bytes - at, place) : ::pread(fd, memory + at, bytes - at, place);
        if (count > 0) {
            at += static_cast<uint32_t>(count);
        } else if (count == 0 || errno != EINTR) {
            return false;
        }
    }
    return true;
}

}  // namespace ftl
