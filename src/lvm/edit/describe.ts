/** A plan in words, for `--test`: what would be written where. */
import type { Effect, Plan } from './plan.ts';

/** Lines for people, in the order in which things would happen. */
export function describePlan(plan: Plan): readonly string[] {
  const lines: string[] = [];
  for (const { device, label, kind } of plan.labels) {
    const what = kind === 'create' ? 'initialise the physical volume' : 'rewrite the header of the physical volume';
    lines.push(`Would ${what} ${device.path} (${label.uuid}).`);
  }
  const { before, after } = plan;
  if (after !== null) {
    const seqno = (before?.vg.seqno ?? after.seqno - 1) + 1;
    const devices = after.physicalVolumes.length;
    lines.push(`Would commit volume group ${after.name}, seqno ${seqno}, to ${devices} physical volume(s).`);
    lines.push(...describeVolumes(plan));
  } else if (before !== null) lines.push(`Would remove volume group ${before.vg.name}.`);
  for (const { device } of plan.wipes) lines.push(`Would wipe the labels of ${device.path}.`);
  return [...lines, ...plan.effects.map(describeEffect)];
}

/** Logical volumes that come, go or change. */
function describeVolumes({ before, after }: Plan): readonly string[] {
  const old = new Map(before?.vg.logicalVolumes.map((lv) => [lv.id, lv]));
  const lines: string[] = [];
  for (const lv of after?.logicalVolumes ?? []) {
    const was = old.get(lv.id);
    old.delete(lv.id);
    const extents = lv.segments.reduce((sum, segment) => sum + segment.extentCount, 0);
    if (was === undefined) lines.push(`  new logical volume ${lv.name}, ${extents} extent(s)`);
    else if (was !== lv) lines.push(`  changed logical volume ${lv.name}, ${extents} extent(s)`);
  }
  for (const lv of old.values()) lines.push(`  removed logical volume ${lv.name}`);
  return lines;
}

function describeEffect(effect: Effect): string {
  if (effect.kind === 'wipe-lv') return `Would zero the first ${effect.zeroBytes} bytes of ${effect.lvName}.`;
  return `Would overwrite ${effect.what} (${effect.method}).`;
}
