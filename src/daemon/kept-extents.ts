/**
 * Which extents of a volume's table are still its own by its next one.
 *
 * Invariant: pure. An extent counts as kept only at the same place of the volume: whoever goes on with the older table reads and writes
 * what the newer one would, as far as the older one goes.
 */
import type { SnapshotOriginParams } from '../dm/snapshot/params.ts';
import type { Table } from '../dm/table.ts';
import { deviceKey, type VolumeSpec } from './worker/host.ts';

type Placed = Pick<VolumeSpec, 'table' | 'devices'>;

/** Whether a volume has the same extents by its new table as by its old one: it became an origin, or has other snapshots. */
export function keepsExtents(before: Pick<Placed, 'table'>, after: Pick<Placed, 'table'>): boolean {
  return JSON.stringify(ownLines(before.table)) === JSON.stringify(ownLines(after.table));
}

/** Whether its next table, too, is over these extents of the devices that it has. */
export function keepsDevices(before: Placed, after: Placed): boolean {
  return keepsExtents(before, after) && JSON.stringify(keysOf(before)) === JSON.stringify(keysOf(after));
}

/** Whether every extent of the old table, on devices that have not come anew, is in the new one: that is the same, or longer. */
export function keepsAll(before: Placed, after: Placed): boolean {
  const keys = new Set(keysOf(after));
  return keysOf(before).every((key) => keys.has(key)) && goesOn(ownLines(before.table), ownLines(after.table));
}

function keysOf({ devices }: Placed): readonly string[] {
  return devices.map(deviceKey);
}

function ownLines(table: Table): Table {
  const [line] = table;
  if (line?.target !== 'snapshot-origin') return table;
  const { origin } = line.params as SnapshotOriginParams;
  return typeof origin === 'string' ? table : origin.table;
}

function goesOn(before: Table, after: Table): boolean {
  return before.every(({ start, length, target, params }, i) => {
    const next = after[i];
    if (next?.target !== target || next.start !== start || !hasWithin(params, next.params)) return false;
    return next.length === length || (next.length > length && i === before.length - 1);
  });
}

/** Whether the parameters are the same, but for layers that are longer. */
function hasWithin(before: unknown, after: unknown): boolean {
  if (!isObject(before) || !isObject(after)) return before === after;
  if ('table' in before && 'table' in after) return goesOn(before['table'] as Table, after['table'] as Table);
  const fields = new Set([...Object.keys(before), ...Object.keys(after)]);
  return [...fields].every((field) => hasWithin(before[field], after[field]));
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}
