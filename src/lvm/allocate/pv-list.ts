/**
 * The PVs at the end of a command line, `/dev/sdb:0-99:200+10` or `@tag`, as what may be allocated from.
 *
 *     PV:5        extent 5             PV:5-9    5 to 9           PV:5+10   10 extents from 5
 *     PV:5-       from 5 to the end    PV:-9     from 0 to 9      backslashes keep colons and at signs in names
 *
 * Invariants
 *  - PVs come in the order of the command line, each once; its ranges in the order given, none overlapping.
 *  - PVs that nothing can be allocated from are left out with a warning.
 *
 * Source: lvmcreate(8) "PV"; messages of lvcreate 2.03.16.
 */
import { allocationMapOf } from '../allocation-map.ts';
import { CommandError } from '../edit/errors.ts';
import type { PhysicalVolume, VolumeGroup } from '../model.ts';
import type { CandidatePv, ExtentRange } from './request.ts';

/** Finds a VG's PV by what the user calls its device. */
export type FindPv = (group: VolumeGroup, name: string) => PhysicalVolume | null;

/** By the path that the scan found it under. */
export const findPvByPath: FindPv = (group, name) => group.pvs.find((pv) => pv.found?.device.path === name) ?? null;

/** All of a VG that can be allocated from, when no PV is named. */
export function allCandidates(group: VolumeGroup): readonly CandidatePv[] {
  return group.pvs.flatMap((pv) => {
    const { text } = pv;
    if (text === undefined || pv.missing || !text.status.includes('ALLOCATABLE')) return [];
    return [{ label: text.label, tags: text.tags, ranges: null }];
  });
}

/** Reads the arguments. Warnings go to `warn`. Throws CommandError (5). */
export function namedCandidates(
  group: VolumeGroup,
  args: readonly string[],
  warn: (line: string) => void,
  find: FindPv = findPvByPath,
): readonly CandidatePv[] {
  const chosen = new Map<string, { readonly pv: PhysicalVolume; readonly ranges: ExtentRange[] }>();
  const choose = (pv: PhysicalVolume, extents: string | null): void => {
    if (!isAllocatable(group, pv, warn)) return;
    const entry = chosen.get(pv.uuid) ?? { pv, ranges: [] };
    chosen.set(pv.uuid, entry);
    addRanges(entry.ranges, extents, pv);
  };
  for (const arg of args) {
    const { name, extents, tag } = splitArgument(arg);
    if (tag) {
      if (!isTag(name)) warn(`Skipping invalid tag ${name}.`);
      else for (const pv of group.pvs) if (pv.text?.tags.includes(name) === true) choose(pv, null);
      continue;
    }
    const pv = find(group, name);
    if (pv === null) {
      throw new CommandError(`Physical Volume "${name}" not found in Volume Group "${group.vg.name}".`);
    }
    choose(pv, extents);
  }
  if (chosen.size === 0) throw new CommandError('No specified PVs have space available.');
  return [...chosen.values()].flatMap(({ pv, ranges }) =>
    pv.text === undefined ? [] : [{ label: pv.text.label, tags: pv.text.tags, ranges }],
  );
}

/** Whether `text` may be a tag. */
export function isTag(text: string): boolean {
  return /^[A-Za-z0-9._+\-/=!:&#]{1,1024}$/.test(text);
}

function pathOf(pv: PhysicalVolume): string {
  return pv.found?.device.path ?? '[unknown]';
}

/** Takes "/dev/sdb:0-9" or "@tag" apart. */
export function splitArgument(arg: string): {
  readonly name: string;
  readonly extents: string | null;
  readonly tag: boolean;
} {
  if (arg.startsWith('@')) return { name: unescape(arg.slice(1)), extents: null, tag: true };
  const colon = /(?<!\\):/.exec(arg)?.index;
  if (colon === undefined) return { name: unescape(arg), extents: null, tag: false };
  return { name: unescape(arg.slice(0, colon)), extents: arg.slice(colon), tag: false };
}

function unescape(text: string): string {
  return text.replaceAll(/\\([:@])/g, '$1');
}

function isAllocatable(group: VolumeGroup, pv: PhysicalVolume, warn: (line: string) => void): boolean {
  const { text, found } = pv;
  if (text === undefined || found === null) throw new CommandError('Failed to create PV entry for missing device.');
  if (!text.status.includes('ALLOCATABLE')) warn(`WARNING: Physical volume ${pathOf(pv)} not allocatable.`);
  else if (pv.missing) warn(`WARNING: Physical volume ${pathOf(pv)} is missing.`);
  else if ((allocationMapOf(group.vg).pvs.get(text.label)?.free ?? 0) === 0) {
    warn(`WARNING: No free extents on physical volume "${pathOf(pv)}".`);
  } else return true;
  return false;
}

/** Reads ":0-9:20"; null means all. Throws CommandError, also for ranges that overlap. */
export function rangesOf(text: string | null, pv: PhysicalVolume): readonly ExtentRange[] {
  const ranges: ExtentRange[] = [];
  addRanges(ranges, text, pv);
  return ranges;
}

function addRanges(ranges: ExtentRange[], text: string | null, pv: PhysicalVolume): void {
  for (const range of parseRanges(text, pv)) addRange(ranges, range, pathOf(pv));
}

function parseRanges(text: string | null, pv: PhysicalVolume): readonly ExtentRange[] {
  const size = pv.text?.peCount ?? 0;
  if (text === null) return [{ start: 0, count: size }];
  const ranges: ExtentRange[] = [];
  let rest = text;
  while (rest !== '') {
    const match = /^:(?:(\d+)(?:([-+])(\d*))?|([-+])(\d*))(?=:|$)/.exec(rest);
    if (match === null) throw parsingError(rest);
    const [all, first, sign = match[4], second = match[5]] = match;
    ranges.push(rangeOf(first, sign, second === '' ? undefined : second, size, rest));
    rest = rest.slice(all.length);
  }
  return ranges;
}

function rangeOf(
  first: string | undefined,
  sign: string | undefined,
  second: string | undefined,
  size: number,
  at: string,
): ExtentRange {
  const start = extentNumber(first, at) ?? 0;
  let end = size - 1;
  const number = extentNumber(second, at);
  if (sign === undefined) end = start;
  else if (number !== null && sign === '-') end = number;
  else if (number !== null) end = start + Math.max(number, 1) - 1;
  if (start > end || end > size - 1) {
    throw new CommandError(`PE range error: start extent ${start} to end extent ${end}.`);
  }
  return { start, count: end - start + 1 };
}

function extentNumber(digits: string | undefined, at: string): number | null {
  if (digits === undefined) return null;
  const value = Number(digits);
  if (value > 0xffffffff) throw parsingError(at.slice(1));
  return value;
}

/** LVM2 names the place where it stopped reading. */
function parsingError(rest: string): CommandError {
  const place = /^:(?::|$)/.test(rest) ? rest.slice(1) : rest.replace(/^:\d*(?:[-+]\d*)?/, '');
  return new CommandError(`Physical extent parsing error at ${place}.`);
}

/** Its last extent. */
function last({ start, count }: ExtentRange): number {
  return start + count - 1;
}

function addRange(ranges: ExtentRange[], range: ExtentRange, path: string): void {
  const other = ranges.find((known) => range.start <= last(known) && known.start <= last(range));
  if (other !== undefined) {
    const shown = `${range.start}-${last(range)}, ${other.start}-${last(other)}`;
    throw new CommandError(`Overlapping PE ranges specified (${shown}) on ${path}.`);
  }
  ranges.push(range);
}
