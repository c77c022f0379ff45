/**
 * Devices and tables for tests of the device-mapper room.
 */
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice, type MemoryDeviceOptions } from '../../src/block/memory.ts';
import type { TableLine } from '../../src/dm/table.ts';

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

export function linear(start: number, length: number, device: string, offset: number): TableLine {
  return { start, length, target: 'linear', params: { device, offset } };
}

export function striped(
  start: number,
  length: number,
  chunkSize: number,
  stripes: readonly (readonly [string, number])[],
): TableLine {
  const params = { chunkSize, stripes: stripes.map(([device, offset]) => ({ device, offset })) };
  return { start, length, target: 'striped', params };
}

export function zero(start: number, length: number): TableLine {
  return { start, length, target: 'zero', params: {} };
}

export function error(start: number, length: number): TableLine {
  return { start, length, target: 'error', params: {} };
}
