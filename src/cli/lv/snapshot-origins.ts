/**
 * What lvcreate -s makes snapshots of: an LV, as LVM2 has it, or several LVs of one VG at one moment, which is ours alone.
 *
 *     lvcreate -s -L 1g vg/a                            a snapshot of a
 *     lvcreate -s -L 1g -n %s-monday vg/a vg/b          a-monday and b-monday, in one commit
 *
 * Invariants
 *  - After the first origin, "VG/LV" and "/dev/VG/LV" of the same VG are origins; anything else is a PV. A PV with such a path is
 *    written with "./" before it.
 *  - A name for several has the origin's name in it, as %s; without a name each is lvolN.
 */
import type { CommandContext } from '../command.ts';
import { noSuchSyntax } from '../messages.ts';
import { defaultVg, type LvName, newLvName, splitLvName } from './names.ts';
import { badUsage } from './values.ts';

const PLACE = '%s';

/** -n, as far as it can be said before the origins are known. */
export interface NamePattern extends LvName {
  /** With %s in it; null: it is a name as it stands. */
  readonly pattern: string | null;
}

/** Throws CommandError (3). */
export function namePattern(context: CommandContext, forSnapshots: boolean): NamePattern | null {
  const typed = context.options.value('name');
  if (typed === undefined) return null;
  const isPattern = forSnapshots && typed.includes(PLACE);
  return { ...newLvName(context, isPattern ? typed.replaceAll(PLACE, 'x') : typed), pattern: isPattern ? typed : null };
}

export interface Origins {
  readonly vg: string;
  /** Names of LVs, and of the snapshots of them; null: a generated one. */
  readonly lvs: readonly { readonly origin: string; readonly name: string | null }[];
  readonly pvs: readonly string[];
}

/** Throws CommandError (3). */
export function readOrigins(context: CommandContext, named: NamePattern | null): Origins {
  const [first, ...rest] = context.args;
  if (first === undefined) throw noSuchSyntax(context.name);
  const { vg: typed, lv } = splitLvName(context, first);
  const vg = typed ?? named?.vg ?? defaultVg(context);
  if (vg === null) throw badUsage('The origin name should include the volume group.');
  if (named !== null && named.vg !== null && vg !== named.vg) {
    throw badUsage(`Inconsistent volume group names given: "${named.vg}" and "${vg}"`);
  }
  const isOrigin = (argument: string): boolean =>
    argument.replace(/^\/dev\//, '').split('/', 1)[0] === vg && /^(?:\/dev\/)?[^/]+\/[^/]+$/.test(argument);
  const origins = [lv, ...rest.filter(isOrigin).map((argument) => splitLvName(context, argument).lv)];
  if (origins.length > 1 && named !== null && named.pattern === null) {
    throw badUsage(`Snapshots of several logical volumes need a name with ${PLACE} in it, for the name of each.`);
  }
  return {
    vg,
    lvs: origins.map((origin) => ({ origin, name: nameFor(context, named, origin) })),
    pvs: rest.filter((argument) => !isOrigin(argument)),
  };
}

function nameFor(context: CommandContext, named: NamePattern | null, origin: string): string | null {
  if (named === null) return null;
  return named.pattern === null ? named.lv : newLvName(context, named.pattern.replaceAll(PLACE, origin)).lv;
}
