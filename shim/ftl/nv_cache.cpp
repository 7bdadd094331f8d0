// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/nv_cache.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "base/iov_cursor.hpp"
#include "base/mutation.hpp"

namespace ftl {
namespace {

constexpr size_t kLastSeq = 2;  // index into Io::device_data while a write is held back

const BlockDeviceInfo &checked(const BlockDeviceInfo &info, const CoreState &state) {
    const auto require = [](bool fine, const std::string &message) {
        if (!fine) {
            throw std::invalid_argument("nv cache: " + message);
        }
    };
    require(!info.zoned, "the device is zoned");
    require(info.block_bytes - info.metadata_bytes == kBlockSize, "blocks must have 4096 bytes of data");
    require(info.metadata_bytes == 0 || info.metadata_bytes >= layout::kCacheMetadataMin,
            "blocks must have 8 bytes of metadata, or none");
    require(info.metadata_bytes == 0 || info.metadata_bytes >= layout::kCacheWideMetadata ||
                state.config.block_count <= uint64_t{1} << layout::kCacheLbaBits,
            "8 bytes of metadata are enough for 2^30 blocks only");
    require(info.max_io_blocks >= 2, "the device takes only one block in a write");
    require(info.block_count >= layout::kCacheHeaderBlocks + 2, "the device is too small for a ring");
    return info;
}

}  // namespace

NvCache::NvCache(CoreState &state, std::shared_ptr<BlockDevice> device, const NvCacheConfig &config)
    : state_(state),
      device_(std::move(device)),
      id_(config.id),
      metadata_bytes_(checked(device_->info(), state).metadata_bytes),
      vss_(metadata_bytes_ > 0),
      volatile_(device_->info().volatile_cache),
      ring_blocks_(device_->info().block_count - layout::kCacheHeaderBlocks),
      generation_(config.generation),
      lap_(config.lap),
      position_(config.position) {
    if (config.request_blocks == 0 || config.request_count == 0) {
        throw std::invalid_argument("nv cache: max_request_size and max_request_cnt must be at least 1");
    }
    const uint32_t most = vss_ ? device_->info().max_io_blocks
                               : std::min(device_->info().max_io_blocks - 1, layout::kCacheEntriesPerBlock);
    request_blocks_ = std::min(config.request_blocks, most);
    const uint32_t count = std::min(config.request_count, state.buffer.slot_count);
    const size_t scratch_bytes = vss_ ? size_t{request_blocks_} * metadata_bytes_ : kBlockSize;
    scratch_ = PageMemory(scratch_bytes * count + kBlockSize + size_t{2} * metadata_bytes_);
    header_block_ = scratch_.data();
    unread_metadata_ = header_block_ + kBlockSize + metadata_bytes_;
    uint8_t *scratch = unread_metadata_ + metadata_bytes_;
    if (state.crcs.kept()) {
        written_ = PageMemory(ring_blocks_ * sizeof(Written));
    }
    requests_ = std::vector<Request>(count);
    for (Request &request : requests_) {
        request.cache = this;
        request.scratch = scratch;
        scratch += scratch_bytes;
        request.slots.resize(request_blocks_);
        request.iov.resize(vss_ ? size_t{2} * request_blocks_ : size_t{1} + request_blocks_);
        request.io.op = Op::write;
        request.io.owner = &request;
        request.io.iov = request.iov.data();
        request.io.complete = on_written;
    }
    header_iov_ = {header_block_, kBlockSize + metadata_bytes_};
    header_io_.owner = this;
    header_io_.iov = &header_iov_;
    header_io_.complete = on_header;
    flush_io_.op = Op::flush;
    flush_io_.owner = this;
    flush_io_.complete = on_flushed;
    // All content of the ring was accepted before this moment.
    mark(position_, state.next_seq);
    written_seq_ = flushed_seq_ = answered_seq_ = state.next_seq - 1;
}

// --- from the core

bool NvCache::push(uint32_t slot) noexcept {
    if (cache_state_ != State::active) {
        return false;
    }
    queue_.push_back(state_.buffer.next.data(), slot);
    stalled_ = false;
    return true;
}

void NvCache::hold_back(Io &io) noexcept {
    io.device_data[kLastSeq] = state_.next_seq - 1;
    held_back_.push(io);
}

uint32_t NvCache::run(IoList &done) noexcept {
    if (cache_state_ != State::active) {
        return 0;
    }
    uint32_t work = busy_ios_.run(state_.now, [this](BaseIo &io) { send(io); });
    work += retire();
    work += issue();
    flush_if_due();
    const uint64_t durable = MUTATED(cache_acks_early)                  ? ~uint64_t{0}
                             : volatile_ && !MUTATED(cache_not_flushed) ? flushed_seq_
                                                                        : written_seq_;
    while (!held_back_.empty() && held_back_.front()->device_data[kLastSeq] <= durable) {
        answered_seq_ = held_back_.front()->device_data[kLastSeq];
        done.push(*held_back_.pop());
        ++work;
    }
    return work;
}

void NvCache::switch_off(IoList &done) noexcept {
    if (cache_state_ == State::active) {
        fail(status::aborted);
    }
    cache_state_ = State::off;
    done.append(held_back_);
}

void NvCache::end(IoList &ended) noexcept {
    if (state_.failed != status::ok) {
        drop_busy();
    }
    ended.append(held_back_);
}

uint64_t NvCache::used_blocks() const noexcept {
    if (vss_) {
        const uint64_t oldest = oldest_held();
        return oldest < state_.next_seq ? std::min(state_.next_seq - oldest, ring_blocks_) : 0;
    }
    const uint64_t first = limit_ > ring_blocks_ ? limit_ - ring_blocks_ : 0;
    return position_ > first ? std::min(position_ - first, ring_blocks_) : 0;
}

// --- the ring

uint64_t NvCache::oldest_held() const noexcept {
    const WriteBuffer &buffer = state_.buffer;
    uint64_t oldest = ~uint64_t{0};
    for (uint32_t slot = 0; slot < buffer.slot_count; ++slot) {
        if (buffer.records[slot].state != kRecordFree) {
            oldest = std::min(oldest, buffer.records[slot].seq);
        }
    }
    return oldest;
}

void NvCache::mark(uint64_t position, uint64_t seq) noexcept {
    if (vss_ || mark_count_ == kMarks) {
        return;
    }
    marks_[(first_mark_ + mark_count_++) % kMarks] = Mark{position, seq};
    last_mark_ = position;
}

// True if the blocks that were written one lap earlier at the positions below `end` are durable on the base. The caller
// has a block waiting, so at least one slot is held.
bool NvCache::may_write(uint64_t end) noexcept {
    if (end <= limit_ || MUTATED(cache_wraps_too_soon)) {
        return true;
    }
    const uint64_t oldest = oldest_held();
    if (vss_) {
        limit_ = oldest + ring_blocks_;
        return end <= limit_;
    }
    if (mark_count_ == 0 || last_mark_ < position_) {
        mark(position_, state_.buffer.records[queue_.head].seq);
    }
    while (mark_count_ > 0 && marks_[first_mark_].seq <= oldest) {
        limit_ = marks_[first_mark_].position + ring_blocks_;
        first_mark_ = (first_mark_ + 1) % kMarks;
        --mark_count_;
    }
    return end <= limit_;
}

// A batch needs a header and at least one block, and does not cross the end of the ring.
uint64_t NvCache::next_position() const noexcept {
    if (vss_) {
        return state_.buffer.records[queue_.head].seq;
    }
    const uint64_t left = ring_blocks_ - position_ % ring_blocks_;
    return left < 2 ? position_ + left : position_;
}

uint32_t NvCache::issue() noexcept {
    uint32_t sent = 0;
    const bool was_full = ring_full_;
    ring_full_ = false;
    while (!queue_.empty()) {
        const uint64_t in_flight = issued_ - retired_;
        stalled_ = header_in_flight_ || in_flight == requests_.size() ||
                   (in_flight >= kEagerRequests && queue_.count < request_blocks_);
        if (stalled_) {
            break;
        }
        const uint64_t position = next_position();
        if (!may_write(position + (vss_ ? 1 : 2))) {
            stats_.ring_waits += was_full ? 0 : 1;
            stalled_ = ring_full_ = true;
            break;
        }
        if (position / ring_blocks_ > lap_) {
            write_header(position / ring_blocks_);
            stalled_ = true;
            break;
        }
        Request &request = requests_[issued_ % requests_.size()];
        const uint64_t room = std::min(ring_blocks_ - position % ring_blocks_, limit_ - position);
        if (vss_) {
            send_vss(request, position, room);
        } else {
            send_batch(request, position, room);
        }
        ++sent;
    }
    return sent;
}

// Consecutive seqs have consecutive places in the ring.
void NvCache::send_vss(Request &request, uint64_t first_seq, uint64_t room) noexcept {
    WriteBuffer &buffer = state_.buffer;
    const uint64_t most = std::min<uint64_t>(room, request_blocks_);
    const uint32_t phase = layout::cache_phase(first_seq / ring_blocks_);
    uint32_t count = 0;
    while (count < most && !queue_.empty() && buffer.records[queue_.head].seq == first_seq + count) {
        const uint32_t slot = queue_.pop_front(buffer.next.data());
        const SlotRecord &record = buffer.records[slot];
        const layout::CacheSalt salt{record.lba, record.seq, id_};
        const layout::CacheMetadata metadata{
            crc32c(record.crc, &salt, sizeof(salt)),
            phase << layout::kCacheLbaBits |
                static_cast<uint32_t>(record.lba & ((uint64_t{1} << layout::kCacheLbaBits) - 1)),
            record.lba >> layout::kCacheLbaBits};
        uint8_t *block_metadata = request.scratch + size_t{count} * metadata_bytes_;
        std::memcpy(block_metadata, &metadata, std::min<size_t>(sizeof(metadata), metadata_bytes_));
        note(first_seq + count, record);
        request.iov[size_t{2} * count] = iovec{buffer.block(slot), kBlockSize};
        request.iov[size_t{2} * count + 1] = iovec{block_metadata, metadata_bytes_};
        request.slots[count++] = slot;
    }
    request.count = count;
    submit(request, first_seq, count, 2 * count);
}

void NvCache::send_batch(Request &request, uint64_t position, uint64_t room) noexcept {
    WriteBuffer &buffer = state_.buffer;
    const auto count = static_cast<uint32_t>(std::min<uint64_t>({room - 1, request_blocks_, queue_.count}));
    auto &header = *reinterpret_cast<layout::CacheBatchHeader *>(request.scratch);
    header.magic = layout::kCacheBatchMagic;
    header.version = layout::kCacheVersion;
    header.crc = 0;
    header.id = id_;
    header.position = position;
    header.count = count;
    header.phase = layout::cache_phase(position / ring_blocks_);
    if (position >= last_mark_ + std::max<uint64_t>(ring_blocks_ / kMarksPerLap, 1)) {
        mark(position, buffer.records[queue_.head].seq);
    }
    uint32_t iov_count = add_piece(request.iov.data(), 0, request.scratch, kBlockSize);
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t slot = queue_.pop_front(buffer.next.data());
        const SlotRecord &record = buffer.records[slot];
        header.blocks[i] = layout::BlockEntry{record.lba, record.seq, record.crc, 0};
        note(position + 1 + i, record);
        iov_count = add_piece(request.iov.data(), iov_count, buffer.block(slot), kBlockSize);
        request.slots[i] = slot;
    }
    std::fill(header.blocks + count, header.blocks + layout::kCacheEntriesPerBlock, layout::BlockEntry{});
    header.crc = layout::block_crc(&header);
    position_ = position + 1 + count;
    ++stats_.metadata_blocks;
    request.count = count;
    submit(request, position, 1 + count, iov_count);
}

void NvCache::submit(Request &request, uint64_t position, uint32_t block_count, uint32_t iov_count) noexcept {
    request.done = false;
    request.last_seq = state_.buffer.records[request.slots[request.count - 1]].seq;
    request.io.lba = place_of(position);
    request.io.block_count = block_count;
    request.io.iov_count = iov_count;
    ++issued_;
    ++stats_.write_ios;
    stats_.written_blocks += request.count;
    send(request.io);
}

void NvCache::send(BaseIo &io) noexcept {
    if (io.op == Op::flush && !MUTATED(flushes_overlap) && !flush_turn_.take(io)) {
        return;
    }
    send_now(io);
}

void NvCache::send_now(BaseIo &io) noexcept {
    io.status = status::ok;
    io.do_not_retry = false;
    ++outstanding_;
    device_->submit(io);
}

// False: the device was busy, and the same I/O is sent again. Until then, the I/O keeps its places in the ring.
bool NvCache::came_back(BaseIo &io, uint64_t patience_ns) noexcept {
    --outstanding_;
    patience_ns = MUTATED(busy_cache_given_up) ? 0 : patience_ns;
    const bool lives = cache_state_ == State::active && state_.failed == status::ok;
    const bool kept =
        lives && error_class(io) == ErrorClass::busy && busy_ios_.keep(io, state_.reactor->now_ns(), patience_ns);
    if (io.op == Op::flush && lives && (kept || io.status == status::ok)) {
        // No flush follows one that failed: the core gives the cache up.
        if (BaseIo *next = flush_turn_.pass_on()) {
            send_now(*next);
        }
    }
    if (kept) {
        ++stats_.busy_answers;
        return false;
    }
    io.busy_since_ns = 0;
    return true;
}

void NvCache::drop_busy() noexcept {
    while (flush_turn_.drop() != nullptr) {
        // Flushes of the ring or of the header; nobody else waits for them.
    }
    while (BaseIo *io = busy_ios_.drop()) {
        if (io->op == Op::read) {
            // Somebody waits for the answer to a read.
            ++outstanding_;
            io->status = status::aborted;
            io->complete(*io);
        }
    }
}

void NvCache::on_written(Io &io) noexcept {
    auto &request = *static_cast<Request *>(io.owner);
    if (!request.cache->came_back(request.io)) {
        return;
    }
    request.done = true;
    if (io.status != status::ok) {
        request.cache->fail(io.status);
    }
}

// Retires requests in order. So the base gets blocks in order of seq, and the blocks in the cache form a prefix.
uint32_t NvCache::retire() noexcept {
    uint32_t work = 0;
    while (retired_ != issued_ && requests_[retired_ % requests_.size()].done) {
        const Request &request = requests_[retired_++ % requests_.size()];
        for (uint32_t i = 0; i < request.count; ++i) {
            to_base(request.slots[i]);
        }
        written_seq_ = request.last_seq;
        ++work;
    }
    return work;
}

void NvCache::flush_if_due() noexcept {
    if (!volatile_ || flush_in_flight_ || held_back_.empty() || written_seq_ == flushed_seq_) {
        return;
    }
    flushing_seq_ = written_seq_;
    flush_in_flight_ = true;
    ++stats_.flushes;
    send(flush_io_);
}

void NvCache::on_flushed(Io &io) noexcept {
    auto &cache = *static_cast<NvCache *>(io.owner);
    if (!cache.came_back(cache.flush_io_)) {
        return;
    }
    cache.flush_in_flight_ = false;
    if (io.status != status::ok) {
        cache.fail(io.status);
        return;
    }
    cache.flushed_seq_ = cache.flushing_seq_;
}

// --- reading back blocks that media cannot return

void NvCache::note(uint64_t position, const SlotRecord &record) noexcept {
    if (written_.data() != nullptr) {
        reinterpret_cast<Written *>(written_.data())[position % ring_blocks_] =
            Written{noted(record.lba), BlockCrcs::cut(record.crc), 0};
    }
}

// Finds the newest copy, so it searches from the last place backwards. It runs only after an error, once for each bad
// block.
bool NvCache::read(uint64_t lba, uint16_t cut_crc, BaseIo &io) noexcept {
    if (written_.data() == nullptr || cache_state_ != State::active) {
        return false;
    }
    const auto *written = reinterpret_cast<const Written *>(written_.data());
    uint64_t place = position() % ring_blocks_;
    for (uint64_t left = ring_blocks_; left > 0; --left) {
        place = place == 0 ? ring_blocks_ - 1 : place - 1;
        if (written[place].lba != noted(lba) || written[place].crc != cut_crc || written[place].lba == 0) {
            continue;
        }
        if (metadata_bytes_ > 0) {
            io.iov[io.iov_count++] = iovec{unread_metadata_, metadata_bytes_};
        }
        io.lba = layout::kCacheHeaderBlocks + place;
        io.block_count = 1;
        send(io);
        return true;
    }
    return false;
}

// --- the header of the cache

void NvCache::write_header(uint64_t lap) noexcept {
    next_lap_ = lap;
    ++generation_;
    auto &header = *reinterpret_cast<layout::CacheHeader *>(header_block_);
    std::memset(header_block_, 0, header_iov_.iov_len);
    header.magic = layout::kCacheMagic;
    header.version = layout::kCacheVersion;
    header.uuid = state_.config.uuid;
    header.id = id_;
    header.generation = generation_;
    header.block_count = device_->info().block_count;
    header.lap = lap;
    header.mode = vss_ ? layout::kCacheModeVss : layout::kCacheModeNonVss;
    header.phase = layout::cache_phase(lap);
    header.metadata_bytes = metadata_bytes_;
    header.crc = layout::block_crc(&header);
    header_io_.op = Op::write;
    header_io_.lba = generation_ % layout::kCacheHeaderBlocks;
    header_io_.block_count = 1;
    header_io_.iov_count = 1;
    header_in_flight_ = true;
    ++stats_.header_writes;
    send(header_io_);
}

void NvCache::on_header(Io &io) noexcept {
    auto &cache = *static_cast<NvCache *>(io.owner);
    if (!cache.came_back(cache.header_io_)) {
        return;
    }
    if (io.status != status::ok) {
        cache.fail(io.status);
        return;
    }
    if (io.op == Op::write && cache.volatile_ && cache.cache_state_ == State::active) {
        io.op = Op::flush;
        io.block_count = 0;
        io.iov_count = 0;
        cache.send(cache.header_io_);
        return;
    }
    cache.lap_ = cache.next_lap_;
    cache.header_in_flight_ = false;
}

// Blocks in flight also go to the base, because the cache may not have them.
void NvCache::fail(Status status) noexcept {
    if (cache_state_ != State::active) {
        return;
    }
    cache_state_ = State::failed;
    drop_busy();
    ring_full_ = false;
    ++stats_.write_errors;
    for (; retired_ != issued_; ++retired_) {
        const Request &request = requests_[retired_ % requests_.size()];
        for (uint32_t i = 0; i < request.count; ++i) {
            to_base(request.slots[i]);
        }
    }
    while (!queue_.empty()) {
        to_base(queue_.pop_front(state_.buffer.next.data()));
    }
    state_.emit(EventKind::cache_failed, status);
}

}  // namespace ftl
