/**
 * Tables of LVs on a pvmove in progress: every byte comes from where the metadata says that it is, at every stage of every move, and
 * only the step in progress is mirrored.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import type { LinearParams, MirrorParams, StripedParams, Table } from '../../src/dm/table.ts';
import { PLAIN_HOST } from '../../src/lvm/access.ts';
import { type ActivationOptions, activationPlan } from '../../src/lvm/activate.ts';
import { DEFAULT_ALLOCATION } from '../../src/lvm/allocate/request.ts';
import type { VolumeGroup } from '../../src/lvm/model.ts';
import { movesOf, placeOf } from '../../src/lvm/pvmove/moves.ts';
import { stepDone } from '../../src/lvm/pvmove/finish.ts';
import { startMove } from '../../src/lvm/pvmove/start.ts';
import type { SegmentArea } from '../../src/ondisk/metadata.ts';
import { diskTexts } from '../ondisk/samples.ts';
import { changed, groupOf, imagesOf, linear, scanImages, vgText } from './images.ts';

const EXTENT = 2048;
const PE_START = 2048;
const OPTIONS: ActivationOptions = { host: PLAIN_HOST };

function tableOf(group: VolumeGroup, name: string, options: Partial<ActivationOptions> = {}): Table {
  const entry = activationPlan(group, { ...OPTIONS, ...options }).find(({ lv }) => lv.name === name);
  assert(entry?.active === true, JSON.stringify(entry));
  return entry.table;
}

/** Where a sector of a table is: the device and sector of the truth, and of the copy if there is one. */
interface Place {
  readonly at: string;
  readonly copy?: string;
}

function placeIn(table: Table, sector: number): Place {
  const line = table.find(({ start, length }) => sector >= start && sector < start + length);
  assert(line !== undefined);
  const inLine = sector - line.start;
  const leg = ({ device, offset }: LinearParams, at: number): Place =>
    typeof device === 'string' ? { at: `${device} ${offset + at}` } : placeIn(device.table, offset + at);
  if (line.target === 'linear') return leg(line.params as LinearParams, inLine);
  if (line.target === 'mirror') {
    const [from, to] = (line.params as MirrorParams).mirrors.map((mirror) => leg(mirror, inLine));
    assert(from !== undefined && to !== undefined);
    return { at: from.at, copy: to.at };
  }
  assert.equal(line.target, 'striped');
  const { chunkSize, stripes } = line.params as StripedParams;
  const chunk = Math.floor(inLine / chunkSize);
  const stripe = stripes[chunk % stripes.length];
  assert(stripe !== undefined);
  return leg(stripe, Math.floor(chunk / stripes.length) * chunkSize + (inLine % chunkSize));
}

/** The same from the metadata alone. */
function placeOfSector(group: VolumeGroup, name: string, sector: number, mirrored: boolean): Place {
  const lv = group.vg.logicalVolumes.find((candidate) => candidate.name === name);
  const extent = Math.floor(sector / EXTENT);
  const segment = lv?.segments.find((one) => extent >= one.startExtent && extent < one.startExtent + one.extentCount);
  assert(segment?.type === 'striped');
  const inSegment = sector - segment.startExtent * EXTENT;
  const size = segment.stripeSizeSectors ?? segment.extentCount * EXTENT;
  const chunk = Math.floor(inSegment / size);
  const area = segment.areas[chunk % segment.areas.length];
  assert(area !== undefined);
  const at = area.extent * EXTENT + Math.floor(chunk / segment.areas.length) * size + (inSegment % size);
  const onPv = (place: SegmentArea, ahead: number): string =>
    `/img/${place.name} ${PE_START + place.extent * EXTENT + ahead}`;
  const move = movesOf(group.vg).find((candidate) => candidate.lv.name === area.name);
  if (move === undefined) return { at: onPv({ name: area.name, extent: 0 }, at) };
  const step = move.steps.find(({ start, length }) => at >= start * EXTENT && at < (start + length) * EXTENT);
  assert(step !== undefined);
  const ahead = at - step.start * EXTENT;
  const current = !step.done && (move.atomic || step === move.steps.find(({ done }) => !done));
  const truth = { at: onPv(placeOf(step), ahead) };
  return mirrored && current ? { ...truth, copy: onPv(step.to, ahead) } : truth;
}

interface Cut {
  readonly extents: number;
  readonly stripes: number;
  readonly gap: number;
}

/** LVs of one or two segments, all with extents on pv0. */
function textOf(cuts: readonly Cut[]): string {
  const used = [0, 0];
  const lvs = cuts.flatMap(({ extents, stripes, gap }, index) => {
    const at = (used[0] ?? 0) + gap;
    if (at + extents > 16 || (stripes > 1 && (used[1] ?? 0) + extents > 16)) return [];
    used[0] = at + extents;
    if (stripes === 1) return [{ name: `lv${index}`, segments: [linear(0, extents, 'pv0', at)] }];
    const other = used[1] ?? 0;
    used[1] = other + extents;
    const segment =
      `start_extent = 0\nextent_count = ${extents * 2}\n\ntype = "striped"\nstripe_count = 2\nstripe_size = 128\n\n` +
      `stripes = [\n"pv1", ${other},\n"pv0", ${at}\n]`;
    return [{ name: `lv${index}`, segments: [segment] }];
  });
  return vgText(lvs, { pvs: 4 });
}

interface Move {
  readonly from: number;
  readonly count: number;
  /** Lengths of the free ranges of the first destination: several make several steps. */
  readonly holes: readonly number[];
  readonly atomic: boolean;
  readonly done: number;
}

const moves: fc.Arbitrary<Move & { readonly cuts: readonly Cut[] }> = fc.record({
  cuts: fc.array(
    fc.record({ extents: fc.integer({ min: 1, max: 5 }), stripes: fc.constantFrom(1, 2), gap: fc.nat(2) }),
    { minLength: 1, maxLength: 5 },
  ),
  from: fc.nat(8),
  count: fc.integer({ min: 1, max: 16 }),
  holes: fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 5, maxLength: 5 }),
  atomic: fc.boolean(),
  done: fc.nat(6),
});

function begun(group: VolumeGroup, move: Move): VolumeGroup {
  let at = 0;
  const ranges = move.holes.map((count) => {
    const range = { start: at, count };
    at += count + 1;
    return range;
  });
  const plan = startMove({
    group,
    source: { label: 'pv0', ranges: [{ start: move.from, count: move.count }] },
    lvName: null,
    candidates: [
      { label: 'pv2', tags: [], ranges: ranges.filter(({ start, count }) => start + count <= 16) },
      { label: 'pv3', tags: [], ranges: null },
    ],
    policy: 'normal',
    atomic: move.atomic,
    settings: DEFAULT_ALLOCATION,
    regionSectors: 1024,
    creationTime: 0,
    creationHost: 'test',
    say: () => undefined,
  });
  let vg = plan.after!;
  for (let count = 0; !move.atomic && count < move.done; count++) {
    const [running] = movesOf(vg);
    const step = running?.steps.find(({ done }) => !done);
    if (running === undefined || step === undefined) break;
    vg = stepDone({ ...group, vg }, running, step).after!;
  }
  return { ...group, vg };
}

describe('tables of LVs on a pvmove', () => {
  test('every sector comes from where the metadata says, and only the step in progress is copied', async () => {
    let moved = 0;
    await fc.assert(
      fc.asyncProperty(moves, async ({ cuts, ...move }) => {
        const group = await groupOf(textOf(cuts));
        let moving: VolumeGroup;
        try {
          moving = begun(group, move);
        } catch (error) {
          assert.match(String(error), /No data to move|Insufficient|Unable to allocate/);
          return;
        }
        moved++;
        for (const lv of group.vg.logicalVolumes) {
          for (const mode of ['mirror', 'source'] as const) {
            const table = tableOf(moving, lv.name, { moves: mode });
            const sectors = table.reduce((sum, line) => sum + line.length, 0);
            for (let sector = 0; sector < sectors; sector += 64) {
              assert.deepEqual(placeIn(table, sector), placeOfSector(moving, lv.name, sector, mode === 'mirror'));
            }
          }
        }
      }),
      { numRuns: 150 },
    );
    assert(moved > 20, `${moved} moves were begun`);
  });

  test('a sample of LVM2, in progress', async () => {
    const text = diskTexts().find(({ name }) => name === '10a-pvmove.raw')?.text ?? '';
    const group = await groupOf(text);
    const [move] = movesOf(group.vg);
    assert(move !== undefined);
    for (const lv of group.vg.logicalVolumes.filter(({ status }) => status.includes('VISIBLE'))) {
      const table = tableOf(group, lv.name, { moves: 'mirror' });
      const names = table.flatMap(({ params }) => {
        const { device } = params as LinearParams;
        return typeof device === 'string' || device === undefined ? [] : [device.name];
      });
      for (const name of names) assert.equal(name, `${group.vg.name}/${move.lv.name}`);
    }
  });

  test('a destination that is gone or takes no writes leaves the source to serve', async () => {
    const group = await groupOf(vgText([{ name: 'a', segments: [linear(0, 4, 'pv0', 0)] }], { pvs: 4 }));
    const moving = begun(group, { from: 0, count: 4, holes: [4, 1, 1, 1, 1], atomic: false, done: 0 });
    const [line] = tableOf(moving, 'a', { moves: 'mirror' });
    assert(line !== undefined);
    assert.equal(typeof (line.params as LinearParams).device, 'object');
    const gone: VolumeGroup = {
      ...moving,
      pvs: moving.pvs.map((pv) => (pv.text?.label === 'pv2' ? { ...pv, found: null, missing: true } : pv)),
    };
    const plain = [
      { start: 0, length: 4 * EXTENT, target: 'linear', params: { device: '/img/pv0', offset: PE_START } },
    ];
    assert.deepEqual(tableOf(gone, 'a', { moves: 'mirror' }), plain);
    assert.deepEqual(tableOf(moving, 'a', { moves: 'mirror', readOnly: true }), plain);
    assert.deepEqual(tableOf(moving, 'a'), plain);
    const images = imagesOf(vgText([{ name: 'a', segments: [linear(0, 4, 'pv0', 0)] }], { pvs: 4 }));
    const scan = await scanImages(images.map((image, index) => changed(image, { readOnly: index === 2 })));
    assert.deepEqual(tableOf({ ...scan.volumeGroups[0]!, vg: moving.vg }, 'a', { moves: 'mirror' }), plain);
  });

  test('extents of a pvmove LV that do not exist', async () => {
    const group = await groupOf(vgText([{ name: 'a', segments: [linear(0, 4, 'pv0', 0)] }], { pvs: 4 }));
    const { vg } = begun(group, { from: 0, count: 4, holes: [4, 1, 1, 1, 1], atomic: false, done: 0 });
    const logicalVolumes = vg.logicalVolumes.map((lv) =>
      lv.name !== 'a'
        ? lv
        : { ...lv, segments: lv.segments.map((one) => ({ ...one, areas: [{ name: 'pvmove0', extent: 2 }] })) },
    );
    const [entry] = activationPlan({ ...group, vg: { ...vg, logicalVolumes } }, OPTIONS);
    assert(entry?.active === false);
    assert.match(entry.reason, /extents of pvmove0 that do not exist/);
  });
});
