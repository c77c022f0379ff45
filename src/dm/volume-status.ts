/**
 * What a volume says about itself, as data and as `dmsetup status` prints it.
 *
 * Invariants
 *  - It is plain data: JSON keeps all of it, and nothing in it changes afterwards.
 *  - Lines stand in the order of the live table; a line's layers are in it, each with its own lines.
 */
import type { BlockDevice } from '../block/device.ts';
import type { LoadedTable } from './load.ts';
import type { TargetStatus } from './target.ts';

export type VolumeState = 'empty' | 'active' | 'suspending' | 'suspended' | 'closed';

/** The status of one line of the live table. */
export interface LineStatus extends TargetStatus {
  /** Sectors. */
  readonly start: number;
  readonly length: number;
  readonly target: string;
  /** The volumes under this line that belong to it. */
  readonly layers: readonly VolumeStatus[];
}

export interface VolumeStatus {
  readonly name: string;
  readonly state: VolumeState;
  readonly readOnly: boolean;
  readonly sizeBytes: number;
  readonly hasInactiveTable: boolean;
  /** Requests being served, and requests that wait for `resume`. */
  readonly inFlight: number;
  readonly waiting: number;
  readonly lines: readonly LineStatus[];
}

/** A volume that is a layer of a table. */
interface LayerVolume extends BlockDevice {
  dependencies(): Iterable<BlockDevice>;
  status(): VolumeStatus;
}

/** The lines of a live table, asked of its targets now. */
export function lineStatuses({ lines, map }: LoadedTable<LayerVolume>): readonly LineStatus[] {
  return lines.map(({ start, length, type, target, firstLeg, layers }) => {
    const { text, details } = target.status((leg) => map.errors[firstLeg + leg] ?? 0);
    return { start, length, target: type, text, details, layers: layers.map((layer) => layer.status()) };
  });
}

/** One line per target: `<start> <length> <target> <status>`. */
export function statusText({ lines }: VolumeStatus): string {
  return lines.map(({ start, length, target, text }) => `${start} ${length} ${target} ${text}\n`).join('');
}
