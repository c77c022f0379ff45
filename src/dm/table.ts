/**
 * A device-mapper table as plain data: what lvm/ computes, what travels to a worker process, what `dm/` loads.
 *
 * Invariants
 *  - Lines are sorted, start at sector 0 and tile [0, size) without gap or overlap; starts and lengths are 512-byte sectors.
 *  - A table is JSON: no functions, no handles. Devices are named by a string that the loader resolves, or are layers.
 *  - A layer is a hidden volume of its own under one line, as a hidden LV is under a visible one: it belongs to that line alone, and
 *    lives as long as the table. What several volumes share (a pool, an origin with state) is a volume that is named by a string.
 */

/** One target of a table: `<start> <length> <target> <params>` as `dmsetup table` would print it. */
export interface TableLine {
  readonly start: number;
  readonly length: number;
  /** The target type's name in device-mapper: "linear", "striped", "error", "zero", … */
  readonly target: string;
  /** The target's parameters; each target type checks its own. */
  readonly params: unknown;
}
export type Table = readonly TableLine[];

/** A volume that exists only as a device of the table that it stands in. */
export interface Layer {
  /** Whose bytes these are, as "VG/LV"; for status, messages and errors. */
  readonly name: string;
  readonly table: Table;
}

/** A device's name, resolved at load, or a layer. */
export type DeviceRef = string | Layer;

export interface LinearParams {
  readonly device: DeviceRef;
  /** Sectors. */
  readonly offset: number;
}

export interface StripedParams {
  /** Sectors per chunk. */
  readonly chunkSize: number;
  readonly stripes: readonly LinearParams[];
}

export interface MirrorParams {
  /** `core`: which regions are in sync is kept in memory only, so each activation begins with a resynchronisation. */
  readonly log: {
    readonly type: 'core';
    /** Sectors: a power of two, no larger than the line. */
    readonly regionSize: number;
    /** nosync: all regions count as in sync from the start; sync: none does, which is also the default. */
    readonly sync?: 'sync' | 'nosync';
  };
  /** At least two; the first is the primary, which the others are copied from. */
  readonly mirrors: readonly LinearParams[];
  readonly features?: readonly 'handle_errors'[];
}
