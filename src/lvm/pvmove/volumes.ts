/**
 * Which LVs a pvmove takes along, and what stands in its way (facts: LVM2 tools/pvmove.c _set_up_pvmove_lv).
 */
import type { VolumeGroupText } from '../../ondisk/metadata.ts';
import { CommandError } from '../edit/errors.ts';
import { segmentAreas } from '../references.ts';
import { type LvFacts, relationsOf, type VgRelations } from '../relations.ts';

/** Whether an LV is the one called `whole`, or a part of it that nothing else uses. */
export function isPartOf(vg: VolumeGroupText, name: string, whole: string): boolean {
  const { lvs } = relationsOf(vg);
  const seen = new Set<string>();
  for (let at: string | undefined = name; at !== undefined && !seen.has(at);) {
    if (at === whole) return true;
    seen.add(at);
    const uses: LvFacts['usedBy'] = lvs.get(at)?.usedBy ?? [];
    at = uses.length === 1 ? uses[0]?.user : undefined;
  }
  return false;
}

/** Refuses what LVM2 does not move either. */
export function checkMovable(vg: VolumeGroupText, source: string, lvName: string | null): void {
  const relations = relationsOf(vg);
  for (const facts of wholes(relations, lvName)) {
    const { lv, name, snapshot } = facts;
    if (!isOn(relations, name, source)) continue;
    const [first] = lv.segments;
    const merging = snapshot?.segment.merging === true || (first?.type === 'thin' && first.merge !== undefined);
    if (merging) throw new CommandError(`Unable to pvmove when merging volume ${vg.name}/${name} is present.`);
    if (facts.uses.some((use) => use.name.includes('_mimagetmp'))) {
      throw new CommandError(`Unable to pvmove when converting volume ${vg.name}/${name} is present.`);
    }
    if (first?.type === 'writecache' && isOn(relations, first.writecache, source)) {
      throw new CommandError(`Unable to move device used for writecache cachevol ${vg.name}/${first.writecache}.`);
    }
    const isCachevol = facts.usedBy.some((use) => use.kind === 'writecache-cache');
    if (isCachevol) throw new CommandError('Unable to pvmove device used for writecache.');
    if (first?.type === 'raid' && hasIntegrity(relations, facts)) {
      throw new CommandError('Unable to pvmove device used for raid with integrity.');
    }
  }
}

/**
 * Labels of the PVs that must not be allocated from: those of mirrors and RAIDs of which a part moves, so that their copies stay
 * apart. Of a RAID image that moves alone, the PV of its metadata (or the other way round) stays allowed.
 */
export function untouchable(vg: VolumeGroupText, source: string, lvName: string | null): ReadonlySet<string> {
  const relations = relationsOf(vg);
  const labels = new Set<string>();
  for (const { lv, name } of wholes(relations, lvName)) {
    const type = lv.segments[0]?.type;
    if (type !== 'raid' && type !== 'raid0' && type !== 'mirror') continue;
    if (!isOn(relations, name, source)) continue;
    const sibling = type === 'raid' && lvName !== null && lvName !== name ? siblingOf(lvName) : null;
    const allowed = sibling === null ? new Set<string>() : pvsUnder(relations, sibling);
    for (const label of pvsUnder(relations, name)) if (!allowed.has(label)) labels.add(label);
  }
  return labels;
}

/** All LVs, or the one that stands above `lvName`. */
function wholes(relations: VgRelations, lvName: string | null): readonly LvFacts[] {
  if (lvName === null) return [...relations.lvs.values()];
  let top = relations.lvs.get(lvName);
  for (const seen = new Set<string>(); top?.parent !== null && top !== undefined && !seen.has(top.name);) {
    seen.add(top.name);
    top = relations.lvs.get(top.parent) ?? top;
  }
  return top === undefined ? [] : [top];
}

function siblingOf(name: string): string | null {
  if (name.includes('_rimage_')) return name.replace('_rimage_', '_rmeta_');
  return name.includes('_rmeta_') ? name.replace('_rmeta_', '_rimage_') : null;
}

function hasIntegrity({ lvs }: VgRelations, facts: LvFacts): boolean {
  return facts.uses.some((use) => lvs.get(use.name)?.lv.segments[0]?.type === 'integrity');
}

function isOn(relations: VgRelations, name: string, label: string): boolean {
  return pvsUnder(relations, name).has(label);
}

/** References to what is no part of an LV. */
const NO_PART: ReadonlySet<string> = new Set([
  'thin-pool',
  'thin-origin',
  'external-origin',
  'snapshot-origin',
  'snapshot-cow',
  'vdo-pool',
]);

function pvsUnder(relations: VgRelations, name: string): ReadonlySet<string> {
  const labels = new Set<string>();
  const seen = new Set<string>();
  const pending = [name];
  for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
    const facts = relations.lvs.get(at);
    if (facts === undefined || seen.has(at)) continue;
    seen.add(at);
    for (const area of facts.lv.segments.flatMap(segmentAreas)) if (relations.pvs.has(area.name)) labels.add(area.name);
    for (const use of facts.uses) if (!NO_PART.has(use.kind)) pending.push(use.name);
  }
  return labels;
}
