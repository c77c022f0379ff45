/**
 * From what the user typed to a new size in extents: signs, percentages, whole extents, whole rows of stripes.
 *
 * Rounding is LVM2's: an absolute size and an addition are rounded up, a reduction takes away at most what was asked for, and a
 * part of the free space never becomes more than there is.
 *
 * Source: lvresize(8); messages and results of lvresize 2.03.16 (its tests lvresize-rounding and lvextend-percent-extents).
 */
import type { Segment, VolumeGroupText } from '../../ondisk/metadata.ts';
import { freeExtentsOf } from '../allocate/free-areas.ts';
import type { CandidatePv } from '../allocate/request.ts';
import { allocationMapOf } from '../allocation-map.ts';
import { segmentAreas } from '../references.ts';
import { relationsOf, segmentTypeName, type LvFacts } from '../relations.ts';
import { CommandError } from './errors.ts';
import { displayName, freeExtents, MAX_EXTENTS } from './lv-facts.ts';
import type { Notes } from './lv-notes.ts';
import { mostStoreExtents } from './lv-snapshot.ts';

export type Sign = '' | '+' | '-';

/** The size as typed: sectors, extents, or a part of something. */
export type ResizeSize =
  | { readonly kind: 'sectors'; readonly sign: Sign; readonly sectors: number }
  | {
      readonly kind: 'extents';
      readonly sign: Sign;
      /** Extents, or a percentage. */
      readonly count: number;
      readonly percentOf: 'VG' | 'FREE' | 'PVS' | 'LV' | 'ORIGIN' | null;
    };

export interface NewSize {
  /** Logical extents of the LV. */
  readonly extents: number;
  readonly change: 'extend' | 'reduce';
  /** Less than asked for will do. */
  readonly approximate: boolean;
  readonly type: 'striped' | 'error' | 'zero';
  readonly stripes: number;
  readonly stripeSizeSectors: number;
}

export interface SizeQuestion {
  readonly vg: VolumeGroupText;
  readonly facts: LvFacts;
  /** Null: any PV. */
  readonly candidates: readonly CandidatePv[] | null;
  readonly direction: 'extend' | 'reduce' | 'any';
  readonly size: ResizeSize;
  readonly type: 'striped' | 'error' | 'zero' | null;
  readonly stripes: number;
  readonly stripeSizeSectors: number;
  /** Where neither the user nor the LV says. */
  readonly defaultStripeSectors: number;
  readonly mirrors: number;
  readonly resizeFs: boolean;
}

const MIN_STRIPE_SECTORS = 8;

/** An amount: to have, to add or to take away. */
interface Amount {
  readonly sign: Sign;
  readonly extents: number;
  /** It counts extents of PVs, not of the LV. */
  readonly physical: boolean;
  readonly approximate: boolean;
  readonly percent: boolean;
}

interface Stripes {
  readonly stripes: number;
  readonly stripeSizeSectors: number;
}

/** Throws CommandError (5). */
export function newSize(question: SizeQuestion, notes: Notes): NewSize {
  const { facts } = question;
  const type = segmentType(question, notes);
  const amount = amountOf(question, notes);
  const existing = facts.sizeExtents;
  const physical = facts.lv.segments.reduce((sum, segment) => sum + physicalExtents(segment), 0);
  const measured = physical === 0 ? { ...amount, physical: false } : amount;
  const before = measured.physical ? physical : existing;
  const reducing = measured.sign === '-' || (measured.sign === '' && measured.extents < before);
  const target = reducing
    ? reducedSize(question, measured, before, notes)
    : extendedSize(question, measured, before, type, notes);
  if (target.extents === 0) throw new CommandError('New size of 0 not permitted.');
  // A store that can't become larger stays as it is, which is no failure.
  if ('isMost' in target && target.extents === existing) {
    return { ...target, type, change: 'extend', approximate: measured.approximate };
  }
  refuseSame(question, target.extents, '.');
  const extents = roundedToStripes(question, measured, target, notes);
  const change = directionOf(question, extents);
  return { ...target, type, extents, change, approximate: measured.approximate };
}

/** The type of the new segment; LVs may mix striped ones and those without storage. */
function segmentType({ vg, facts, type }: SizeQuestion, notes: Notes): NewSize['type'] {
  const last = facts.lv.segments.at(-1);
  if (last === undefined || (last.type !== 'striped' && last.type !== 'error' && last.type !== 'zero')) {
    throw new CommandError(`VolumeType does not match (${type ?? 'unknown'}).`);
  }
  if (type === null || type === last.type) return last.type;
  notes.print(
    `Logical volume ${displayName(vg, facts.lv)} is using mixing segment types ${segmentTypeWord(last)} and ${type}.`,
  );
  return type;
}

function segmentTypeWord(segment: Segment): string {
  const name = segmentTypeName(segment);
  return name === 'linear' ? 'striped' : name;
}

function amountOf(question: SizeQuestion, notes: Notes): Amount {
  const { size, vg } = question;
  if (size.kind === 'sectors') {
    const extents = wholeExtents(vg, size.sectors, size.sign, notes);
    return { sign: size.sign, extents, physical: false, approximate: false, percent: false };
  }
  const { sign, count, percentOf } = size;
  if (percentOf === null) return { sign, extents: count, physical: false, approximate: false, percent: false };
  const ofSpace = percentOf === 'VG' || percentOf === 'FREE' || percentOf === 'PVS';
  const approximate = (sign === '' && ofSpace) || (sign === '+' && percentOf === 'FREE');
  const extents = percentOfExtents(question, percentOf, count, sign, notes);
  return { sign, extents, physical: ofSpace, approximate, percent: true };
}

function wholeExtents({ extentSizeSectors }: VolumeGroupText, sectors: number, sign: Sign, notes: Notes): number {
  const over = sectors % extentSizeSectors;
  if (over === 0) return sectors / extentSizeSectors;
  const whole = sign === '-' ? sectors - over : sectors - over + extentSizeSectors;
  notes.print(`Rounding size to boundary between physical extents: ${notes.size(whole)}.`);
  return whole / extentSizeSectors;
}

function percentOfExtents(
  { vg, facts, candidates }: SizeQuestion,
  of: 'VG' | 'FREE' | 'PVS' | 'LV' | 'ORIGIN',
  percent: number,
  sign: Sign,
  notes: Notes,
): number {
  const map = allocationMapOf(vg);
  const part = (extents: number): number =>
    sign === '-' ? Math.floor((percent * extents) / 100) : Math.ceil((percent * extents) / 100);
  if (of === 'FREE') return part(map.free);
  if (of === 'LV') return part(facts.sizeExtents);
  if (of === 'ORIGIN') {
    const origin = facts.snapshot === null ? undefined : relationsOf(vg).lvs.get(facts.snapshot.origin);
    if (origin === undefined) throw new CommandError('Specified LV does not have an origin LV.');
    return part(origin.sizeExtents);
  }
  if (of === 'PVS') return part(candidates === null ? map.total : freeExtentsOf(candidates, map.pvs));
  const extents = part(map.total);
  const most = facts.sizeExtents + map.free;
  if (sign !== '' || extents <= most) return extents;
  notes.print(`Reducing ${percent}%VG to remaining free space ${notes.size(vg.extentSizeSectors * most)} in VG.`);
  return most;
}

function extendedSize(
  question: SizeQuestion,
  { sign, extents }: Amount,
  before: number,
  type: NewSize['type'],
  notes: Notes,
): Stripes & { readonly extents: number; readonly isMost?: true } {
  const { vg, facts, mirrors } = question;
  if (mirrors > 1) throw new CommandError('Cannot vary number of mirrors in LV yet.');
  const stripes = stripesToAdd(question, type, notes);
  const added = sign === '+' ? extents : extents - before;
  if (added >= MAX_EXTENTS - facts.sizeExtents) {
    throw new CommandError(
      `Unable to extend ${displayName(vg, facts.lv)} by ${added} logical extents: exceeds limit (${MAX_EXTENTS}).`,
    );
  }
  return { ...stripes, ...withinStore(question, facts.sizeExtents + added, notes) };
}

/** A COW store is no larger than it can ever be filled. */
function withinStore(
  { vg, facts }: SizeQuestion,
  extents: number,
  notes: Notes,
): { readonly extents: number; readonly isMost?: true } {
  const origin = facts.snapshot === null ? undefined : relationsOf(vg).lvs.get(facts.snapshot.origin);
  if (facts.snapshot === null || origin === undefined) return { extents };
  const most = mostStoreExtents(vg, origin, facts.snapshot.segment.chunkSizeSectors);
  if (extents <= most) return { extents };
  notes.print(`Reached maximum COW size ${notes.size(most * vg.extentSizeSectors)} (${most} extents).`);
  return { extents: most, isMost: true };
}

/** Stripes of the new segment: as asked for, else those that all striped segments have. */
function stripesToAdd(question: SizeQuestion, type: NewSize['type'], notes: Notes): Stripes {
  const { facts } = question;
  const last = facts.lv.segments.at(-1);
  let { stripes, stripeSizeSectors } = question;
  if (stripes === 0 && question.type !== null && question.type !== last?.type) stripes = 1;
  if (stripes === 1 || (stripes > 1 && stripeSizeSectors > 0)) return { stripes, stripeSizeSectors };
  const found = commonStripes(facts, stripes, stripeSizeSectors);
  if (stripes === 0) ({ stripes } = found);
  if (stripeSizeSectors === 0 && stripes > 1 && type === 'striped') {
    if (found.stripeSizeSectors > 0) {
      ({ stripeSizeSectors } = found);
      notes.print(`Using stripesize of last segment ${notes.size(stripeSizeSectors)}`);
    } else {
      stripeSizeSectors = question.defaultStripeSectors;
      notes.print(`Using default stripesize ${notes.size(stripeSizeSectors)}`);
    }
  }
  return { stripes, stripeSizeSectors };
}

function commonStripes(facts: LvFacts, stripes: number, stripeSizeSectors: number): Stripes {
  let found = { stripes: 0, stripeSizeSectors: 0 };
  for (const segment of facts.lv.segments) {
    if (segment.type !== 'striped') continue;
    const size = segment.stripeSizeSectors ?? 0;
    const count = segment.areas.length;
    const otherSize = found.stripeSizeSectors > 0 && found.stripeSizeSectors !== size;
    const otherCount = found.stripes > 0 && found.stripes !== count;
    if ((otherSize && size > 0 && stripeSizeSectors === 0) || (otherCount && stripes === 0)) {
      throw new CommandError('Please specify number of stripes (-i) and stripesize (-I)');
    }
    found = { stripes: count, stripeSizeSectors: size };
  }
  return found;
}

/** The new size, and the stripes of the segment that it ends in, with the part of that segment that stays. */
function reducedSize(
  { vg, facts, stripes, stripeSizeSectors }: SizeQuestion,
  { sign, extents, physical }: Amount,
  before: number,
  notes: Notes,
): Stripes & { readonly extents: number; readonly inSegment: number } {
  if (stripes > 0 || stripeSizeSectors > 0) {
    notes.print('Ignoring stripes, stripesize and mirrors arguments when reducing.');
  }
  if (sign === '-' && extents >= before) {
    throw new CommandError(`Unable to reduce ${displayName(vg, facts.lv)} below 1 extent.`);
  }
  const wanted = sign === '-' ? before - extents : extents;
  let logical = 0;
  let used = 0;
  for (const segment of facts.lv.segments) {
    const length = physical ? physicalExtents(segment) : segment.extentCount;
    if (wanted <= used + length) {
      const inSegment = wanted - used;
      const row = stripesOf(segment);
      return { ...row, extents: physical ? logical + inSegment : wanted, inSegment };
    }
    used += length;
    logical += segment.extentCount;
  }
  return { extents: wanted, stripes: 0, stripeSizeSectors: 0, inSegment: 0 };
}

function stripesOf(segment: Segment): Stripes {
  if (segment.type !== 'striped') return { stripes: 0, stripeSizeSectors: 0 };
  return { stripes: segment.areas.length, stripeSizeSectors: segment.stripeSizeSectors ?? 0 };
}

function physicalExtents(segment: Segment): number {
  return segmentAreas(segment).length === 0 ? 0 : segment.extentCount;
}

function refuseSame({ facts, resizeFs }: SizeQuestion, extents: number, end: '.' | ''): void {
  if (extents !== facts.sizeExtents || resizeFs) return;
  throw new CommandError(`New size (${extents} extents) matches existing size (${facts.sizeExtents} extents)${end}`);
}

function roundedToStripes(
  { vg, facts }: SizeQuestion,
  { percent }: Amount,
  target: Stripes & { readonly extents: number; readonly inSegment?: number },
  notes: Notes,
): number {
  const { stripes, stripeSizeSectors, extents } = target;
  if (stripes <= 1) return extents;
  if (stripeSizeSectors < MIN_STRIPE_SECTORS) {
    throw new CommandError(`Invalid stripe size ${notes.size(stripeSizeSectors)}.`);
  }
  const { extentSizeSectors } = vg;
  const larger = stripeSizeSectors > extentSizeSectors ? Math.floor(stripeSizeSectors / extentSizeSectors) : 1;
  const row = stripes * larger;
  const added = extents - facts.sizeExtents;
  const over = (target.inSegment ?? added) % row;
  if (over === 0) return extents;
  const fits = freeExtents(vg) >= added - over + row;
  if (extents < facts.sizeExtents || !percent || fits) {
    const up = extents - over + row;
    notes.print(`Rounding size (${extents} extents) up to stripe boundary size for segment (${up} extents).`);
    return up;
  }
  const down = extents - over;
  notes.print(`Rounding size (${extents} extents) down to stripe boundary size for segment (${down} extents)`);
  return down;
}

function directionOf(question: SizeQuestion, extents: number): 'extend' | 'reduce' {
  const { direction, facts } = question;
  const existing = facts.sizeExtents;
  if (extents < existing && direction === 'extend') {
    throw new CommandError(`New size given (${extents} extents) not larger than existing size (${existing} extents)`);
  }
  if (extents > existing && direction === 'reduce') {
    throw new CommandError(`New size given (${extents} extents) not less than existing size (${existing} extents)`);
  }
  refuseSame(question, extents, '');
  return extents < existing ? 'reduce' : 'extend';
}
