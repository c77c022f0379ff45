/**
 * What must hold between the LVs of a volume group besides what every accepted text fulfils (ondisk/vg-validate.ts: names
 * resolve, areas lie inside their PV and don't overlap, nothing is built on itself): a part has one whole.
 *
 * Two LVs that share an image, a log, a store or a half of a pool would each write to it by their own rules. LVM2 writes no
 * such text and checks the same when it reads one (lib/metadata/merge.c); a text that has it is refused as a whole.
 */
import type { VolumeGroupText } from '../ondisk/metadata.ts';
import { isComponentKind } from './references.ts';
import { relationsOf } from './relations.ts';

/** The first thing that is impossible, for people; null if there is none. */
export function vgProblem(vg: VolumeGroupText): string | null {
  for (const facts of relationsOf(vg).lvs.values()) {
    if (facts.usedBy.length < 2) continue;
    const owners = new Set(facts.usedBy.filter((use) => isComponentKind(use.kind)).map((use) => use.user));
    if (owners.size > 1) return `LV ${facts.name} is a part of more than one LV: ${[...owners].join(', ')}.`;
  }
  return null;
}
