/**
 * Devices and tables for tests of the device-mapper room.
 */
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice, type MemoryDeviceOptions } from '../../src/block/memory.ts';
import type { DeviceRef, MirrorParams, TableLine } from '../../src/dm/table.ts';

/** Faulty devices over memory named a, b, c, …; discarded bytes read as 0xdb. */
export function memoryDevices(
  count: number,
  sectors: number,
  options: Partial<MemoryDeviceOptions> = {},
): ReadonlyMap<string, FaultyDevice> {
  const names = Array.from({ length: count }, (_, i) => String.fromCharCode(97 + i));
  return new Map(
    names.map((name) => [
      name,
      new FaultyDevice(new MemoryDevice({ name, sizeBytes: sectors * 512, discardPattern: 0xdb, ...options })),
    ]),
  );
}

export function linear(start: number, length: number, device: DeviceRef, offset: number): TableLine {
  return { start, length, target: 'linear', params: { device, offset } };
}

export function striped(
  start: number,
  length: number,
  chunkSize: number,
  stripes: readonly (readonly [DeviceRef, number])[],
): TableLine {
  const params = { chunkSize, stripes: stripes.map(([device, offset]) => ({ device, offset })) };
  return { start, length, target: 'striped', params };
}

/** With the `core` log; regions in sectors. */
export function mirror(
  start: number,
  length: number,
  regionSize: number,
  legs: readonly (readonly [DeviceRef, number])[],
  options: Pick<MirrorParams, 'features'> & Pick<MirrorParams['log'], 'sync'> = {},
): TableLine {
  const { sync, features } = options;
  const log = { type: 'core', regionSize, ...(sync === undefined ? {} : { sync }) };
  const mirrors = legs.map(([device, offset]) => ({ device, offset }));
  return { start, length, target: 'mirror', params: { log, mirrors, ...(features === undefined ? {} : { features }) } };
}

export function zero(start: number, length: number): TableLine {
  return { start, length, target: 'zero', params: {} };
}

export function error(start: number, length: number): TableLine {
  return { start, length, target: 'error', params: {} };
}
