/**
 * `allocation/cling_tag_list`: which tags make PVs belong together ("@rack1", or "@*" for any tag).
 * Entries without "@" mean nothing (LVM2 warns of them).
 */

/** Whether two lists of tags have one in common that the list names. */
export function shareClingTag(list: readonly string[], a: readonly string[], b: readonly string[]): boolean {
  return list.some((entry) => {
    if (!entry.startsWith('@')) return false;
    const tag = entry.slice(1);
    if (tag === '') return false;
    if (tag === '*') return a.some((own) => b.includes(own));
    return a.includes(tag) && b.includes(tag);
  });
}
