// SPDX-License-Identifier: BSD-3-Clause
// FtlCore's waiting lines: writes without room, and all trims and marks, continue as room and time allow. A mark
// declares blocks uncorrectable.
#include <algorithm>

#include "ftl/core.hpp"

namespace ftl {

uint32_t FtlCore::run_waiting() noexcept {
    uint32_t work = 0;
    state_.demand.user_waits = false;
    throttled_ = false;
    writes_wait_ = false;
    marking_ = false;
    if (waiting_.empty() && !state_.trims.any()) {
        return 0;
    }
    // Trims take time of the reactor's thread that reads and writes need, and CPU time of the machine. Without other
    // I/O, or if a move waits for it, trims run at full speed.
    const bool beside = state_.beside_io() && !state_.moves_settle;
    const uint32_t most = !beside ? kScanStep : trims_rest() ? 0 : kTrimShared;
    // Accepting trims must not delay for ever those that were accepted before: moves and other trims may wait for them.
    const uint32_t kept = state_.trims.any() ? most / 2 : 0;
    uint32_t budget = most - kept;
    trims_spent_ = 0;
    // A record that is not queued yet delays flushes, so its mark continues until its turn ends.
    if (open_ != nullptr) {
        work += run_line(*open_, budget);
    }
    for (uint32_t i = 0; i < waiting_.count(); ++i) {
        work += run_line(waiting_.at(i), budget);
    }
    waiting_.turn();
    const uint32_t step = trims_wanted() ? kScanStep : state_.config.trim_step;
    const uint32_t applied = state_.trims.run(state_, std::min(budget + kept, step));
    trims_spent_ += applied;
    work += applied > 0 ? 1 : 0;
    if (!beside) {
        trim_again_ = 0;
    } else if (trims_spent_ > 0) {
        trim_again_ = state_.now + trims_spent_ * kTrimRestNs;
    }
    return work;
}

uint32_t FtlCore::run_line(WaitingLine &line, uint32_t &budget) noexcept {
    uint32_t work = 0;
    while (!line.ios.empty()) {
        Io &io = *line.ios.front();
        if (io.op == Op::write) {
            const bool reserved = io.iov_count > 0 && state_.buffer.holds(io.iov[0].iov_base);
            if (!share_allows()) {
                throttled_ = true;
                writes_wait_ = true;
                break;
            }
            if (!has_pages(line, io)) {
                break;
            }
            if (!reserved && state_.buffer.free.count() == 0) {
                state_.demand.user_waits = true;
                writes_wait_ = true;
                break;
            }
            // Accepting the last block puts the Io on another list.
            const uint64_t before = io.device_data[1];
            line.ios.pop();
            if (reserved) {
                accept_reserved(io);
            } else if (!accept_own(io)) {
                line.ios.push_front(io);
                state_.demand.user_waits = true;
                writes_wait_ = true;
                work += io.device_data[1] != before ? 1 : 0;
                break;
            }
        } else {
            if (budget == 0 || (open_ != nullptr && open_ != &line)) {
                marking_ = true;
                break;
            }
            const uint64_t before = line.cursor;
            if (!(io.op == Op::write_uncorrectable ? mark_step(line, budget) : trim(line, budget))) {
                work += line.cursor != before ? 1 : 0;
                break;
            }
            line.ios.pop();
            accepted(io);
        }
        ++work;
    }
    return work;
}

bool FtlCore::has_pages(WaitingLine &line, const Io &io) noexcept {
    if (!state_.want(io.lba, io.block_count)) {
        line.paging_since = line.paging ? line.paging_since : state_.page_events;
        line.paging = !state_.waited_long(line.paging_since);
        return !line.paging;
    }
    line.paging = false;
    return true;
}

void FtlCore::spend(uint32_t &budget, uint64_t cost) noexcept {
    budget -= static_cast<uint32_t>(std::min<uint64_t>(budget, cost));
    trims_spent_ += cost;
}

// Accepts the trim at the front of a line, or the next part of one that is very large. It only hides whole chunks of
// LBAs, and their L2P entries follow later. True: all of it is accepted. LBAs that were never written, or are already
// trimmed, read as zeroes without a new record, so a trim of only such LBAs makes no record.
bool FtlCore::trim(WaitingLine &line, uint32_t &budget) noexcept {
    const Io &io = *line.ios.front();
    Records &records = state_.records;
    if (!line.trimming) {
        line.trimming = true;
        line.cursor = io.lba;
        line.record = kNoSlot;
    }
    const uint64_t end = io.lba + io.block_count;
    const uint64_t stop = state_.trims.part_end(line.cursor, end);
    spend(budget, kTrimCost + state_.trims.cost(stop - line.cursor));
    const uint64_t first = state_.trims.first_content(state_, line.cursor, stop);
    if (first < stop) {
        if (!records.user_room() || !state_.trims.room()) {
            line.cursor = first;
            state_.demand.user_waits |= !records.user_room();
            marking_ |= records.user_room();
            return false;
        }
        const auto count = static_cast<uint32_t>(stop - first);
        state_.overtake_trim(first, count);
        const uint32_t record = records.make(state_, L2p::kTrimFlag, first, count, kNoMover);
        state_.trims.trim(state_, record, first, stop);
        records.enqueue(record);
    }
    line.cursor = stop;
    if (stop < end) {
        marking_ = true;
        return false;
    }
    line.trimming = false;
    return true;
}

// Marks some LBAs that the I/O at the front of a line declares uncorrectable, with a lost record. Later writes of the
// same issuer wait behind it. True: the I/O is accepted. If other I/O waits, there are several records.
bool FtlCore::mark_step(WaitingLine &line, uint32_t &budget) noexcept {
    const Io &io = *line.ios.front();
    Records &records = state_.records;
    if (!line.trimming) {
        line.trimming = true;
        line.cursor = io.lba;
        line.record = kNoSlot;
        spend(budget, kTrimCost);
    }
    if (state_.trim_overtaken && line.record != kNoSlot) {
        cut_mark(line);  // a restart would prefer the overlapping write, whose seq is newer
    }
    const uint64_t end = io.lba + io.block_count;
    const uint64_t begin = line.cursor;
    const uint64_t stop = std::min(end, begin + budget);
    for (; line.cursor < stop; ++line.cursor) {
        state_.trims.uncover(state_, line.cursor);
        const uint64_t entry = state_.l2p.get(line.cursor);
        // kInvalid has the tag of a lost block.
        if (entry != L2p::kInvalid && L2p::tag(entry) == L2p::Tag::lost) {
            continue;
        }
        if (line.record == kNoSlot) {
            if (!records.user_room()) {
                state_.demand.user_waits = true;
                spend(budget, line.cursor - begin);
                return false;
            }
            const auto rest = static_cast<uint32_t>(end - line.cursor);
            line.record = records.make(state_, L2p::kLostFlag, line.cursor, rest, kNoMover);
            line.record_lba = line.cursor;
            open_ = &line;
        }
        state_.replace(line.cursor, L2p::pending(L2p::kLostFlag, line.record));
        state_.records.mark(line.cursor);
        ++records.meta[line.record].references;
    }
    spend(budget, line.cursor - begin);
    if (line.cursor < end) {
        marking_ = true;
        if (line.record != kNoSlot) {
            state_.trim_from = line.cursor;
            state_.trim_to = end;
        }
        if (line.record != kNoSlot && waiting_.count() > 1 && line.cursor - line.record_lba >= kMarkTurn) {
            cut_mark(line);
        }
        return false;
    }
    cut_mark(line);
    line.trimming = false;
    return true;
}

// Ends the record at the marked part. The rest gets another record.
void FtlCore::cut_mark(WaitingLine &line) noexcept {
    if (line.record != kNoSlot) {
        state_.records.cut(line.record, static_cast<uint32_t>(line.cursor - line.record_lba));
        state_.records.enqueue(line.record);
        line.record = kNoSlot;
        open_ = nullptr;
        state_.trim_from = state_.trim_to = 0;
        state_.trim_overtaken = false;
    }
}

uint64_t FtlCore::part_seqs() noexcept {
    if (open_ != nullptr) {
        cut_mark(*open_);  // the record has a seq, but the L2P only tells of the marked part
    }
    return state_.next_seq;
}

// The host of a write, a trim or a compare may have sent it again on another connection, and more behind it: executed
// later, this one would undo those. So what waits is not begun any more. Blocks that a write has put into the buffer
// stay, and so do the accepted part of a trim and what is marked.
void FtlCore::cancel(Io &io) noexcept {
    if (state_.failed != status::ok || MUTATED(cancel_ignored)) {
        return;  // the next poll ends everything
    }
    if (io.op == Op::compare_write) {
        cancel_compare(io);
        return;
    }
    WaitingLine *line = waiting_.line_of(io);
    if (line == nullptr) {
        return;
    }
    const bool begun = line->ios.front() == &io && line->trimming;
    if (!line->ios.remove(io)) {
        return;
    }
    if (begun) {
        cut_mark(*line);
        line->trimming = false;
    }
    give_back(io);
    finish(io, status::aborted);
}

}  // namespace ftl
