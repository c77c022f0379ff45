/**
 * The daemon's numbers as Prometheus text (exposition format 0.0.4).
 *
 * Invariants
 *  - Every metric is in METRICS with its type and help, and docs/metrics.md has the same list (a test compares them).
 *  - Names carry their unit; base units are bytes and seconds; counters end in _total.
 *  - Samples of one metric stand together, after its HELP and TYPE. An operation that was never asked of a volume or device has no
 *    samples, so that thousands of idle volumes stay small.
 */
import type { CacheSnapshot } from '../dm/io.ts';
import { type IoSnapshot, OP_NAMES } from '../dm/io-stats.ts';
import { allOps, bucketEnd, type Numbers, type SnapshotNumbers } from './stats.ts';

type MetricType = 'counter' | 'gauge' | 'histogram';

/** By name, in the order in which they are written. */
export const METRICS: ReadonlyMap<string, readonly [MetricType, string]> = new Map<
  string,
  readonly [MetricType, string]
>([
  ['orion_lvm_build_info', ['gauge', 'Always 1; the version is a label.']],
  ['orion_lvm_start_time_seconds', ['gauge', 'When the daemon started, in seconds since 1970.']],
  ['orion_lvm_connections', ['gauge', 'NBD clients connected, negotiating or served.']],
  ['orion_lvm_alerts_total', ['counter', 'Alerts raised since the start.']],
  ['orion_lvm_process_cpu_seconds_total', ['counter', 'CPU time of the supervisor and of each worker.']],
  ['orion_lvm_process_resident_memory_bytes', ['gauge', 'Memory of the supervisor and of each worker.']],
  ['orion_lvm_worker_restarts_total', ['counter', 'How often a worker was started again after it had died.']],
  ['orion_lvm_worker_connections', ['gauge', 'NBD clients that a worker serves.']],
  ['orion_lvm_vg_size_bytes', ['gauge', 'Size of a volume group: all its extents.']],
  ['orion_lvm_vg_free_bytes', ['gauge', 'Extents of a volume group that nothing is allocated on.']],
  ['orion_lvm_vg_seqno', ['gauge', 'Sequence number of the metadata.']],
  ['orion_lvm_vg_missing_pvs', ['gauge', 'Physical volumes of a volume group that are missing.']],
  ['orion_lvm_vg_stale_metadata_copies', ['gauge', 'Copies of the metadata that are stale or unreadable.']],
  ['orion_lvm_lv_size_bytes', ['gauge', 'Size of a served logical volume.']],
  ['orion_lvm_lv_clients', ['gauge', 'NBD clients of a logical volume.']],
  ['orion_lvm_lv_in_flight', ['gauge', 'Requests of a logical volume that have not ended.']],
  ['orion_lvm_lv_bytes_total', ['counter', 'Bytes of requests of a logical volume that succeeded.']],
  ['orion_lvm_lv_errors_total', ['counter', 'Requests of a logical volume that failed.']],
  [
    'orion_lvm_lv_queue_seconds_total',
    ['counter', 'Time that requests spent in flight, all added up; its rate is the mean depth of the queue.'],
  ],
  [
    'orion_lvm_lv_latency_seconds',
    ['histogram', 'How long requests of a logical volume took, waiting for a suspend included.'],
  ],
  ['orion_lvm_snapshot_valid', ['gauge', '1 if a COW snapshot is one, 0 if it has become invalid.']],
  ['orion_lvm_snapshot_size_bytes', ['gauge', 'Size of the COW store of a snapshot.']],
  ['orion_lvm_snapshot_used_bytes', ['gauge', 'What of the COW store of a snapshot is used, its records included.']],
  ['orion_lvm_snapshot_exceptions', ['gauge', 'Chunks of a snapshot that are in its COW store.']],
  ['orion_lvm_snapshot_exception_memory_bytes', ['gauge', 'Memory that the table of these chunks takes.']],
  ['orion_lvm_snapshot_copied_chunks_total', ['counter', 'Chunks copied for a snapshot before the origin changed.']],
  ['orion_lvm_snapshot_copied_bytes_total', ['counter', 'The same in bytes.']],
  ['orion_lvm_snapshot_fill_bytes_per_second', ['gauge', 'How fast the COW store fills up, mean of some minutes.']],
  [
    'orion_lvm_snapshot_full_in_seconds',
    ['gauge', 'When the COW store is full at this rate; +Inf: it is not filling.'],
  ],
  ['orion_lvm_device_size_bytes', ['gauge', 'Size of a device.']],
  ['orion_lvm_device_up', ['gauge', '1 if the device is open, 0 if it is not.']],
  ['orion_lvm_device_in_flight', ['gauge', 'Requests to a device that have not ended.']],
  ['orion_lvm_device_bytes_total', ['counter', 'Bytes of requests to a device that succeeded.']],
  ['orion_lvm_device_errors_total', ['counter', 'Requests to a device that failed.']],
  [
    'orion_lvm_device_queue_seconds_total',
    ['counter', 'Time that requests spent in flight, all added up; its rate is the mean depth of the queue.'],
  ],
  ['orion_lvm_device_latency_seconds', ['histogram', 'How long requests to a device took.']],
  ['orion_lvm_device_cache_hits_total', ['counter', 'Reads of a device that its block cache answered.']],
  ['orion_lvm_device_cache_misses_total', ['counter', 'Reads of a device of which its block cache missed a part.']],
  [
    'orion_lvm_device_cache_read_ahead_bytes_total',
    ['counter', 'Bytes read ahead that were asked for later (used), or left the cache without (wasted).'],
  ],
  ['orion_lvm_device_cache_evictions_total', ['counter', 'Blocks of a device that made room for others.']],
  ['orion_lvm_device_cache_bytes', ['gauge', 'Bytes of a device in the block caches of all workers.']],
  ['orion_lvm_device_cache_dirty_bytes', ['gauge', 'Bytes in block caches that the device does not have yet.']],
  ['orion_lvm_device_cache_write_back_requests_total', ['counter', 'Writes by which dirty blocks were written back.']],
  ['orion_lvm_device_cache_write_back_bytes_total', ['counter', 'Bytes of dirty blocks that were written back.']],
  [
    'orion_lvm_device_cache_write_back_errors_total',
    ['counter', 'Writes of dirty blocks that the device refused; the blocks stay dirty.'],
  ],
]);

type Labels = Readonly<Record<string, string>>;

/** The text of one scrape. */
export function prometheusText(numbers: Numbers): string {
  const writer = new Writer();
  daemonMetrics(writer, numbers);
  for (const { name, ...group } of numbers.groups) {
    const labels = { vg: name };
    writer.sample('orion_lvm_vg_size_bytes', labels, group.extents * group.extentBytes);
    writer.sample('orion_lvm_vg_free_bytes', labels, group.freeExtents * group.extentBytes);
    writer.sample('orion_lvm_vg_seqno', labels, group.seqno);
    writer.sample('orion_lvm_vg_missing_pvs', labels, group.missingPhysicalVolumes);
    writer.sample('orion_lvm_vg_stale_metadata_copies', labels, group.staleCopies);
  }
  for (const volume of numbers.volumes) {
    const [vg = '', lv = ''] = volume.name.split('/', 2);
    writer.sample('orion_lvm_lv_size_bytes', { vg, lv }, volume.sizeBytes);
    writer.sample('orion_lvm_lv_clients', { vg, lv }, volume.clients);
    if (volume.io !== null) ioMetrics(writer, 'lv', { vg, lv }, volume.io);
  }
  for (const snapshot of numbers.snapshots) snapshotMetrics(writer, snapshot);
  for (const { path, sizeBytes, up, io, cache } of numbers.devices) {
    writer.sample('orion_lvm_device_size_bytes', { device: path }, sizeBytes);
    writer.sample('orion_lvm_device_up', { device: path }, up ? 1 : 0);
    if (io !== null) ioMetrics(writer, 'device', { device: path }, io);
    if (cache !== undefined) cacheMetrics(writer, { device: path }, cache);
  }
  return writer.text();
}

function daemonMetrics(writer: Writer, numbers: Numbers): void {
  writer.sample('orion_lvm_build_info', { version: numbers.version }, 1);
  writer.sample('orion_lvm_start_time_seconds', {}, numbers.startedAt / 1000);
  writer.sample('orion_lvm_connections', {}, numbers.connections);
  for (const [kind, count] of Object.entries(numbers.alerts)) writer.sample('orion_lvm_alerts_total', { kind }, count);
  const processes = [
    { ...numbers.supervisor, process: 'supervisor' },
    ...numbers.workers.map((worker) => ({ ...worker, process: `worker${worker.index}` })),
  ];
  for (const { process, cpuUserMs, cpuSystemMs, residentBytes } of processes) {
    writer.sample('orion_lvm_process_cpu_seconds_total', { process, mode: 'user' }, cpuUserMs / 1000);
    writer.sample('orion_lvm_process_cpu_seconds_total', { process, mode: 'system' }, cpuSystemMs / 1000);
    writer.sample('orion_lvm_process_resident_memory_bytes', { process }, residentBytes);
  }
  for (const { index, restarts, connections } of numbers.workers) {
    writer.sample('orion_lvm_worker_restarts_total', { process: `worker${index}` }, restarts);
    writer.sample('orion_lvm_worker_connections', { process: `worker${index}` }, connections);
  }
}

function snapshotMetrics(writer: Writer, { name, ...store }: SnapshotNumbers): void {
  const [vg = '', lv = ''] = name.split('/', 2);
  const labels = { vg, lv };
  writer.sample('orion_lvm_snapshot_valid', labels, store.valid ? 1 : 0);
  writer.sample('orion_lvm_snapshot_size_bytes', labels, store.totalBytes);
  writer.sample('orion_lvm_snapshot_used_bytes', labels, store.usedBytes);
  writer.sample('orion_lvm_snapshot_exceptions', labels, store.exceptions);
  writer.sample('orion_lvm_snapshot_exception_memory_bytes', labels, store.exceptionBytes);
  writer.sample('orion_lvm_snapshot_copied_chunks_total', labels, store.copiedChunks);
  writer.sample('orion_lvm_snapshot_copied_bytes_total', labels, store.copiedBytes);
  writer.sample('orion_lvm_snapshot_fill_bytes_per_second', labels, store.bytesPerSecond);
  writer.sample('orion_lvm_snapshot_full_in_seconds', labels, store.secondsToFull ?? Infinity);
}

function ioMetrics(writer: Writer, of: 'lv' | 'device', labels: Labels, io: IoSnapshot): void {
  writer.sample(`orion_lvm_${of}_in_flight`, labels, io.inFlight);
  writer.sample(`orion_lvm_${of}_queue_seconds_total`, labels, allOps(io).milliseconds / 1000);
  for (const op of OP_NAMES) {
    const { ended, bytes, failed, milliseconds, latency } = io.ops[op];
    if (ended === 0) continue;
    const own = { ...labels, op };
    if (op !== 'flush') writer.sample(`orion_lvm_${of}_bytes_total`, own, bytes);
    writer.sample(`orion_lvm_${of}_errors_total`, own, failed);
    writer.histogram(`orion_lvm_${of}_latency_seconds`, own, latency, milliseconds / 1000);
  }
}

function cacheMetrics(writer: Writer, labels: Labels, cache: CacheSnapshot): void {
  const name = 'orion_lvm_device_cache';
  writer.sample(`${name}_hits_total`, labels, cache.hits);
  writer.sample(`${name}_misses_total`, labels, cache.misses);
  writer.sample(`${name}_read_ahead_bytes_total`, { ...labels, use: 'used' }, cache.readAheadUsedBytes);
  writer.sample(`${name}_read_ahead_bytes_total`, { ...labels, use: 'wasted' }, cache.readAheadWastedBytes);
  writer.sample(`${name}_evictions_total`, labels, cache.evictions);
  writer.sample(`${name}_bytes`, labels, cache.cachedBytes);
  writer.sample(`${name}_dirty_bytes`, labels, cache.dirtyBytes);
  writer.sample(`${name}_write_back_requests_total`, labels, cache.writeBackBatches);
  writer.sample(`${name}_write_back_bytes_total`, labels, cache.writeBackBytes);
  writer.sample(`${name}_write_back_errors_total`, labels, cache.writeBackErrors);
}

class Writer {
  readonly #samples = new Map<string, string[]>();

  sample(name: string, labels: Labels, value: number): void {
    this.#line(name, `${name}${labelText(labels)} ${value === Infinity ? '+Inf' : value}`);
  }

  histogram(name: string, labels: Labels, counts: readonly number[], sum: number): void {
    let below = 0;
    for (const [bucket, count] of counts.entries()) {
      below += count;
      const le = bucketEnd(bucket);
      const text = le === Infinity ? '+Inf' : String(le);
      this.#line(name, `${name}_bucket${labelText({ ...labels, le: text })} ${below}`);
    }
    this.#line(name, `${name}_sum${labelText(labels)} ${sum}`);
    this.#line(name, `${name}_count${labelText(labels)} ${below}`);
  }

  #line(name: string, line: string): void {
    const lines = this.#samples.get(name);
    if (lines === undefined) this.#samples.set(name, [line]);
    else lines.push(line);
  }

  text(): string {
    return [...METRICS]
      .flatMap(([name, [type, help]]) => {
        const lines = this.#samples.get(name);
        return lines === undefined ? [] : [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...lines];
      })
      .join('\n')
      .concat('\n');
  }
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`);
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

function escaped(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}
