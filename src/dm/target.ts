/**
 * The target interface: what a folder of dm/ offers to be usable in tables. A target type checks parameters and makes
 * targets; a target says how its range maps, in one of two forms.
 *
 *  - The map form is data: legs on devices (one, or several in chunks), zeros, or errors. The volume resolves it itself,
 *    straight to device ranges, without asking the target per request (dm/flat-map.ts).
 *  - The submit form is an object that takes requests of its own range, offsets counted from the target's start, under the
 *    rules of block/request.ts, and completes each once, never inside `submit`. Stateful targets use it.
 *
 * Invariants
 *  - A target does nothing before its first `resume` (but for `prepare`, where nothing is replaced): only then has the table that it replaces been suspended, so only then
 *    may it read what that one left on disk. A target that was never resumed is dropped without `close`.
 *  - `suspend` is called when none of the target's requests is in flight; when it has settled, the target does no I/O until
 *    `resume` or `close`.
 *  - Nothing outside dm/targets.ts knows the name of a target type.
 */
import type { BlockDevice } from '../block/device.ts';
import type { ExtentList, StatusSource } from '../block/extents.ts';
import type { IoRequest } from '../block/request.ts';
import type { TablePlace } from './errors.ts';
import type { FlatMap } from './flat-map.ts';
import type { DeviceRef } from './table.ts';

/** Bytes per sector: the unit of tables. */
export const SECTOR_BYTES = 512;

/**
 * The errno by which a target gives a request back undone, to be done again through the table that is live after the suspend.
 * Only from `presuspend` on until `resume`.
 */
export const REQUEUE = -1;

/**
 * Where pieces of requests go: a block device or a target of the submit form. Without `blockStatus` (offsets as those of requests) all of it
 * counts as data.
 */
export interface RequestSink extends StatusSource {
  submit(request: IoRequest): void;
  /** As BlockDevice.zeroRun. */
  zeroRun?(offset: number, length: number): number;
  /** As BlockDevice.zeroesFast. */
  zeroesFast?(offset: number, length: number, flags: number): boolean;
}

/** A range of a device that holds (its chunks of) the target's bytes. */
export interface Leg {
  readonly device: BlockDevice;
  /** Bytes. */
  readonly offset: number;
}

/**
 * What lets requests go past a target, to where the layer below it would send them: a target that is the whole table, and that only
 * sometimes has something to do. Their offsets are the layer's.
 */
export interface Gate {
  /** Whether this request, a whole one, would be passed on to the layer as it is, now. */
  passes(request: IoRequest): boolean;
  /** The layer's live map; null: what is below is no layer. */
  layerMap(): FlatMap | null;
}

export type Mapping =
  | {
      readonly kind: 'legs';
      /** Bytes that go to one leg before the next one's turn; 0 with a single leg: no borders. */
      readonly chunkBytes: number;
      readonly legs: readonly Leg[];
    }
  | { readonly kind: 'zero' }
  | { readonly kind: 'error' }
  | {
      readonly kind: 'submit';
      readonly sink: RequestSink;
      /** Reads and writes are split at multiples of this many bytes; 0: never. Discards and zeroes come as whole ranges. */
      readonly splitBytes: number;
      /** False: the volume offers no discards, whatever its devices do. */
      readonly discards?: false;
      /** Says which requests may go past the sink. */
      readonly gate?: Gate;
    };

/** What one line of a table says about itself. */
export interface TargetStatus {
  /** As `dmsetup status` prints it after the target's name; '' when there is nothing to say. */
  readonly text: string;
  /** The same for programs: plain JSON data. */
  readonly details: Readonly<Record<string, unknown>>;
}

/** Bytes, counted from the target's start. */
export interface StatusRange {
  readonly offset: number;
  readonly end: number;
}

export interface Target {
  readonly mapping: Mapping;
  /** The parameters as `dmsetup table` prints them, devices by name. */
  tableText(): string;
  /** `legErrors(i)` counts the failed requests of leg i since the table went live. */
  status(legErrors: (leg: number) => number): TargetStatus;
  /** A suspend has begun: requests that the target keeps until somebody reacts must end, if need be with REQUEUE. */
  presuspend?(): void;
  /** Makes the target's own state durable and quiet. A `resume` before it has settled takes it back. */
  suspend?(): Promise<void>;
  /**
   * Before the first `resume` of the first table of a volume that is made now: nothing that is live uses what the table names, so what
   * takes time may be done already. Its layers are live. What fails is left to `resume`.
   */
  prepare?(): Promise<void>;
  /** The table went live, or live again; or the suspend that `presuspend` told of was given up. */
  resume?(): void;
  /** Lets go of what the target holds; follows a `suspend`. */
  close?(): void;
  /**
   * Adds which bytes of a range may differ (flag 1) from what the snapshot with that id has, as far as there is room and it is known.
   * Gives 0, or an errno: ENOENT, no such snapshot of the same origin; EIO, it is invalid. Absent: there are no snapshots.
   */
  changes?(since: string, range: StatusRange, extents: ExtentList): Promise<number>;
  /** `dmsetup message`: does what the words say, or rejects. */
  message?(words: readonly string[]): Promise<string>;
}

/** What a target may use while it is made. */
export interface TargetContext {
  readonly place: TablePlace;
  /** Sectors. */
  readonly length: number;
  /**
   * The device of that name, or the layer, taking any byte range, after the check that `length` sectors from `offset` are inside
   * it. `field` is where the parameters name it. Throws TableError: NO_DEVICE, DEVICE_TOO_SMALL, RECURSION, or a layer's own.
   */
  device(ref: DeviceRef, field: string, offset: number, length: number): BlockDevice;
  /** The same for what is only read: its bytes are another table's, and whether they are flushed, or given up, is for that one to say. */
  readDevice(ref: DeviceRef, field: string, offset: number, length: number): BlockDevice;
}

export interface TargetType<P = unknown> {
  /** The name in tables: device-mapper's. */
  readonly name: string;
  /** As `dmsetup targets` prints it: the level of the kernel's target that this one is like. */
  readonly version: string;
  /** Checks shape and values; throws TableError naming the field. */
  parse(params: unknown, place: TablePlace): P;
  /** Makes a target of checked parameters; throws TableError. */
  create(params: P, context: TargetContext): Target;
}

export type TargetRegistry = ReadonlyMap<string, TargetType>;

/** The registry of these types. */
export function targetRegistry(types: readonly TargetType[]): TargetRegistry {
  return new Map(types.map((type) => [type.name, type]));
}

/** A device by name. */
export function deviceName(ref: DeviceRef): string {
  return typeof ref === 'string' ? ref : ref.name;
}

/** A device as one word of a table line. */
export function deviceWord(ref: DeviceRef): string {
  return tableWord(deviceName(ref));
}

/** A name as one word of a table line: what would end or confuse the word is written as dmsetup mangles it, `\xNN`. */
export function tableWord(name: string): string {
  return name.replace(/[\s\\]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
