/**
 * A device-mapper table as plain data: what lvm/ computes, what travels to a worker process, what `dm/` loads.
 *
 * Invariants
 *  - Lines are sorted, start at sector 0 and tile [0, size) without gap or overlap; starts and lengths are 512-byte sectors.
 *  - A table is JSON: no functions, no handles. Devices are named by a string that the loader resolves.
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

export interface LinearParams {
  /** A device's name, resolved at load. */
  readonly device: string;
  /** Sectors. */
  readonly offset: number;
}

export interface StripedParams {
  /** Sectors per chunk. */
  readonly chunkSize: number;
  readonly stripes: readonly LinearParams[];
}
