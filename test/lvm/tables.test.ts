/** Properties of every table: it tiles the LV, stays in its extents, and shares no sector with another LV's. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import type { LinearParams, StripedParams, TableLine } from '../../src/dm/table.ts';
import { PLAIN_HOST } from '../../src/lvm/access.ts';
import { activationPlan } from '../../src/lvm/activate.ts';
import { allocationMapOf } from '../../src/lvm/allocation-map.ts';
import { relationsOf } from '../../src/lvm/relations.ts';
import { groupOf, linear, vgText } from './images.ts';

const EXTENT = 2048;
const PE_START = 2048;
const PE_COUNT = 16;
const PVS = 3;

/** How the next segment is cut from what is free: its LV, its stripes, the extents of each stripe. */
interface Cut {
  readonly lv: number;
  readonly stripes: number;
  readonly extents: number;
  readonly firstPv: number;
}

const cuts: fc.Arbitrary<readonly Cut[]> = fc.array(
  fc.record({
    lv: fc.nat(4),
    stripes: fc.integer({ min: 1, max: PVS }),
    extents: fc.integer({ min: 1, max: 5 }),
    firstPv: fc.nat(PVS - 1),
  }),
  { maxLength: 12 },
);

/** Cuts segments from the PVs, front to back; what no longer fits is left out. */
function textOf(list: readonly Cut[]): string {
  const used = Array.from({ length: PVS }, () => 0);
  const lvs = new Map<number, { readonly segments: string[]; length: number }>();
  for (const { lv, stripes, extents, firstPv } of list) {
    const pvs = Array.from({ length: stripes }, (_, index) => (firstPv + index) % PVS);
    if (pvs.some((pv) => (used[pv] ?? 0) + extents > PE_COUNT)) continue;
    const areas = pvs.map((pv) => [`pv${pv}`, used[pv] ?? 0] as const);
    for (const pv of pvs) used[pv] = (used[pv] ?? 0) + extents;
    const whole = lvs.get(lv) ?? { segments: [], length: 0 };
    lvs.set(lv, whole);
    whole.segments.push(segmentText(whole.length, extents, areas));
    whole.length += extents * stripes;
  }
  return vgText(
    [...lvs].map(([lv, { segments }]) => ({ name: `lv${lv}`, segments })),
    { pvs: PVS },
  );
}

function segmentText(start: number, extents: number, areas: readonly (readonly [string, number])[]): string {
  const [first] = areas;
  if (areas.length === 1 && first !== undefined) return linear(start, extents, ...first);
  const names = areas.map(([name, extent]) => `"${name}", ${extent}`).join(',\n');
  return (
    `start_extent = ${start}\nextent_count = ${extents * areas.length}\n\ntype = "striped"\n` +
    `stripe_count = ${areas.length}\nstripe_size = 128\n\nstripes = [\n${names}\n]`
  );
}

/** Device ranges of a line, each `[device, first sector, end)`. */
function rangesOf(line: TableLine): readonly (readonly [string, number, number])[] {
  const params = line.params as LinearParams & StripedParams;
  const stripes: readonly LinearParams[] = line.target === 'striped' ? params.stripes : [params];
  return stripes.map(({ device, offset }) => {
    assert(typeof device === 'string');
    return [device, offset, offset + line.length / stripes.length];
  });
}

test('tables tile, stay inside and never meet', async () => {
  await fc.assert(
    fc.asyncProperty(cuts, async (list) => {
      const group = await groupOf(textOf(list));
      const relations = relationsOf(group.vg);
      const taken: (readonly [string, number, number])[] = [];
      for (const found of activationPlan(group, { host: PLAIN_HOST })) {
        assert.ok(found.active, found.exportName);
        let next = 0;
        for (const line of found.table) {
          assert.equal(line.start, next);
          next += line.length;
          taken.push(...rangesOf(line));
        }
        assert.equal(next, relations.lvs.get(found.lv.name)?.sizeSectors);
        assert.deepEqual(new Set(found.devices), new Set(found.table.flatMap(rangesOf).map(([device]) => device)));
      }
      taken.sort((a, b) => (a[0] === b[0] ? a[1] - b[1] : a[0] < b[0] ? -1 : 1));
      for (const [index, [device, start, end]] of taken.entries()) {
        assert.ok(start >= PE_START && end <= PE_START + PE_COUNT * EXTENT);
        const after = taken[index + 1];
        assert.ok(after === undefined || after[0] !== device || after[1] >= end, `${device} at ${end}`);
      }
      const sectors = taken.reduce((sum, [, start, end]) => sum + end - start, 0);
      const map = allocationMapOf(group.vg);
      assert.equal(map.allocated * EXTENT, sectors);
      for (const pv of map.pvs.values()) {
        let pe = 0;
        for (const segment of pv.segments) {
          assert.equal(segment.startPe, pe);
          pe += segment.length;
        }
        assert.equal(pe, PE_COUNT);
      }
    }),
    { numRuns: 150 },
  );
});
