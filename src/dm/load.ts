/**
 * Loading a table: plain data in, checked, its targets made, its map flattened. Control plane; no I/O happens here.
 *
 * Invariants
 *  - A table is loaded as a whole or refused as a whole, with a TableError that names line and field.
 *  - Lines tile [0, size) in order; every device range is inside its device; no volume is part of itself.
 *  - What a loaded table holds never changes; a changed volume is another table.
 */
import type { BlockDevice, DeviceLimits } from '../block/device.ts';
import { TableError, type TablePlace } from './errors.ts';
import { compileMap, type FlatMap } from './flat-map.ts';
import { measured } from './measured-device.ts';
import { badField, integerField, MAX_SECTORS } from './params.ts';
import type { Layer, Table, TableLine } from './table.ts';
import { SECTOR_BYTES, type Target, type TargetContext, type TargetRegistry } from './target.ts';

/** A device made of others: what keeps a volume from becoming part of itself. */
interface StackedDevice extends BlockDevice {
  dependencies(): Iterable<BlockDevice>;
}

export interface LoadedLine<L extends StackedDevice> {
  /** Sectors. */
  readonly start: number;
  readonly length: number;
  /** The target type's name. */
  readonly type: string;
  readonly target: Target;
  /** Where the line's legs are counted from in `map.errors`. */
  readonly firstLeg: number;
  readonly layers: readonly L[];
}

export interface LoadedTable<L extends StackedDevice> {
  readonly table: Table;
  readonly lines: readonly LoadedLine<L>[];
  readonly map: FlatMap;
  readonly limits: DeviceLimits;
  /** The devices as the resolver gave them, those of layers too, each once. */
  readonly devices: ReadonlySet<BlockDevice>;
  readonly layers: readonly L[];
  /** What the table maps of devices itself, without its layers. */
  readonly ranges: readonly DeviceRange[];
  /** It is a layer that is only read, so it has nothing to flush. */
  readonly onlyRead: boolean;
}

/** Bytes of a device that a table maps. */
export interface DeviceRange {
  readonly device: BlockDevice;
  readonly offset: number;
  readonly length: number;
  /** What was written there is another table's, which may be live. */
  readonly onlyRead: boolean;
}

export interface LoadOptions<L extends StackedDevice> {
  readonly volume: BlockDevice;
  /** What the volume is a layer of, or the volume itself: the table must not lead back to it. */
  readonly root: BlockDevice;
  readonly targets: TargetRegistry;
  /** The device of that name; throws when there is none. */
  readonly resolve: (deviceName: string) => BlockDevice;
  /** Makes a layer with its table loaded and not live yet; `sizeBytes` is that table's. Throws TableError. */
  readonly makeLayer: (
    layer: Layer,
    place: TablePlace,
    onlyRead: boolean,
  ) => { readonly volume: L; readonly sizeBytes: number };
  readonly readOnly: boolean;
  /** As in LoadedTable. */
  readonly onlyRead: boolean;
}

/** Checks and makes everything of a table; throws TableError. */
export function loadTable<L extends StackedDevice>(table: Table, options: LoadOptions<L>): LoadedTable<L> {
  checkTiling(table, options.volume.name);
  const devices = new Set<BlockDevice>();
  const ranges: DeviceRange[] = [];
  const made = table.map((line, i) => makeTarget(line, i, options, { devices, ranges }));
  const { map, firstLegs } = compileMap(
    table.map((line, i) => ({
      start: line.start * SECTOR_BYTES,
      length: line.length * SECTOR_BYTES,
      mapping: made[i]!.target.mapping,
    })),
  );
  const lines = table.map((line, i): LoadedLine<L> => {
    const { start, length, target: type } = line;
    return { start, length, type, ...made[i]!, firstLeg: firstLegs[i]! };
  });
  const layers = lines.flatMap((line) => line.layers);
  const limits = volumeLimits(map.sizeBytes, devices, options.readOnly);
  const refused = lines.some(({ target: { mapping } }) => mapping.kind === 'submit' && mapping.discards === false);
  const offered = refused ? { ...limits, canDiscard: false, discardGranularity: 0 } : limits;
  return { table, lines, map, limits: offered, devices, layers, ranges, onlyRead: options.onlyRead };
}

function checkTiling(table: unknown, volume: string): void {
  const whole: TablePlace = { volume, line: 0, target: '' };
  if (!Array.isArray(table)) throw badField(whole, 'table', 'a list of lines', table);
  if (table.length === 0) throw new TableError('EMPTY_TABLE', whole, '', 'a table has at least one line');
  let end = 0;
  table.forEach((line: unknown, i) => {
    const place: TablePlace = { volume, line: i + 1, target: '' };
    if (typeof line !== 'object' || line === null) {
      throw new TableError('BAD_LINE', place, '', 'expected an object with start, length, target and params');
    }
    const fields = line as Partial<Record<keyof TableLine, unknown>>;
    const start = integerField(fields.start, place, 'start', 0, MAX_SECTORS);
    const length = integerField(fields.length, place, 'length', 1, MAX_SECTORS);
    if (typeof fields.target !== 'string') throw badField(place, 'target', "a target type's name", fields.target);
    if (start !== end) {
      const detail = `the line starts at sector ${start}, the one before ends at ${end}`;
      throw new TableError(start > end ? 'GAP' : 'OVERLAP', place, 'start', detail);
    }
    end += length;
    if (end > MAX_SECTORS) {
      throw new TableError('TOO_LARGE', place, 'length', `the table ends at sector ${end}, past ${MAX_SECTORS}`);
    }
  });
}

function makeTarget<L extends StackedDevice>(
  line: TableLine,
  index: number,
  options: LoadOptions<L>,
  uses: { readonly devices: Set<BlockDevice>; readonly ranges: DeviceRange[] },
): { readonly target: Target; readonly layers: readonly L[] } {
  const place: TablePlace = { volume: options.volume.name, line: index + 1, target: line.target };
  const type = options.targets.get(line.target);
  if (type === undefined) {
    const known = [...options.targets.keys()].join(', ');
    throw new TableError('UNKNOWN_TARGET', place, 'target', `"${line.target}" is none of ${known}`);
  }
  const layers: L[] = [];
  const take = (
    onlyRead: boolean,
    ...[ref, field, offset, length]: Parameters<TargetContext['device']>
  ): BlockDevice => {
    if (typeof ref !== 'string') {
      const { volume, sizeBytes } = options.makeLayer(ref, { ...place, target: line.target }, onlyRead);
      checkRange(ref.name, sizeBytes, { offset, length }, place, field);
      for (const below of volume.dependencies()) uses.devices.add(below);
      layers.push(volume);
      return volume;
    }
    const found = resolveDevice(ref, field, place, options);
    checkRange(ref, found.limits.sizeBytes, { offset, length }, place, field);
    uses.devices.add(found);
    uses.ranges.push({ ...rangeOf(found, offset, length), onlyRead });
    return measured(found);
  };
  const context: TargetContext = {
    place,
    length: line.length,
    device: (...asked) => take(options.onlyRead, ...asked),
    readDevice: (...asked) => take(true, ...asked),
  };
  const target = type.create(type.parse(line.params, place), context);
  return { target, layers };
}

/** A target that can't know how much of a device it will use asks for one sector of it, and may use all. */
function rangeOf(device: BlockDevice, offset: number, length: number): Omit<DeviceRange, 'onlyRead'> {
  if (length === 1) return { device, offset: 0, length: device.limits.sizeBytes };
  return { device, offset: offset * SECTOR_BYTES, length: length * SECTOR_BYTES };
}

/** Sectors against bytes. */
function checkRange(
  name: string,
  sizeBytes: number,
  { offset, length }: { readonly offset: number; readonly length: number },
  place: TablePlace,
  field: string,
): void {
  if ((offset + length) * SECTOR_BYTES <= sizeBytes) return;
  const range = `sectors ${offset} to ${offset + length} of ${name}`;
  const detail = `${range} lie outside the device's ${sizeBytes / SECTOR_BYTES} sectors`;
  throw new TableError('DEVICE_TOO_SMALL', place, field, detail);
}

function resolveDevice<L extends StackedDevice>(
  name: string,
  field: string,
  place: TablePlace,
  options: LoadOptions<L>,
): BlockDevice {
  let device: BlockDevice;
  try {
    device = options.resolve(name);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new TableError('NO_DEVICE', place, field, `no device ${name}: ${reason}`, { cause });
  }
  if (reaches(device, options.root, new Set())) {
    throw new TableError('RECURSION', place, field, `${name} is made of ${options.root.name} itself`);
  }
  return device;
}

function isStacked(device: BlockDevice): device is StackedDevice {
  return 'dependencies' in device && typeof device.dependencies === 'function';
}

/** Whether `goal` is the device or one that it is made of. */
function reaches(device: BlockDevice, goal: BlockDevice, seen: Set<BlockDevice>): boolean {
  if (device === goal) return true;
  if (seen.has(device) || !isStacked(device)) return false;
  seen.add(device);
  for (const below of device.dependencies()) if (reaches(below, goal, seen)) return true;
  return false;
}

/** Others may have written to what the table maps itself, as long as it was not live. */
export function enterRanges(table: LoadedTable<StackedDevice>): void {
  for (const { device, offset, length } of table.ranges) device.enter?.(offset, length);
}

/** Others may write from now on to what the table maps itself and not only for reading; its layers leave by themselves. Gives 0, or why some of what was written is lost. */
export async function leaveRanges(table: LoadedTable<StackedDevice>): Promise<number> {
  const own = table.ranges.filter(({ onlyRead }) => !onlyRead);
  const errnos = await Promise.all(own.map(async ({ device, offset, length }) => device.leave?.(offset, length)));
  return errnos.find((errno) => errno !== undefined && errno !== 0) ?? 0;
}

/** Limits of a volume: any byte range, and of the rest the coarsest that its devices have. */
function volumeLimits(sizeBytes: number, devices: ReadonlySet<BlockDevice>, readOnly: boolean): DeviceLimits {
  const all = [...devices].map((device) => device.limits);
  const logicalBlockSize = Math.max(SECTOR_BYTES, ...all.map((limits) => limits.logicalBlockSize));
  const unwritable = readOnly || all.some((limits) => limits.readOnly);
  const canDiscard = !unwritable && all.some((limits) => limits.canDiscard);
  return {
    sizeBytes,
    logicalBlockSize,
    physicalBlockSize: Math.max(logicalBlockSize, ...all.map((limits) => limits.physicalBlockSize)),
    requestAlignment: 1,
    readOnly: unwritable,
    canDiscard,
    discardGranularity: canDiscard ? Math.max(1, ...all.map((limits) => limits.discardGranularity)) : 0,
  };
}

/** The limits of a volume without a table. */
export const NO_LIMITS: DeviceLimits = volumeLimits(0, new Set(), false);
