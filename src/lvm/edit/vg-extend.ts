/**
 * vgextend: PVs join a volume group, or missing ones that came back are used again (facts: LVM2 tools/vgextend.c).
 *
 * Invariant: nothing of the VG's other PVs and LVs changes.
 */
import type { PhysicalVolumeText } from '../../ondisk/metadata.ts';
import type { LabelledDevice, VolumeGroup } from '../model.ts';
import { CommandError } from './errors.ts';
import { emptyPlan, type Plan, type PlanMessage } from './plan.ts';
import { withMembers } from './vg-member.ts';

/** PVs join. `setCopies`: the wanted number of metadata copies follows the areas in use (vgextend --metadataignore). */
export function extendVgPlan(group: VolumeGroup, joining: readonly LabelledDevice[], setCopies: boolean): Plan {
  const { vg } = group;
  if (!vg.status.includes('RESIZEABLE')) throw new CommandError(`Volume group ${vg.name} is not resizeable.`);
  const after = withMembers(vg, joining);
  const plan = { ...emptyPlan(group, after), joining, messages: [extended(vg.name)] };
  const copies = vg.metadataCopies ?? 0;
  const used = usedAreas([...group.pvs.flatMap((pv) => pv.found ?? []), ...joining]);
  if (!setCopies || copies === 0 || copies === used) return plan;
  const text = `WARNING: Changing preferred number of copies of VG ${vg.name} metadata from ${copies} to ${used}`;
  return {
    ...plan,
    after: { ...after, metadataCopies: used },
    messages: [{ stream: 'stderr', when: 'before', text }, ...plan.messages],
  };
}

/** Metadata areas in use. */
export function usedAreas(devices: readonly LabelledDevice[]): number {
  return devices.flatMap((found) => found.metadataAreas).filter((area) => !area.ignored && area.problem === undefined)
    .length;
}

function extended(name: string): PlanMessage {
  return { stream: 'stdout', when: 'after', text: `Volume group "${name}" successfully extended` };
}

/** A PV that the user names, with the PV of the VG that is meant; null: there is none. */
export interface NamedPv {
  readonly name: string;
  readonly uuid: string | null;
}

/** vgextend --restoremissing. Throws CommandError if there is nothing to restore. */
export function restoreMissingPlan(group: VolumeGroup, named: readonly NamedPv[]): Plan {
  const { vg } = group;
  const messages: PlanMessage[] = [];
  const restored = new Set<string>();
  for (const { name, uuid } of named) {
    const pv = group.pvs.find((candidate) => candidate.uuid === uuid);
    if (pv !== undefined && pv.found !== null && isFlagged(pv.text)) restored.add(pv.uuid);
    else messages.push({ stream: 'stderr', when: 'before', text: whyNot(vg.name, name, pv) });
  }
  if (restored.size === 0) {
    throw new CommandError([...messages.map((message) => message.text), 'No PV has been restored.']);
  }
  const physicalVolumes = vg.physicalVolumes.map((pv) => (restored.has(pv.id) ? withoutFlag(pv) : pv));
  return {
    ...emptyPlan(group, { ...vg, physicalVolumes }),
    messages: [...messages, extended(vg.name)],
  };
}

function whyNot(vgName: string, name: string, pv: VolumeGroup['pvs'][number] | undefined): string {
  if (pv === undefined) return `WARNING: PV ${name} not found in VG ${vgName}`;
  if (pv.found === null) return `WARNING: The PV ${name} is still missing.`;
  return `WARNING: PV ${name} was not missing in VG ${vgName}`;
}

function isFlagged(pv: PhysicalVolumeText | undefined): boolean {
  return pv !== undefined && (pv.flags.includes('MISSING') || pv.status.includes('MISSING'));
}

function withoutFlag(pv: PhysicalVolumeText): PhysicalVolumeText {
  return { ...pv, flags: otherWords(pv.flags), status: otherWords(pv.status) };
}

function otherWords(words: readonly string[]): readonly string[] {
  return words.filter((word) => word !== 'MISSING');
}
