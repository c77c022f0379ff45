/**
 * mirror: the same bytes on several devices (kernel: drivers/md/dm-raid1.c, dm-log.c).
 *
 *     <start> <length> mirror core <1|2> <region size> [sync|nosync] <mirrors> {<device> <offset>}... [1 handle_errors]
 *     status: <mirrors> {<device>}... <regions in sync>/<regions> 1 <letters> 1 core
 *
 * With the `core` log nothing of what is in sync outlives the table: everything is copied anew from the first leg, which therefore
 * holds every acknowledged write at any time.
 *
 * Messages: `seal` (fails unless everything is in sync and flushed: from then on a write that one leg does not take fails, so that any
 * leg may become the truth), `unseal`, `restart` (forgets failures and copies what is out of sync again).
 */
import { TableError, type TablePlace, VolumeError } from '../errors.ts';
import { badField, integerField, legField, MAX_SECTORS, objectField } from '../params.ts';
import type { LinearParams, MirrorParams } from '../table.ts';
import {
  deviceName,
  deviceWord,
  SECTOR_BYTES,
  type Target,
  type TargetContext,
  type TargetStatus,
  type TargetType,
} from '../target.ts';
import { Legs, type MirrorLeg } from './legs.ts';
import { MirrorSet } from './mirror-set.ts';
import { SyncMap } from './sync-map.ts';

/** The kernel's limit: kcopyd copies to 8 places at most. */
const MAX_LEGS = 9;

function parse(params: unknown, place: TablePlace): MirrorParams {
  const fields = objectField(params, place, '', ['log', 'mirrors', 'features']);
  const list = fields.get('mirrors');
  if (!Array.isArray(list) || list.length < 2 || list.length > MAX_LEGS) {
    throw badField(place, 'mirrors', `a list of 2 to ${MAX_LEGS} mirrors`, list);
  }
  const mirrors = list.map((item: unknown, i): LinearParams => legField(item, place, `mirrors[${i}]`));
  return { log: parseLog(fields.get('log'), place), mirrors, features: parseFeatures(fields.get('features'), place) };
}

function parseLog(value: unknown, place: TablePlace): MirrorParams['log'] {
  const fields = objectField(value, place, 'log', ['type', 'regionSize', 'sync']);
  const type = fields.get('type');
  if (type !== 'core') throw badField(place, 'log.type', '"core"', type);
  const regionSize = integerField(fields.get('regionSize'), place, 'log.regionSize', 2, MAX_SECTORS);
  if (!Number.isInteger(Math.log2(regionSize))) throw badField(place, 'log.regionSize', 'a power of two', regionSize);
  const sync = fields.get('sync');
  if (sync === undefined) return { type, regionSize };
  if (sync !== 'sync' && sync !== 'nosync') throw badField(place, 'log.sync', '"sync" or "nosync"', sync);
  return { type, regionSize, sync };
}

function parseFeatures(value: unknown, place: TablePlace): readonly 'handle_errors'[] {
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw badField(place, 'features', 'a list of features', value);
  return value.map((feature: unknown, i) => {
    if (feature !== 'handle_errors') throw badField(place, `features[${i}]`, '"handle_errors"', feature);
    return feature;
  });
}

function create(params: MirrorParams, context: TargetContext): Target {
  const { log, mirrors, features = [] } = params;
  if (log.regionSize > context.length) {
    const detail = `a region of ${log.regionSize} sectors is larger than the line's ${context.length}`;
    throw new TableError('BAD_FIELD', context.place, 'log.regionSize', detail);
  }
  const all = mirrors.map((mirror, i): MirrorLeg => {
    const device = context.device(mirror.device, `mirrors[${i}].device`, mirror.offset, context.length);
    return { name: deviceName(mirror.device), device, offset: mirror.offset * SECTOR_BYTES };
  });
  const sync = new SyncMap(context.length * SECTOR_BYTES, log.regionSize * SECTOR_BYTES, log.sync === 'nosync');
  const handleErrors = features.includes('handle_errors');
  const set = new MirrorSet({ legs: new Legs(all), sync, handleErrors });
  return {
    mapping: { kind: 'submit', sink: set, splitBytes: sync.chunkBytes },
    tableText: () => tableText(params),
    status: () => statusOf(set, log.regionSize),
    presuspend: () => set.presuspend(),
    suspend: () => set.suspend(),
    resume: () => set.resume(),
    message: (words) => message(set, words, context.place.volume),
  };
}

function tableText({ log, mirrors, features = [] }: MirrorParams): string {
  const places = mirrors.map(({ device, offset }) => `${deviceWord(device)} ${offset}`).join(' ');
  const logText = log.sync === undefined ? `1 ${log.regionSize}` : `2 ${log.regionSize} ${log.sync}`;
  const featureText = features.length === 0 ? '' : ` ${features.length} ${features.join(' ')}`;
  return `core ${logText} ${mirrors.length} ${places}${featureText}`;
}

/** `details` of a mirror line's status. */
export interface MirrorDetails {
  readonly log: 'core';
  /** Sectors. */
  readonly regionSize: number;
  readonly regions: number;
  readonly regionsInSync: number;
  /** Bytes that all legs hold. */
  readonly bytesInSync: number;
  /** `state`: A, or D, F, S, R: what failed (legs.ts). */
  readonly mirrors: readonly { readonly device: string; readonly state: string }[];
  /** Copying has ended for good, until somebody says `restart`. */
  readonly broken: boolean;
  readonly sealed: boolean;
}

/** Whether a line's `details` are a mirror's. */
export function isMirrorDetails(details: TargetStatus['details']): details is TargetStatus['details'] & MirrorDetails {
  return details['log'] === 'core' && typeof details['bytesInSync'] === 'number';
}

function statusOf({ legs, sync, sealed }: MirrorSet, regionSize: number): TargetStatus {
  const mirrors = legs.all.map(({ name }, leg) => ({ device: name, state: legs.letter(leg) }));
  const names = legs.all.map(({ name }) => deviceWord(name)).join(' ');
  const letters = mirrors.map(({ state }) => state).join('');
  const details: MirrorDetails = {
    log: 'core',
    regionSize,
    regions: sync.regions,
    regionsInSync: sync.regionsInSync,
    bytesInSync: sync.bytesInSync,
    mirrors,
    broken: legs.broken,
    sealed,
  };
  return {
    text: `${legs.all.length} ${names} ${sync.regionsInSync}/${sync.regions} 1 ${letters} 1 core`,
    details: { ...details },
  };
}

async function message(set: MirrorSet, words: readonly string[], volume: string): Promise<string> {
  switch (words.join(' ')) {
    case 'seal':
      if (await set.seal()) return '';
      throw new VolumeError('NOT_IN_SYNC', volume, 'the mirror is not in sync');
    case 'unseal':
      set.unseal();
      return '';
    case 'restart':
      set.restart();
      return '';
    default:
      throw new VolumeError('BAD_MESSAGE', volume, `a mirror takes seal, unseal and restart, not "${words.join(' ')}"`);
  }
}

export const mirror: TargetType<MirrorParams> = { name: 'mirror', version: '1.14.0', parse, create };
