/**
 * VG and LV names on the command lines of commands that change LVs: "VG/LV", "/dev/VG/LV", "/dev/mapper/VG-LV", and
 * $LVM_VG_NAME where a VG is left out.
 *
 * Source: lvm(8) "Valid names"; messages of lvcreate and lvextend 2.03.16.
 */
import { statSync } from 'node:fs';
import type { FindPv } from '../../lvm/allocate/pv-list.ts';
import { reservedName } from '../../lvm/edit/lv-names.ts';
import { isValidName } from '../../ondisk/vg-validate.ts';
import type { CommandContext } from '../command.ts';
import { parseLvArguments } from '../report/arguments.ts';
import { badUsage } from './values.ts';

/** /dev/VG/LV */
const MAX_PARTS = 3;

export interface LvName {
  /** Null: none was given. */
  readonly vg: string | null;
  readonly lv: string;
}

/** $LVM_VG_NAME, as a name or a path. */
export function defaultVg({ env }: CommandContext): string | null {
  const name = env['LVM_VG_NAME'] ?? '';
  return name === '' ? null : vgNameOf(name);
}

/** A VG's name without /dev/ before it. */
export function vgNameOf(text: string): string {
  return text.replace(/^\/+dev\/+/, '');
}

/** Splits "VG/LV" or a path; a name alone is an LV's. Throws CommandError (3). */
export function splitLvName(context: CommandContext, text: string): LvName {
  const parts = splitPath(context, text);
  if (parts.vg !== null && text.split(/\/+/).filter((part) => part !== '').length > MAX_PARTS) {
    throw badUsage(`"${text}": Invalid path for Logical Volume.`);
  }
  if (!isValidName(parts.lv)) throw badUsage(`Logical volume name "${parts.lv}" is invalid.`);
  return parts;
}

/** Splits "VG/LV" or a path without judging the names. */
export function splitPath(context: CommandContext, text: string): LvName {
  if (!text.includes('/')) return { vg: null, lv: text };
  const [named] = parseLvArguments([text], undefined, { ...context.output, error: () => undefined })?.lvNames ?? [];
  if (named !== undefined) return { vg: named[0], lv: named[1][0] ?? '' };
  const parts = text.split(/\/+/);
  return { vg: parts.at(-2) ?? null, lv: parts.at(-1) ?? '' };
}

/** The name for a new LV. Throws CommandError (3). */
export function newLvName(context: CommandContext, text: string): LvName {
  const name = splitLvName(context, text);
  const reserved = reservedName(name.lv);
  if (reserved !== null) throw badUsage(reserved);
  return name;
}

/** Finds PVs by their path, or by another path of the same device. */
export const findPv: FindPv = (group, name) =>
  group.pvs.find((pv) => pv.found?.device.path === name) ??
  group.pvs.find((pv) => pv.found !== null && isSame(pv.found.device.path, name)) ??
  null;

function isSame(path: string, other: string): boolean {
  const a = statSync(path, { throwIfNoEntry: false });
  const b = statSync(other, { throwIfNoEntry: false });
  if (a === undefined || b === undefined) return false;
  return a.isBlockDevice() && b.isBlockDevice() ? a.rdev === b.rdev : a.dev === b.dev && a.ino === b.ino;
}
