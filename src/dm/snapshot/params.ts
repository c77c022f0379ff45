/**
 * What tables say to the targets of snapshots.
 */
import type { BlockDevice } from '../../block/device.ts';
import { isChunkSize } from '../../ondisk/snapshot-store.ts';
import type { TablePlace } from '../errors.ts';
import { badField, deviceField, nameField, objectField } from '../params.ts';
import type { DeviceRef } from '../table.ts';
import type { SharedKey } from './registry.ts';

export interface SnapshotOriginParams {
  readonly origin: DeviceRef;
  /** What the origin is known by to its snapshots: the same in their tables. Needed where `origin` is a layer. */
  readonly originId?: string;
  /** The `cowId`s of all its snapshots: nothing is written before they are there. */
  readonly snapshots?: readonly string[];
}

export interface SnapshotParams {
  readonly origin: DeviceRef;
  readonly originId?: string;
  readonly cow: DeviceRef;
  /** What the store is known by, to this snapshot's next table too. Needed where `cow` is a layer. */
  readonly cowId?: string;
  /** P persistent; PO persistent, and a full store fails only what the snapshot's user writes; N gone when the volume is. */
  readonly persistent: 'P' | 'PO' | 'N';
  /** Sectors; a store that exists has its own. */
  readonly chunkSize: number;
  /** snapshot-merge: the other snapshots of the origin, as in SnapshotOriginParams. */
  readonly snapshots?: readonly string[];
}

const PERSISTENT = ['P', 'PO', 'N'] as const;

function id(
  fields: ReadonlyMap<string, unknown>,
  place: TablePlace,
  field: string,
): { readonly [key: string]: string } {
  const value = fields.get(field);
  return value === undefined ? {} : { [field]: nameField(value, place, field) };
}

function ids(fields: ReadonlyMap<string, unknown>, place: TablePlace): { readonly snapshots?: readonly string[] } {
  const list = fields.get('snapshots');
  if (list === undefined) return {};
  if (!Array.isArray(list)) throw badField(place, 'snapshots', 'a list of ids', list);
  return { snapshots: list.map((item: unknown, i) => nameField(item, place, `snapshots[${i}]`)) };
}

export function parseOrigin(params: unknown, place: TablePlace): SnapshotOriginParams {
  const fields = objectField(params, place, '', ['origin', 'originId', 'snapshots']);
  return {
    origin: deviceField(fields.get('origin'), place, 'origin'),
    ...id(fields, place, 'originId'),
    ...ids(fields, place),
  };
}

/** `merging`: the parameters of snapshot-merge, which has to know the other snapshots and can't do without a store. */
export function parseSnapshot(params: unknown, place: TablePlace, merging: boolean): SnapshotParams {
  const keys = ['origin', 'originId', 'cow', 'cowId', 'persistent', 'chunkSize', ...(merging ? ['snapshots'] : [])];
  const fields = objectField(params, place, '', keys);
  const allowed = PERSISTENT.filter((word) => !merging || word !== 'N');
  const persistent = allowed.find((word) => word === fields.get('persistent'));
  if (persistent === undefined) {
    throw badField(place, 'persistent', `one of ${allowed.join(', ')}`, fields.get('persistent'));
  }
  const chunkSize = fields.get('chunkSize');
  if (typeof chunkSize !== 'number' || !isChunkSize(chunkSize)) {
    throw badField(place, 'chunkSize', 'a power of two of sectors, at most 32768', chunkSize);
  }
  return {
    origin: deviceField(fields.get('origin'), place, 'origin'),
    ...id(fields, place, 'originId'),
    cow: deviceField(fields.get('cow'), place, 'cow'),
    ...id(fields, place, 'cowId'),
    persistent,
    chunkSize,
    ...(merging ? ids(fields, place) : {}),
  };
}

/** What an origin or a store is known by: its id, else the device, which has to be a shared one then. */
export function sharedKey(
  given: string | undefined,
  device: BlockDevice,
  ref: DeviceRef,
  field: string,
  place: TablePlace,
): SharedKey {
  if (given !== undefined) return given;
  if (typeof ref !== 'string') throw badField(place, `${field}Id`, 'an id, because the device is a layer', undefined);
  return device;
}
