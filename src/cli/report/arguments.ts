/**
 * What the words after a reporting command name: volume groups, logical volumes, tags.
 *
 * Invariants
 *  - /dev/VG/LV and /dev/mapper/VG-LV (hyphens in names doubled) are VG/LV.
 *  - A name given twice counts once.
 *
 * Source: lvm(8) "Valid names", and the messages of lvs and vgs 2.03.16.
 */
import type { Output } from '../messages.ts';

export interface VgArguments {
  readonly vgNames: readonly string[];
  /** Without "@". */
  readonly tags: readonly string[];
}
export interface LvArguments extends VgArguments {
  /** VG names of which every LV is meant. */
  readonly wholeVgs: readonly string[];
  /** LV names by VG name. */
  readonly lvNames: ReadonlyMap<string, readonly string[]>;
}

/** Tags are [A-Za-z0-9._+/=!:&#-], not starting with a hyphen. */
export function isTag(text: string): boolean {
  return /^[A-Za-z0-9._+/=!:&#][A-Za-z0-9._+/=!:&#-]*$/.test(text);
}

function singleHyphens(part: string): string {
  return part.replaceAll('--', '-');
}

/** "vg-lv" of /dev/mapper: the first single hyphen parts VG and LV. */
function unmangle(name: string): string {
  const match = /^((?:[^-]|--)+)(?:-((?:[^-]|--)+))?$/.exec(name);
  if (match === null) return name;
  const vg = singleHyphens(match[1] ?? '');
  return match[2] === undefined ? vg : `${vg}/${singleHyphens(match[2])}`;
}

/** Takes /dev/ (and mapper/) off a name. */
function skipDevDir(name: string): { readonly name: string; readonly found: boolean } {
  const inDev = /^\/+dev\/+(.*)$/s.exec(name)?.[1];
  if (inDev === undefined) return { name, found: false };
  const inMapper = /^mapper\/+(.*)$/s.exec(inDev)?.[1];
  return { name: inMapper === undefined ? inDev : unmangle(inMapper), found: true };
}

/** Arguments of vgs: names and tags. Null if one is bad (exit 3), which was said. */
export function parseVgArguments(args: readonly string[], output: Output): VgArguments | null {
  const vgNames = new Set<string>();
  const tags = new Set<string>();
  let bad = false;
  for (const arg of args) {
    if (arg.startsWith('@')) {
      if (isTag(arg.slice(1))) tags.add(arg.slice(1));
      else {
        output.error(`Skipping invalid tag: ${arg}`);
        bad = true;
      }
      continue;
    }
    const { name } = skipDevDir(arg);
    if (name.includes('/')) {
      output.error(`Invalid volume group name ${name}.`);
      bad = true;
    } else vgNames.add(name);
  }
  return bad ? null : { vgNames: [...vgNames], tags: [...tags] };
}

interface LvArgument {
  readonly vg: string;
  /** Null: the whole VG. */
  readonly lv: string | null;
}

/** Null if the path has not exactly two parts. */
function parseLvArgument(arg: string, defaultVg: string | undefined): LvArgument | null {
  const { name, found } = skipDevDir(arg);
  if (name.startsWith('/')) return null;
  const parts = name.split(/\/+/);
  const [first = '', second] = parts;
  if (second === undefined)
    return !found && defaultVg !== undefined ? { vg: defaultVg, lv: name } : { vg: name, lv: null };
  return parts.length === 2 ? { vg: first, lv: second } : null;
}

/**
 * Arguments of lvs: VG, VG/LV, tags; an LV alone with $LVM_VG_NAME (`defaultVg`). Null if a path is bad (exit 5), which
 * was said.
 */
export function parseLvArguments(
  args: readonly string[],
  defaultVg: string | undefined,
  output: Output,
): LvArguments | null {
  const vgNames = new Set<string>();
  const wholeVgs = new Set<string>();
  const lvNames = new Map<string, string[]>();
  const tags = new Set<string>();
  let bad = false;
  for (const arg of args) {
    if (arg.startsWith('@')) {
      if (isTag(arg.slice(1))) tags.add(arg.slice(1));
      else output.error(`Skipping invalid tag ${arg}.`);
      continue;
    }
    const parsed = parseLvArgument(arg, defaultVg);
    if (parsed === null) {
      output.error(`"${arg}": Invalid path for Logical Volume.`);
      bad = true;
      continue;
    }
    vgNames.add(parsed.vg);
    if (parsed.lv === null) wholeVgs.add(parsed.vg);
    else {
      const names = lvNames.get(parsed.vg) ?? [];
      if (!names.includes(parsed.lv)) names.push(parsed.lv);
      lvNames.set(parsed.vg, names);
    }
  }
  return bad ? null : { vgNames: [...vgNames], wholeVgs: [...wholeVgs], lvNames, tags: [...tags] };
}

export interface PvArguments {
  readonly names: readonly string[];
  readonly tags: readonly string[];
}

/** Arguments of pvs: device paths and tags. Null if a tag is bad (exit 3), which was said. */
export function parsePvArguments(args: readonly string[], output: Output): PvArguments | null {
  const names = new Set<string>();
  const tags = new Set<string>();
  let bad = false;
  for (const arg of args) {
    if (!arg.startsWith('@')) names.add(arg.replaceAll(/\\([:@])/g, '$1'));
    else if (isTag(arg.slice(1))) tags.add(arg.slice(1));
    else {
      output.error(`Skipping invalid tag ${arg.slice(1)}.`);
      bad = true;
    }
  }
  return bad ? null : { names: [...names], tags: [...tags] };
}
