// SPDX-License-Identifier: BSD-3-Clause
// The control side of FtlCore: orders from Python, and the state that a load gives to the core.
#include <algorithm>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>

#include "base/mutation.hpp"
#include "ftl/core.hpp"

namespace ftl {

const Band &FtlCore::checked_band(uint32_t band, const char *order) const {
    if (closed_) {
        throw std::invalid_argument(std::string(order) + ": the core is closed");
    }
    if (band >= state_.bands.size()) {
        throw std::invalid_argument(std::string(order) + ": band " + std::to_string(band) +
                                    " is beyond the last one, " + std::to_string(state_.bands.size() - 1));
    }
    return state_.bands[band];
}

bool FtlCore::open_band(uint32_t stream, uint32_t number, uint64_t band_seq) {
    const Band &band = checked_band(number, "open_band");
    if (stream >= state_.placement.class_count) {
        throw std::invalid_argument("open_band: there is no stream " + std::to_string(stream));
    }
    if (band.state != BandState::free) {
        throw std::invalid_argument("open_band: band " + std::to_string(number) + " is not free");
    }
    bool usable = false;
    for (uint32_t punit = 0; punit < state_.punits; ++punit) {
        const Zone &zone = state_.zone(number, punit);
        usable |= zone.start != kNoZone && !zone.faulted;
    }
    if (!usable) {
        throw std::invalid_argument("open_band: band " + std::to_string(number) + " has no writable zone");
    }
    return writer_.queue_band(stream, number, band_seq);
}

uint32_t FtlCore::take_queued(uint32_t stream) {
    if (stream >= state_.placement.class_count) {
        throw std::invalid_argument("take_queued: there is no stream " + std::to_string(stream));
    }
    return writer_.take_queued(stream);
}

void FtlCore::set_placement(Placement &placement) {
    if (closed_) {
        throw std::invalid_argument("set_placement: the core is closed");
    }
    const uint32_t most = state_.config.shared_stream ? 1 : state_.config.classes_max;
    if (state_.config.shared_stream || placement.class_count > most) {
        throw std::invalid_argument("set_placement: the core writes " + std::to_string(most) +
                                    " classes of bands at most, not " + std::to_string(placement.class_count));
    }
    placement.check();
    // A core that has failed writes nothing any more, and finishes no zone either.
    if (state_.failed == status::ok) {
        writer_.place(placement);
    }
}

void FtlCore::load_history(uint32_t number, uint8_t band_class, uint64_t opened_seq, uint64_t data_seq) {
    const Band &now = checked_band(number, "load_history");
    if (now.state == BandState::open || now.state == BandState::closing) {
        throw std::invalid_argument("load_history: band " + std::to_string(number) + " is being written");
    }
    Band &band = state_.bands.change(number);
    band.stream = std::min<uint8_t>(band_class, kClassesMax - 1);
    band.opened_seq = std::min(opened_seq, state_.next_seq);
    band.data_seqs = static_cast<int64_t>(std::min(data_seq, state_.next_seq) - band.opened_seq);
    band.data_count = 1;
}

bool FtlCore::start_move(uint32_t number) {
    const Band &band = checked_band(number, "start_move");
    if (band.state != BandState::closed && band.state != BandState::faulted) {
        throw std::invalid_argument("start_move: band " + std::to_string(number) + " is not closed");
    }
    return movers_.start(number);
}

bool FtlCore::start_scrub(uint32_t number, bool stays) {
    const Band &band = checked_band(number, "start_scrub");
    if (state_.config.no_data) {
        throw std::invalid_argument("start_scrub: with no_data the FTL keeps nothing to read");
    }
    if (!Movers::can_be_scrubbed(band.state, stays)) {
        throw std::invalid_argument("start_scrub: band " + std::to_string(number) +
                                    " is neither closed nor being written");
    }
    return movers_.start_scrub(number, stays);
}

void FtlCore::reset_band(uint32_t number) {
    const Band &band = checked_band(number, "reset_band");
    if (band.state != BandState::closed && band.state != BandState::faulted && band.state != BandState::free) {
        throw std::invalid_argument("reset_band: band " + std::to_string(number) + " is in use");
    }
    if (!begin_reset(number)) {
        throw std::invalid_argument("reset_band: band " + std::to_string(number) + " still holds " +
                                    std::to_string(band.valid) + " valid blocks and records of " +
                                    std::to_string(band.references) + " trimmed or lost ones: move it first");
    }
}

std::vector<uint32_t> FtlCore::reset_bands(const std::vector<uint32_t> &bands) {
    for (const uint32_t band : bands) {
        checked_band(band, "reset_bands");
    }
    std::vector<uint32_t> refused;
    std::copy_if(bands.begin(), bands.end(), std::back_inserter(refused),
                 [this](uint32_t band) { return !begin_reset(band); });
    return refused;
}

void FtlCore::replace_zone(uint32_t number, uint32_t punit, uint64_t zone_start) {
    const Band &band = checked_band(number, "replace_zone");
    if (band.state != BandState::free) {
        throw std::invalid_argument("replace_zone: band " + std::to_string(number) + " is not free");
    }
    if (punit >= state_.punits || !state_.set_zone(number, punit, zone_start)) {
        throw std::invalid_argument("replace_zone: the base has no such punit or zone, or another band uses the zone");
    }
}

bool FtlCore::fault_zone(uint32_t number, uint32_t punit, Status status) {
    const Band &band = checked_band(number, "fault_zone");
    if (punit >= state_.punits) {
        throw std::invalid_argument("fault_zone: there is no punit " + std::to_string(punit));
    }
    const Zone &zone = state_.zone(number, punit);
    if (zone.start == kNoZone || zone.faulted || state_.failed != status::ok) {
        return false;
    }
    switch (band.state) {
        case BandState::open:
        case BandState::closing:
        case BandState::resetting:
            return false;
        case BandState::closed:
            state_.bands.change(number).state = BandState::faulted;
            break;
        case BandState::free:
        case BandState::queued:
        case BandState::moving:
        case BandState::faulted:
            break;
    }
    state_.change_zone(number, punit).faulted = true;
    state_.emit(EventKind::zone_fault, number, punit, status);
    return true;
}

bool FtlCore::close_zone(uint32_t number, uint32_t punit) {
    const Band &band = checked_band(number, "close_zone");
    if (punit >= state_.punits) {
        throw std::invalid_argument("close_zone: there is no punit " + std::to_string(punit));
    }
    return band.state == BandState::open && state_.failed == status::ok && writer_.close_zone(number, punit);
}

FtlCore::Drain &FtlCore::free_drain() {
    const auto drain = std::find_if(drains_.begin(), drains_.end(), [](const Drain &each) { return each.ticket == 0; });
    if (drain == drains_.end()) {
        throw std::runtime_error(std::to_string(kDrainsMax) + " drains and flushes are already in progress");
    }
    return *drain;
}

uint64_t FtlCore::drain() {
    Drain &drain = free_drain();
    const uint64_t ticket = next_ticket_++;
    if (state_.failed == status::ok) {
        drain.ticket = ticket;
        flush(drain.io, true);
    }
    return ticket;
}

uint64_t FtlCore::flush_base() {
    Drain &drain = free_drain();
    const uint64_t ticket = next_ticket_++;
    if (state_.failed == status::ok) {
        drain.ticket = ticket;
        to_flush_.push(drain.io);
    }
    return ticket;
}

void FtlCore::on_drained(Io &io) noexcept {
    auto &drain = *static_cast<Drain *>(io.owner);
    const uint64_t ticket = drain.ticket;
    drain.ticket = 0;
    drain.core->state_.emit(EventKind::drained, ticket, io.status);
}

void FtlCore::set_pace(uint32_t user_percent, uint32_t reloc_per_thousand) noexcept {
    state_.throttle.set(user_percent, reloc_per_thousand);
}

void FtlCore::fail_writes(Status status) noexcept {
    state_.writes_failed = status;
    end_waiting(status);
}

// Data that was accepted still goes to media.
void FtlCore::refuse_writes() noexcept {
    if (!MUTATED(halt_accepts_writes)) {
        refusing_ = true;
        end_waiting(status::namespace_not_ready);
    }
}

void FtlCore::end_waiting(Status status) noexcept {
    // What is partly marked ends where it is. The marked part goes to media.
    if (open_ != nullptr) {
        cut_mark(*open_);
    }
    for (uint32_t i = 0; i < waiting_.count(); ++i) {
        WaitingLine &line = waiting_.at(i);
        while (!line.ios.empty()) {
            Io &io = *line.ios.pop();
            give_back(io);
            finish(io, status);
        }
        line.trimming = false;
    }
    waiting_.turn();
    marking_ = writes_wait_ = false;
}

void FtlCore::fail(Status status) noexcept {
    state_.fail(status);
}

void FtlCore::close() noexcept {
    closed_ = true;
    if (state_.failed == status::ok) {
        state_.failed = status::namespace_not_ready;
    }
}

// --- restore

void FtlCore::load_band(uint32_t number, BandState state, uint64_t band_seq, std::span<const uint64_t> write_pointers) {
    const Band &now = checked_band(number, "load_band");
    if (state != BandState::free && state != BandState::closed && state != BandState::faulted) {
        throw std::invalid_argument("load_band: the state must be free, closed or faulted");
    }
    if (now.state != BandState::free || now.written > 0 || now.in_force()) {
        throw std::invalid_argument("load_band: band " + std::to_string(number) + " is already in use");
    }
    if (write_pointers.size() > state_.punits) {
        throw std::invalid_argument("load_band: more write pointers than parallel units");
    }
    for (const uint64_t write_pointer : write_pointers) {
        if (write_pointer > state_.config.zone_size) {
            throw std::invalid_argument("load_band: a write pointer is beyond its zone");
        }
    }
    Band &band = state_.bands.change(number);
    band.state = state;
    band.seq = band_seq;
    for (uint32_t punit = 0; punit < write_pointers.size(); ++punit) {
        Zone &zone = state_.change_zone(number, punit);
        zone.write_pointer = static_cast<uint32_t>(std::min(write_pointers[punit], state_.config.zone_capacity));
        band.written += zone.write_pointer;
    }
}

void FtlCore::load_l2p(uint64_t first_lba, const uint64_t *entries, const uint16_t *crcs, size_t count) {
    const uint64_t block_count = state_.config.block_count;
    if (first_lba > block_count || count > block_count - first_lba) {
        throw std::invalid_argument("load_l2p: beyond the last LBA");
    }
    const auto check = [&](uint64_t entry) {
        if (entry == L2p::kInvalid) {
            return;
        }
        const uint64_t address = L2p::payload(entry);
        if (L2p::tag(entry) == L2p::Tag::slot || state_.zone_number(address) >= state_.zone_band.size() ||
            state_.band_of(address) == kNoBand) {
            throw std::invalid_argument("load_l2p: " + std::to_string(entry) + " is not an address in a band");
        }
        if (state_.crcs.kept() && crcs == nullptr && L2p::tag(entry) == L2p::Tag::media) {
            throw std::invalid_argument("load_l2p: the core verifies reads, so blocks need their CRCs");
        }
    };
    std::for_each(entries, entries + count, check);
    for (size_t i = 0; i < count; ++i) {
        const uint64_t lba = first_lba + i;
        state_.replace(lba, entries[i]);
        if (crcs != nullptr) {
            state_.crcs.set(lba, crcs[i]);
        }
        if (entries[i] != L2p::kInvalid && L2p::tag(entries[i]) != L2p::Tag::media) {
            Band &band = state_.bands.change(state_.band_of(L2p::payload(entries[i])));
            ++band.references;
            // The number of headers that contain these records is known only when the band is moved.
            band.record_headers = std::max(band.record_headers, 1U);
        }
    }
}

void FtlCore::take_l2p(RestoredL2p &table, RestoredL2p::Counts &counts) {
    const auto require = [](bool holds, const char *rule) {
        if (!holds) {
            throw std::invalid_argument(std::string("take_l2p: ") + rule);
        }
    };
    const auto used = [](const Band &band) { return band.in_force(); };
    const std::span<const Band> bands = state_.bands.all();
    require(!closed_, "the core is closed");
    table.check_pages();
    require(state_.mapped == 0 && std::none_of(bands.begin(), bands.end(), used), "the core has an L2P already");
    require(table.is_like(state_.l2p), "the table is of another device");
    require(counts.of_version == table.version() && counts.zone_size == state_.config.zone_size,
            "the counts are not those of the table");
    // Only a test has other chunks.
    if (counts.chunk_blocks != state_.trims.chunk_blocks()) {
        counts = table.count(counts.zone_size, counts.blocks.size(), state_.trims.chunk_blocks());
    }
    uint64_t data = 0;
    for (uint64_t zone = 0; zone < counts.blocks.size(); ++zone) {
        const uint64_t here = counts.blocks[zone] + counts.records[zone];
        require(here == 0 || (zone < state_.zone_band.size() && state_.zone_band[zone] != kNoBand),
                "an entry is not an address in a band");
        data += counts.blocks[zone];
    }
    require(!state_.crcs.kept() || table.has_crcs() || data == 0, "the core verifies reads, so blocks need their CRCs");
    for (uint64_t zone = 0; zone < counts.blocks.size(); ++zone) {
        if (counts.blocks[zone] + counts.records[zone] == 0) {
            continue;
        }
        Band &band = state_.bands.change(state_.zone_band[zone]);
        band.valid += static_cast<uint32_t>(counts.blocks[zone]);
        band.references += counts.records[zone];
        // The number of headers that contain these records is known only when the band is moved.
        band.record_headers = std::max(band.record_headers, counts.records[zone] > 0 ? 1U : 0U);
    }
    state_.mapped = counts.content;
    state_.trims.take_counts(counts.chunk_content);
    table.exchange(state_.l2p, state_.crcs.kept() && table.has_crcs() ? &state_.crcs : nullptr);
    state_.wake_by_pages();
    state_.config.paging.folder = table.page_folder();
}

void FtlCore::use_cache(std::shared_ptr<BlockDevice> device, const NvCacheConfig &config) {
    if (closed_ || cache_) {
        throw std::invalid_argument(closed_ ? "use_cache: the core is closed"
                                            : "use_cache: the core already has a cache");
    }
    cache_ = std::make_unique<NvCache>(state_, std::move(device), config);
    state_.cache = cache_.get();
}

void FtlCore::forget_cache() noexcept {
    if (cache_) {
        cache_->switch_off(done_);
    }
}

void FtlCore::check_recovered(uint64_t lba, uint64_t block_count, uint64_t seq, const char *order) const {
    if (closed_) {
        throw std::invalid_argument(std::string(order) + ": the core is closed");
    }
    if (block_count == 0 || lba >= state_.config.block_count || block_count > state_.config.block_count - lba) {
        throw std::invalid_argument(std::string(order) + ": beyond the last LBA");
    }
    if (seq == 0 || seq >= state_.next_seq) {
        throw std::invalid_argument(std::string(order) + ": seq " + std::to_string(seq) + " is not below next_seq, " +
                                    std::to_string(state_.next_seq));
    }
}

bool FtlCore::recover_block(uint64_t lba, uint64_t seq, uint32_t crc, const uint8_t *block) {
    check_recovered(lba, 1, seq, "recover_block");
    if (crc32c(0, block, kBlockSize) != crc) {
        throw std::invalid_argument("recover_block: the block does not match its CRC");
    }
    WriteBuffer &buffer = state_.buffer;
    if (buffer.free.count() == 0) {
        return false;
    }
    const uint32_t slot = buffer.free.take();
    std::memcpy(buffer.block(slot), block, kBlockSize);
    hold(slot, lba, seq, crc);
    buffer.queue(slot);
    return true;
}

// The range of a record may be wider than the part that is in force. Where the L2P has an address on media, that block
// is newer.
bool FtlCore::recover_record(uint64_t lba, uint32_t block_count, uint64_t seq, uint32_t flags) {
    check_recovered(lba, block_count, seq, "recover_record");
    if (flags != layout::kRecordTrim && flags != layout::kRecordLost) {
        throw std::invalid_argument("recover_record: unknown flags " + std::to_string(flags));
    }
    Records &records = state_.records;
    if (!records.room()) {
        return false;
    }
    const uint64_t flag = flags == layout::kRecordTrim ? L2p::kTrimFlag : L2p::kLostFlag;
    const uint32_t record = records.make(state_, flag, lba, block_count, kNoMover, seq);
    uint64_t references = 0;
    for (uint64_t each = lba; each < lba + block_count; ++each) {
        const uint64_t entry = state_.l2p.get(each);
        if (entry == L2p::kInvalid || L2p::tag(entry) == L2p::Tag::slot || L2p::is_pending(entry)) {
            state_.replace(each, L2p::pending(flag, record));
            records.mark(each);
            ++references;
        }
    }
    records.meta[record].references = references;
    records.enqueue(record);
    return true;
}

BandRow FtlCore::row(uint32_t number) const noexcept {
    const Band &band = state_.bands[number];
    BandRow row{};
    row.seq = band.seq;
    row.opened_seq = band.opened_seq;
    row.data_seq = band.data_seq();
    for (uint32_t punit = 0; punit < state_.punits; ++punit) {
        row.faulted_punits |= uint64_t{state_.zone(number, punit).faulted} << punit;
    }
    row.band = number;
    row.valid = valid_count(number);
    row.written = band.written + band.given_up;
    row.state = static_cast<uint8_t>(band.state);
    row.stream = band.stream;
    row.unreadable = band.unreadable;
    row.unwritten = band.written == 0;
    row.settling = band.settling;
    return row;
}

size_t FtlCore::take_changed(std::span<BandRow> rows) noexcept {
    size_t count = 0;
    while (count < rows.size()) {
        const uint32_t number = state_.bands.take_changed();
        if (number == kNoBand) {
            break;
        }
        rows[count++] = row(number);
    }
    return count;
}

uint32_t FtlCore::valid_count(uint32_t number) const noexcept {
    const Band &band = state_.bands[number];
    // While records settle in this band, more references may follow.
    const uint64_t headers = std::max<uint64_t>(band.references, band.settling);
    return band.valid + static_cast<uint32_t>(std::min<uint64_t>(headers, band.record_headers));
}

}  // namespace ftl
