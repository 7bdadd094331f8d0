// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bind/bindings.hpp"
#include "bind/fields.hpp"
#include "load/load_generator.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

constexpr auto kLoadCloseTimeout = std::chrono::seconds(30);
constexpr double kTimeLimitMaxS = 1e9;

LoadRun::Kind kind_of(const std::string &name) {
    if (name == "write") {
        return LoadRun::Kind::write;
    }
    if (name == "read") {
        return LoadRun::Kind::read;
    }
    if (name == "trim") {
        return LoadRun::Kind::trim;
    }
    if (name == "mixed") {
        return LoadRun::Kind::mixed;
    }
    throw std::invalid_argument("kind '" + name + "' must be 'write', 'read', 'trim' or 'mixed'");
}

LoadVerify verify_of(const std::string &name) {
    if (name == "exact") {
        return LoadVerify::exact;
    }
    if (name == "whole") {
        return LoadVerify::whole;
    }
    if (name == "none") {
        return LoadVerify::none;
    }
    throw std::invalid_argument("verify '" + name + "' must be 'exact', 'whole' or 'none'");
}

struct Latencies {
    uint64_t min, mean, p50, p90, p99, p999, p9999, max;
};

// Number of blocks with wrong content, by what was wrong.
struct Mismatches {
    uint64_t older, newer, wrong_lba, zeroes, garbage;
};

struct MismatchExample {
    const char *kind;
    uint64_t lba;
    Version expected_version;
    uint64_t found_lba;
    Version found_version;
};

// A LoadProgress for Python.
struct LoadReport : LoadProgress {
    Latencies latencies{};
    Mismatches mismatch{};
    std::vector<MismatchExample> mismatch_examples;

    explicit LoadReport(const LoadProgress &progress) : LoadProgress(progress) {
        const LatencyHistogram &histogram = progress.latency_ns;
        latencies = {histogram.min(),
                     histogram.mean(),
                     histogram.percentile(500),
                     histogram.percentile(900),
                     histogram.percentile(990),
                     histogram.percentile(999),
                     histogram.at_most(9999, 10000),
                     histogram.max()};
        const auto count = [&](Mismatch kind) { return progress.mismatches[static_cast<size_t>(kind)]; };
        mismatch = {count(Mismatch::older), count(Mismatch::newer), count(Mismatch::wrong_lba), count(Mismatch::zeroes),
                    count(Mismatch::garbage)};
        for (size_t i = 0; i < progress.example_count; ++i) {
            const Example &example = progress.examples[i];
            mismatch_examples.push_back(
                {mismatch_name(example.kind), example.lba, example.expected, example.found_lba, example.found});
        }
    }
};

// Python's handle. The reactor owns the generator until its last I/O is back.
class PyLoadGenerator {
public:
    PyLoadGenerator(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> device, const LoadConfig &config)
        : reactor_(std::move(reactor)),
          generator_(std::make_shared<LoadGenerator>(*reactor_, std::move(device), config)) {
        const nb::gil_scoped_release unlocked;
        reactor_->call([&] {
            generator_->set_id(reactor_->add(generator_));
            id_ = generator_->id();
        });
    }
    ~PyLoadGenerator() {
        if (generator_) {
            const nb::gil_scoped_release unlocked;
            reactor_->call([&] { generator_->leave(); });
            generator_.reset();
        }
    }
    PyLoadGenerator(const PyLoadGenerator &) = delete;
    PyLoadGenerator &operator=(const PyLoadGenerator &) = delete;

    [[nodiscard]] uint32_t id() const noexcept { return id_; }

    void start(const std::string &kind, const std::string &pattern, uint32_t io_blocks, uint64_t total_blocks,
               uint32_t queue_depth, double time_limit_s, uint32_t write_percent, bool sync) {
        if (pattern != "random" && pattern != "sequential") {
            throw std::invalid_argument("pattern '" + pattern + "' must be 'random' or 'sequential'");
        }
        if (!(time_limit_s >= 0.0 && time_limit_s <= kTimeLimitMaxS)) {
            throw std::invalid_argument("time_limit_s must be within 0..1e9");
        }
        LoadRun run;
        run.kind = kind_of(kind);
        run.random = pattern == "random";
        run.io_blocks = io_blocks;
        run.total_blocks = total_blocks;
        run.queue_depth = queue_depth;
        run.time_limit_ns = static_cast<uint64_t>(time_limit_s * 1e9);
        run.write_percent = write_percent;
        run.sync = sync;
        call([&] { generator_->start(run); });
    }

    void stop() {
        call([&] { generator_->stop(); });
    }

    LoadReport progress() {
        LoadProgress progress;
        call([&] { progress = generator_->progress(); });
        return LoadReport(progress);
    }

    nb::ndarray<nb::numpy, Version, nb::ndim<1>> versions() {
        auto copy = std::make_unique<std::vector<Version>>();
        call([&] { *copy = generator_->versions(); });
        std::vector<Version> *const data = copy.release();
        const nb::capsule owner(data, [](void *owned) noexcept { delete static_cast<std::vector<Version> *>(owned); });
        return {data->data(), {data->size()}, owner};
    }

    void close() {
        if (!generator_) {
            return;
        }
        const nb::gil_scoped_release unlocked;
        reactor_->call([&] { generator_->stop(); });
        const auto until = std::chrono::steady_clock::now() + kLoadCloseTimeout;
        for (bool idle = false; !idle;) {
            reactor_->call([&] { idle = generator_->idle(); });
            if (idle) {
                break;
            }
            if (std::chrono::steady_clock::now() > until) {
                throw std::runtime_error("outstanding I/O did not complete: the device does not answer");
            }
            if (reactor_->running()) {
                std::this_thread::sleep_for(std::chrono::microseconds(100));
            } else {
                reactor_->step();
            }
        }
        reactor_->call([&] { reactor_->remove(id_); });
        generator_.reset();
    }

private:
    template <typename Function>
    void call(Function function) {
        if (!generator_) {
            throw std::runtime_error("this LoadGenerator is closed");
        }
        const nb::gil_scoped_release unlocked;
        reactor_->call(function);
    }

    std::shared_ptr<Reactor> reactor_;
    std::shared_ptr<LoadGenerator> generator_;
    uint32_t id_ = 0;
};

}  // namespace

void bind_load(nb::module_ &m) {
    Fields<Latencies>(m, "Latencies")
        .field("min", &Latencies::min)
        .field("mean", &Latencies::mean)
        .field("p50", &Latencies::p50)
        .field("p90", &Latencies::p90)
        .field("p99", &Latencies::p99)
        .field("p999", &Latencies::p999)
        .field("p9999", &Latencies::p9999)
        .field("max", &Latencies::max)
        .end();
    Fields<Mismatches>(m, "Mismatches")
        .field("older", &Mismatches::older)
        .field("newer", &Mismatches::newer)
        .field("wrong_lba", &Mismatches::wrong_lba)
        .field("zeroes", &Mismatches::zeroes)
        .field("garbage", &Mismatches::garbage)
        .end();
    Fields<MismatchExample>(m, "MismatchExample")
        .field("kind", &MismatchExample::kind)
        .field("lba", &MismatchExample::lba)
        .field("expected_version", &MismatchExample::expected_version)
        .field("found_lba", &MismatchExample::found_lba)
        .field("found_version", &MismatchExample::found_version)
        .end();
    Fields<LoadReport>(m, "LoadProgress")
        .field("running", &LoadReport::running)
        .field("done_blocks", &LoadReport::done_blocks)
        .field("done_ios", &LoadReport::done_ios)
        .field("read_blocks", &LoadReport::read_blocks)
        .field("written_blocks", &LoadReport::written_blocks)
        .field("trimmed_blocks", &LoadReport::trimmed_blocks)
        .field("verify_errors", &LoadReport::verify_errors)
        .field("io_errors", &LoadReport::io_errors)
        .field("elapsed_ns", &LoadReport::elapsed_ns)
        .field("last_error_status", &LoadReport::last_error_status)
        .field("last_error_lba", &LoadReport::last_error_lba)
        .field("latency_ns", &LoadReport::latencies)
        .field("mismatch", &LoadReport::mismatch)
        .field("mismatches", &LoadReport::mismatch_examples)
        .end();
    nb::class_<PyLoadGenerator>(m, "LoadGenerator")
        .def(
            "__init__",
            [](PyLoadGenerator *self, std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> device,
               uint64_t first_lba, uint64_t lba_count, uint64_t seed, uint32_t max_queue_depth, uint32_t max_io_blocks,
               const std::string &verify) {
                new (self)
                    PyLoadGenerator(std::move(reactor), std::move(device),
                                    {first_lba, lba_count, seed, max_queue_depth, max_io_blocks, verify_of(verify)});
            },
            nb::arg("reactor"), nb::arg("device"), nb::kw_only(), nb::arg("first_lba") = 0, nb::arg("lba_count"),
            nb::arg("seed"), nb::arg("max_queue_depth") = 256, nb::arg("max_io_blocks") = 256,
            nb::arg("verify") = "exact")
        .def_prop_ro("id", &PyLoadGenerator::id)
        .def("start", &PyLoadGenerator::start, nb::arg("kind"), nb::kw_only(), nb::arg("pattern") = "random",
             nb::arg("io_blocks") = 1, nb::arg("total_blocks") = 0, nb::arg("queue_depth") = 32,
             nb::arg("time_limit_s") = 0.0, nb::arg("write_percent") = 100, nb::arg("sync") = false)
        .def("stop", &PyLoadGenerator::stop)
        .def("progress", &PyLoadGenerator::progress)
        .def("versions", &PyLoadGenerator::versions)
        .def("close", &PyLoadGenerator::close);
}

}  // namespace ftl
