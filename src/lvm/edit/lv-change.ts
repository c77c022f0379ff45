/**
 * lvchange: the properties of an LV that are kept in the metadata.
 *
 * Invariants
 *  - Each property is changed or refused for itself: LVM2 commits what went well and then fails for the rest.
 *  - Extents are never touched.
 *
 * Source: lvchange(8); messages of lvchange 2.03.16.
 */
import type { AllocationPolicy, LogicalVolumeText } from '../../ondisk/metadata.ts';
import type { VolumeGroup } from '../model.ts';
import type { LvFacts } from '../relations.ts';
import { CommandError } from './errors.ts';
import { displayName, lvFacts, replaceLv, withFlag, withStatus } from './lv-facts.ts';
import type { Notes } from './lv-notes.ts';
import { emptyPlan, type Plan } from './plan.ts';

/** One property and its new value; they are applied in the order given. */
export type LvProperty =
  | { readonly kind: 'addtag' | 'deltag'; readonly tags: readonly string[] }
  | { readonly kind: 'alloc'; readonly policy: AllocationPolicy }
  | { readonly kind: 'permission'; readonly writable: boolean }
  /** Sectors, -1 for none; null: auto. */
  | { readonly kind: 'readahead'; readonly sectors: number | null }
  | { readonly kind: 'setactivationskip' | 'setautoactivation'; readonly on: boolean }
  /** The metadata profile's name; empty: none any more. */
  | { readonly kind: 'profile'; readonly name: string }
  /** Null: not persistent. */
  | { readonly kind: 'persistent'; readonly device: { readonly major: number; readonly minor: number } | null };

export interface LvChange {
  /** Null: nothing to commit. */
  readonly plan: Plan | null;
  /** Those of the plan, also when there is none. */
  readonly messages: Plan['messages'];
  /** What was refused, for stderr; then the command fails. */
  readonly refused: readonly string[];
}

/** Changes properties of one LV. */
export function changeLv(
  group: VolumeGroup,
  lvName: string,
  properties: readonly LvProperty[],
  notes: Notes,
): LvChange {
  const { vg } = group;
  const facts = lvFacts(vg, lvName);
  if (facts === null) throw new CommandError(`Failed to find logical volume "${vg.name}/${lvName}"`);
  const refused: string[] = [];
  let { lv } = facts;
  for (const property of properties) {
    const outcome = changed(displayName(vg, lv), lv, facts, property);
    if (typeof outcome === 'string') refused.push(outcome);
    else lv = outcome;
  }
  // Setting a device number is a command of its own to LVM2, a silent one.
  const silent = properties.every((property) => property.kind === 'persistent' && property.device !== null);
  if (refused.length < properties.length && !silent) notes.done(`Logical volume ${displayName(vg, lv)} changed.`);
  const plan = { ...emptyPlan(group, replaceLv(vg, lvName, lv)), messages: notes.messages };
  return { plan: lv === facts.lv ? null : plan, messages: notes.messages, refused };
}

/** The LV with the property, or why not. */
function changed(
  name: string,
  lv: LogicalVolumeText,
  facts: LvFacts,
  property: LvProperty,
): LogicalVolumeText | string {
  switch (property.kind) {
    case 'addtag':
      return { ...lv, tags: [...new Set([...lv.tags, ...property.tags])] };
    case 'deltag':
      return { ...lv, tags: lv.tags.filter((tag) => !property.tags.includes(tag)) };
    case 'alloc':
      return withPolicy(name, lv, property.policy);
    case 'permission':
      return withPermission(name, lv, facts, property.writable);
    case 'readahead':
      return withReadAhead(name, lv, property.sectors);
    case 'setactivationskip':
      return lv.flags.includes('ACTIVATION_SKIP') === property.on ? lv : withFlag(lv, 'ACTIVATION_SKIP', property.on);
    case 'setautoactivation':
      return lv.flags.includes('NOAUTOACTIVATE') === property.on ? withFlag(lv, 'NOAUTOACTIVATE', !property.on) : lv;
    case 'profile':
      return withProfile(lv, property.name);
    case 'persistent':
      return withDevice(name, lv, property.device);
  }
  return lv;
}

function withProfile({ profile: _old, ...rest }: LogicalVolumeText, name: string): LogicalVolumeText {
  return name === '' ? rest : { ...rest, profile: name };
}

function withPolicy(name: string, lv: LogicalVolumeText, policy: AllocationPolicy): LogicalVolumeText | string {
  if (policy === (lv.allocationPolicy ?? 'inherit')) {
    return `Allocation policy of logical volume ${name} is already ${policy}.`;
  }
  const { allocationPolicy: _old, ...rest } = lv;
  return policy === 'inherit' ? rest : { ...rest, allocationPolicy: policy };
}

function withPermission(
  name: string,
  lv: LogicalVolumeText,
  facts: LvFacts,
  writable: boolean,
): LogicalVolumeText | string {
  if (facts.usedBy.some((use) => use.kind === 'external-origin') || lv.segments[0]?.type === 'thin-pool') {
    return `Command not permitted on LV ${name}.`;
  }
  if (lv.status.includes('WRITE') !== writable) return withStatus(lv, 'WRITE', writable);
  return writable ? `Logical volume ${name} is already writable.` : `Logical volume "${name}" is already read only.`;
}

function withReadAhead(name: string, lv: LogicalVolumeText, sectors: number | null): LogicalVolumeText | string {
  const { readAhead: old = null, ...rest } = lv;
  if (old === sectors) {
    if (sectors === null) return `Read ahead is already auto for ${name}.`;
    return `Read ahead is already ${Math.max(sectors, 0)} for ${name}.`;
  }
  return sectors === null ? rest : { ...rest, readAhead: sectors };
}

function withDevice(
  name: string,
  lv: LogicalVolumeText,
  device: { readonly major: number; readonly minor: number } | null,
): LogicalVolumeText | string {
  if (device !== null) return { ...withStatus(lv, 'FIXED_MINOR', true), ...device };
  if (!lv.status.includes('FIXED_MINOR')) return `Minor number is already not persistent for ${name}.`;
  const { major: _major, minor: _minor, ...rest } = withStatus(lv, 'FIXED_MINOR', false);
  return rest;
}
