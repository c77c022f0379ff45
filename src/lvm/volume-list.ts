/**
 * The lists of LVs in lvm.conf's section activation: "vg", "vg/lv", "@tag" of an LV or its VG, "@*" for any tag of this host.
 *
 * Source: lvm.conf(5) "activation/volume_list"; LVM2 lib/activate/activate.c for what a list that is not set means.
 */
import type { LogicalVolumeText, VolumeGroupText } from '../ondisk/metadata.ts';

/** Whether a list names an LV. */
export function isListed(
  list: readonly string[],
  vg: VolumeGroupText,
  lv: LogicalVolumeText,
  hostTags: readonly string[],
): boolean {
  const tags = new Set([...lv.tags, ...vg.tags]);
  return list.some((entry) => {
    if (entry === '@*') return hostTags.some((tag) => tags.has(tag));
    if (entry.startsWith('@')) return tags.has(entry.slice(1));
    return entry === vg.name || entry === `${vg.name}/${lv.name}`;
  });
}

/** Whether activation/volume_list (null: not set) lets an LV be active: without a list, hosts with tags take LVs with one of them. */
export function passesVolumeList(
  list: readonly string[] | null,
  vg: VolumeGroupText,
  lv: LogicalVolumeText,
  hostTags: readonly string[],
): boolean {
  if (list !== null) return isListed(list, vg, lv, hostTags);
  return hostTags.length === 0 || isListed(['@*'], vg, lv, hostTags);
}
