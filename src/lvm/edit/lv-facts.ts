/**
 * What edits of LVs ask of an LV, and small ways to change one.
 *
 * Invariant: status and flag words stay in the order in which LVM2 writes them.
 */
import type { LogicalVolumeText, VolumeGroupText } from '../../ondisk/metadata.ts';
import { allocationMapOf } from '../allocation-map.ts';
import type { ConcretePolicy } from '../allocate/request.ts';
import { isComponentKind, segmentAreas } from '../references.ts';
import { isPvmove, relationsOf, segmentTypeName, type LvFacts } from '../relations.ts';

/** 32-bit extent counts, in an LV and in a VG. */
export const MAX_EXTENTS = 0xffffffff;

/** In the order in which LVM2 writes them (lib/format_text/flags.c). */
const STATUS_ORDER: readonly string[] = ['READ', 'WRITE', 'FIXED_MINOR', 'VISIBLE', 'PVMOVE', 'LOCKED', 'NOTSYNCED'];
const FLAG_ORDER: readonly string[] = ['ACTIVATION_SKIP', 'NOAUTOACTIVATE', 'ERROR_WHEN_FULL', 'CACHE_VOL'];

/** "vg/lv" */
export function displayName(vg: VolumeGroupText, lv: { readonly name: string }): string {
  return `${vg.name}/${lv.name}`;
}

export function lvFacts(vg: VolumeGroupText, name: string): LvFacts | null {
  return relationsOf(vg).lvs.get(name) ?? null;
}

/** Free extents of the VG as LVM2 counts them for messages: of all PVs. */
export function freeExtents(vg: VolumeGroupText): number {
  return allocationMapOf(vg).free;
}

/** What "inherit" comes down to. */
export function policyOf(vg: VolumeGroupText, policy: LogicalVolumeText['allocationPolicy']): ConcretePolicy {
  if (policy !== undefined && policy !== 'inherit') return policy;
  const own = vg.allocationPolicy;
  return own === undefined || own === 'inherit' ? 'normal' : own;
}

export function withStatus(lv: LogicalVolumeText, word: string, on: boolean): LogicalVolumeText {
  return { ...lv, status: toggled(lv.status, word, on, STATUS_ORDER) };
}

export function withFlag(lv: LogicalVolumeText, word: string, on: boolean): LogicalVolumeText {
  return { ...lv, flags: toggled(lv.flags, word, on, FLAG_ORDER) };
}

function toggled(words: readonly string[], word: string, on: boolean, order: readonly string[]): readonly string[] {
  const others = words.filter((other) => other !== word);
  if (!on) return others;
  const rank = (name: string): number => (order.includes(name) ? order.indexOf(name) : order.length);
  const at = others.findIndex((other) => rank(other) > rank(word));
  return at < 0 ? [...others, word] : others.toSpliced(at, 0, word);
}

export function replaceLv(vg: VolumeGroupText, name: string, lv: LogicalVolumeText): VolumeGroupText {
  return { ...vg, logicalVolumes: vg.logicalVolumes.map((other) => (other.name === name ? lv : other)) };
}

/**
 * Why an LV is none whose extents we can change: its type, or its part in another one. Null for linear, striped, error and
 * zero LVs on PVs that stand for themselves, COW snapshots and their origins among them.
 */
export function complexity(vg: VolumeGroupText, facts: LvFacts): string | null {
  const { pvs } = relationsOf(vg);
  if (isPvmove(facts.lv)) return 'LV type pvmove is not supported yet';
  for (const segment of facts.lv.segments) {
    const plain = segment.type === 'striped' || segment.type === 'error' || segment.type === 'zero';
    if (!plain || segmentAreas(segment).some((area) => !pvs.has(area.name))) {
      return `LV type ${plain ? 'with layers' : segmentTypeName(segment)} is not supported yet`;
    }
  }
  const part = facts.usedBy.find(({ kind }) => isComponentKind(kind) && kind !== 'snapshot-cow');
  return part === undefined ? null : `it is part of ${vg.name}/${part.user}`;
}
