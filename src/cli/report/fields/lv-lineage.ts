/**
 * Ancestors and descendants of LVs along COW, thin and external origins, with and without the removed LVs that the VG's
 * history remembers.
 *
 * LVM2's habits, kept: an LV with COW snapshots has only those as descendants; a removed LV is named with a leading "-", and
 * is left out (but not what lies behind it) when history isn't asked for.
 * A loop of origins in a damaged text ends where it closes.
 */
import { relationsOf } from '../../../lvm/relations.ts';
import type { HistoricalLogicalVolumeText, VolumeGroupText } from '../../../ondisk/metadata.ts';

/** A node of the tree: a live LV's name, or a removed LV. */
type Node = { readonly live: string } | { readonly removed: HistoricalLogicalVolumeText };

export interface LineageOptions {
  /** Follow and show history (lv_full_ancestors, lv_full_descendants). */
  readonly full: boolean;
  /** Show removed LVs themselves (lvs -H). */
  readonly showRemoved: boolean;
}

export function removedName(removed: HistoricalLogicalVolumeText): string {
  return removed.name ?? removed.label;
}

/** What a reference of the text names: "-name" is a removed LV. */
function resolve(vg: VolumeGroupText, reference: string): Node | null {
  if (!reference.startsWith('-')) return { live: reference };
  const removed = vg.historicalLogicalVolumes.find((lv) => removedName(lv) === reference.slice(1));
  return removed === undefined ? null : { removed };
}

function parentOf(vg: VolumeGroupText, node: Node, full: boolean): Node | null {
  if ('removed' in node) return node.removed.origin === undefined ? null : resolve(vg, node.removed.origin);
  const facts = relationsOf(vg).lvs.get(node.live);
  if (facts === undefined) return null;
  const origin =
    facts.uses.find((use) => use.kind === 'thin-origin') ?? facts.uses.find((use) => use.kind === 'external-origin');
  const live = facts.snapshot?.origin ?? origin?.name;
  if (live !== undefined) return { live };
  const removed = full ? removedParent(vg, node.live) : undefined;
  return removed === undefined ? null : { removed };
}

function removedParent(vg: VolumeGroupText, name: string): HistoricalLogicalVolumeText | undefined {
  return vg.historicalLogicalVolumes.find((lv) => lv.descendants.includes(name));
}

function childrenOf(vg: VolumeGroupText, node: Node, full: boolean): readonly Node[] {
  if ('removed' in node) {
    const byOrigin = vg.historicalLogicalVolumes.filter((lv) => lv.origin === `-${removedName(node.removed)}`);
    return [...node.removed.descendants.map((live) => ({ live })), ...byOrigin.map((removed) => ({ removed }))];
  }
  const facts = relationsOf(vg).lvs.get(node.live);
  if (facts === undefined) return [];
  const removed = full
    ? vg.historicalLogicalVolumes.filter((lv) => lv.origin === node.live).map((lv) => ({ removed: lv }))
    : [];
  if (facts.snapshots.length > 0) return [...facts.snapshots.map((link) => ({ live: link.cow })), ...removed];
  const thin = facts.usedBy.filter((use) => use.kind === 'thin-origin' || use.kind === 'external-origin');
  return [...thin.map((use) => ({ live: use.user })), ...removed];
}

function keyOf(node: Node): string {
  return 'live' in node ? node.live : `-${removedName(node.removed)}`;
}

/** Collects the names that `options` let be seen. */
class Names {
  readonly #seen = new Set<string>();
  readonly list: string[] = [];
  readonly #options: LineageOptions;
  constructor(start: Node, options: LineageOptions) {
    this.#seen.add(keyOf(start));
    this.#options = options;
  }
  /** False: seen before. */
  add(node: Node): boolean {
    const key = keyOf(node);
    if (this.#seen.has(key)) return false;
    this.#seen.add(key);
    if ('live' in node || this.#options.showRemoved) this.list.push(key);
    return true;
  }
}

/** Nearest first. */
export function ancestors(vg: VolumeGroupText, start: Node, options: LineageOptions): readonly string[] {
  const names = new Names(start, options);
  let node = parentOf(vg, start, options.full);
  while (node !== null && names.add(node)) node = parentOf(vg, node, options.full);
  return names.list;
}

/** Each child followed by its own descendants. */
export function descendants(vg: VolumeGroupText, start: Node, options: LineageOptions): readonly string[] {
  const names = new Names(start, options);
  const pending = childrenOf(vg, start, options.full).toReversed();
  for (let node = pending.pop(); node !== undefined; node = pending.pop()) {
    if (names.add(node)) pending.push(...childrenOf(vg, node, options.full).toReversed());
  }
  return names.list;
}
