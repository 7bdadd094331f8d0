// What an FTL did between two answers of the daemon; as spdk_ftl_py/rates.py.

const MIB_OF_BLOCK = 4096 / 1048576;

// null if the FTL was loaded in between, so that its counters began again.
export function between(before, after, seconds) {
  if (!before || !after || !(seconds > 0) || before.uuid !== after.uuid) return null;
  const grown = (key) => after[key] - before[key];
  const of = (way, key) => after.user[way][key] - before.user[way][key];
  const written = of("write", "blocks"), media = grown("media_written_blocks"), moved = grown("gc_moved_blocks");
  const all = [written, media, moved, of("read", "ios"), of("read", "blocks"), of("write", "ios"), grown("throttled_ms")];
  if (Math.min(...all) < 0) return null;
  const percentiles = (way, part) => percentile(buckets(before, way), buckets(after, way), part);
  return {
    read_iops: of("read", "ios") / seconds,
    read_mib_s: of("read", "blocks") * MIB_OF_BLOCK / seconds,
    read_p50_us: percentiles("read", 0.5),
    read_p99_us: percentiles("read", 0.99),
    write_iops: of("write", "ios") / seconds,
    write_mib_s: written * MIB_OF_BLOCK / seconds,
    write_p50_us: percentiles("write", 0.5),
    write_p99_us: percentiles("write", 0.99),
    media_mib_s: media * MIB_OF_BLOCK / seconds,
    gc_mib_s: moved * MIB_OF_BLOCK / seconds,
    write_amplification: written ? media / written : null,
    throttled: Math.min(1, grown("throttled_ms") / 1000 / seconds),
  };
}

// With one more bucket for what lies above all bounds.
function buckets(stats, way) {
  const latency = stats.latency && stats.latency[way];
  return latency ? [...latency.buckets, [null, latency.count]] : [];
}

// A bound of null has no limit.
export function percentile(before, after, part) {
  const earlier = new Map(before);
  const grown = after.map(([bound, n]) => [bound, n - (earlier.get(bound) || 0)]);
  const total = grown.length ? grown[grown.length - 1][1] : 0;
  if (total <= 0) return null;
  const wanted = part * total;
  let lower = 0, counted = 0;
  for (const [bound, n] of grown) {
    if (bound === null) return lower;
    if (n >= wanted && n > counted) return lower + (bound - lower) * (wanted - counted) / (n - counted);
    lower = bound;
    counted = Math.max(counted, n);
  }
  return lower;
}
