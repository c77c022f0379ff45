/**
 * One picture of `top`: what happened between two readings of the daemon's numbers, as lines. Pure.
 *
 * Invariant: the busiest stand first; what did nothing is shown only where there is room for it.
 */
import { allOps, failures, ioSince, type Numbers, quantile } from '../../observe/stats.ts';
import { snapshotTable } from '../snapshot-table.ts';
import { shortBytes, shortDuration, shortTime, type TextColumn, textTable } from '../text-table.ts';

type IoOf = Numbers['volumes'][number]['io'];

export interface ShotSize {
  readonly columns: number;
  /** Lines; Infinity: as many as there are. */
  readonly rows: number;
}

const COLUMNS: readonly TextColumn[] = [
  { heading: 'Read/s', right: true },
  { heading: 'Write/s', right: true },
  { heading: 'RdB/s', right: true },
  { heading: 'WrB/s', right: true },
  { heading: 'Flush/s', right: true },
  { heading: 'Avg', right: true },
  { heading: 'p50', right: true },
  { heading: 'p99', right: true },
  { heading: 'In flight', right: true },
  { heading: 'Depth', right: true },
  { heading: 'Errors', right: true },
];

/** The lines of a picture, cut to `size`. */
export function topShot(before: Numbers, after: Numbers, size: ShotSize): string[] {
  const seconds = Math.max((after.time - before.time) / 1000, 0.001);
  const header = headerLines(before, after, seconds);
  const volumes = table('Volume', before.volumes, after.volumes, ({ name }) => name, seconds);
  const devices = table('Device', before.devices, after.devices, ({ path }) => path, seconds);
  // Devices get what volumes leave, and at least a third; snapshots what both leave.
  const room = Math.max(size.rows - header.length - 2, 4);
  const forDevices = Math.min(devices.length, Math.max(Math.floor(room / 3), room - volumes.length));
  const forVolumes = Math.min(volumes.length, room - forDevices);
  const lines = [...header, '', ...volumes.slice(0, forVolumes), '', ...devices.slice(0, forDevices)];
  const left = size.rows - lines.length - 1;
  if (left > 1 && after.snapshots.length > 0) lines.push('', ...snapshotTable(after.snapshots).slice(0, left));
  return lines.slice(0, size.rows).map((line) => line.slice(0, size.columns));
}

function headerLines(before: Numbers, after: Numbers, seconds: number): string[] {
  const processes = [
    { name: 'supervisor', now: after.supervisor, earlier: before.supervisor },
    ...after.workers.map((now) => {
      const earlier = before.workers.find(({ index, pid }) => index === now.index && pid === now.pid);
      return { name: `worker ${now.index}`, now, earlier: earlier ?? now };
    }),
  ];
  const usage = processes.map(({ name, now, earlier }) => {
    const cpu = now.cpuUserMs + now.cpuSystemMs - earlier.cpuUserMs - earlier.cpuSystemMs;
    return `${name} ${Math.max(0, cpu / seconds / 10).toFixed(0)}% ${shortBytes(now.residentBytes)}`;
  });
  const up = shortDuration(after.time - after.startedAt);
  return [
    `orion-lvmd ${after.version}, up ${up}, ${after.connections} connections, ${after.volumes.length} volumes served`,
    `CPU and memory: ${usage.join(', ')}`,
  ];
}

function table<T extends { readonly io: IoOf }>(
  heading: string,
  before: readonly T[],
  after: readonly T[],
  nameOf: (row: T) => string,
  seconds: number,
): string[] {
  const known = new Map(before.map((row) => [nameOf(row), row.io]));
  const rows = after.map((row) => rowOf(nameOf(row), known.get(nameOf(row)) ?? null, row.io, seconds));
  rows.sort((a, b) => b.weight - a.weight || (a.cells[0] ?? '').localeCompare(b.cells[0] ?? ''));
  return textTable(
    [{ heading }, ...COLUMNS],
    rows.map(({ cells }) => cells),
  );
}

function rowOf(name: string, before: IoOf, after: IoOf, seconds: number): { cells: string[]; weight: number } {
  if (after === null) return { cells: [name], weight: 0 };
  const since = ioSince(before, after);
  const { ops, inFlight } = since;
  const { ended, milliseconds, latency } = allOps(since);
  const perSecond = (count: number): string => (count / seconds).toFixed(0);
  const times =
    ended === 0 ? ['', '', ''] : [milliseconds / ended, quantile(latency, 0.5), quantile(latency, 0.99)].map(shortTime);
  const cells = [
    name,
    perSecond(ops.read.ended),
    perSecond(ops.write.ended + ops.write_zeroes.ended + ops.discard.ended),
    shortBytes(ops.read.bytes / seconds),
    shortBytes((ops.write.bytes + ops.write_zeroes.bytes) / seconds),
    perSecond(ops.flush.ended),
    ...times,
    String(inFlight),
    ended === 0 ? '' : (milliseconds / 1000 / seconds).toFixed(1),
    String(failures(after)),
  ];
  return { cells, weight: ended };
}
