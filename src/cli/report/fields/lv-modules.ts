/**
 * lv_modules: the kernel modules that device-mapper would need for an LV, its own targets' and those of the LVs that its
 * segments map onto. Pools, cache pools and metadata LVs are loaded for themselves and don't count.
 *
 * Source: observed with LVM2 2.03.16 on every kind of LV.
 */
import type { VgRelations } from '../../../lvm/relations.ts';
import type { Segment } from '../../../ondisk/metadata.ts';
import { dataAreas } from './segment-areas.ts';

/** Modules of a segment's own target. */
function targetModules(segment: Segment): readonly string[] {
  switch (segment.type) {
    case 'mirror':
    case 'error':
    case 'zero':
    case 'thin-pool':
    case 'cache':
    case 'writecache':
    case 'integrity':
      return [segment.type];
    case 'raid0':
    case 'raid':
      return ['raid'];
    case 'thin':
      return ['thin', 'thin-pool'];
    case 'cache-pool':
      return ['cache'];
    case 'vdo':
    case 'vdo-pool':
      return ['kvdo'];
    case 'unknown':
      return [segment.typeName];
    case 'striped':
    case 'snapshot':
      break;
  }
  return [];
}

/** Unsorted, without repetitions. */
export function lvModules(relations: VgRelations, name: string): readonly string[] {
  const modules = new Set<string>();
  const seen = new Set<string>();
  const pending = [name];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const facts = relations.lvs.get(next);
    if (facts === undefined || seen.has(next)) continue;
    seen.add(next);
    if (facts.snapshot !== null || facts.snapshots.length > 0) modules.add('snapshot');
    for (const segment of facts.lv.segments) {
      for (const module of targetModules(segment)) modules.add(module);
      for (const area of dataAreas(segment)) if (!relations.pvs.has(area.name)) pending.push(area.name);
    }
  }
  return [...modules];
}
