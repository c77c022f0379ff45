/**
 * Power cuts at every write of a pvmove, data and metadata: whatever the disks hold afterwards, every LV has its bytes, the move
 * can be gone on with and it can be aborted.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { OpenedDevice } from '../../src/block/device.ts';
import { crashStates } from '../../src/block/power-cut.ts';
import { Errno } from '../../src/block/errors.ts';
import { type IoRequest, Op } from '../../src/block/request.ts';
import { DEFAULT_ALLOCATION, type ExtentRange } from '../../src/lvm/allocate/request.ts';
import type { Plan } from '../../src/lvm/edit/plan.ts';
import type { VolumeGroup } from '../../src/lvm/model.ts';
import { movesOf, placeOf } from '../../src/lvm/pvmove/moves.ts';
import { abortMove, carryOutMove } from '../../src/lvm/pvmove/run.ts';
import { type MoveRequest, startMove } from '../../src/lvm/pvmove/start.ts';
import type { LogicalVolumeText, SegmentArea, StripedSegment } from '../../src/ondisk/metadata.ts';
import { EXTENT_SECTORS, linearLv, Machine, newPv, vgcreatePlan } from './machine.ts';

const STATES = Number(process.env['ORION_CRASH_STATES'] ?? '8');
const SEED = Number(process.env['ORION_CRASH_SEED'] ?? String(Date.now() % 1_000_000));
const EXTENT_BYTES = EXTENT_SECTORS * 512;
const DISKS = ['/disk0', '/disk1', '/disk2'];

function striped(name: string, areas: readonly SegmentArea[], extentCount: number): LogicalVolumeText {
  const lv = linearLv(name, 'pv0', 0, extentCount);
  return { ...lv, segments: [{ ...(lv.segments[0] as StripedSegment), stripeSizeSectors: 8, areas }] };
}

/** A VG of three disks full of distinct bytes; LVs of two segments, of stripes, and one that does not move. */
async function prepared(): Promise<Machine> {
  const machine = Machine.empty(DISKS.length);
  const plan = vgcreatePlan(
    machine,
    DISKS.map((path) => newPv(path)),
  );
  assert(plan.after !== null);
  const two = linearLv('two', 'pv0', 3, 5);
  const second = { ...(two.segments[0] as StripedSegment), startExtent: 5, areas: [{ name: 'pv0', extent: 20 }] };
  const logicalVolumes = [
    { ...two, segments: [...two.segments, second] },
    striped(
      'wide',
      [
        { name: 'pv0', extent: 30 },
        { name: 'pv1', extent: 4 },
      ],
      8,
    ),
    linearLv('still', 'pv2', 10, 6),
  ];
  await machine.run(() => ({ ...plan, after: { ...plan.after!, logicalVolumes } }));
  for (const [index, disk] of [...machine.disks.values()].entries()) {
    for (let at = 64 * 512; at + 4 <= disk.image.length - 28_672; at += 4) disk.image.writeUInt32LE(at * 4 + index, at);
  }
  return new Machine(machine.images());
}

function request(group: VolumeGroup, lvName: string | null, ranges?: readonly ExtentRange[]): MoveRequest {
  return {
    group,
    source: { label: 'pv0', ranges: ranges ?? [{ start: 0, count: 1000 }] },
    lvName,
    candidates: ['pv1', 'pv2'].map((label) => ({ label, tags: [], ranges: null })),
    policy: 'normal',
    atomic: false,
    settings: DEFAULT_ALLOCATION,
    regionSectors: 4096,
    creationTime: 0,
    creationHost: 'test',
    say: () => {},
  };
}

function start(group: VolumeGroup, lvName: string | null, ranges?: readonly ExtentRange[]): Plan {
  return startMove(request(group, lvName, ranges));
}

/** What each LV holds, read through the mirrors of moves in progress. */
async function contents(machine: Machine): Promise<ReadonlyMap<string, string>> {
  const group = await groupOf(machine);
  const moves = movesOf(group.vg);
  const extent = ({ name, extent: number }: SegmentArea): Buffer => {
    const move = moves.find(({ lv }) => lv.name === name);
    const step = move?.steps.find(({ start: first, length }) => number >= first && number < first + length);
    if (step !== undefined) {
      const place = placeOf(step);
      return extent({ name: place.name, extent: place.extent + number - step.start });
    }
    const pv = group.pvs.find(({ text }) => text?.label === name);
    const image = machine.disks.get(pv?.found?.device.path ?? '')?.image;
    assert(image !== undefined && pv?.text !== undefined, name);
    const at = pv.text.peStartSectors * 512 + number * EXTENT_BYTES;
    return image.subarray(at, at + EXTENT_BYTES);
  };
  const volumes = group.vg.logicalVolumes.filter((lv) => lv.status.includes('VISIBLE'));
  return new Map(
    volumes.map((lv) => {
      const parts = lv.segments.flatMap((segment) => {
        assert(segment.type === 'striped');
        const { areas, extentCount } = segment;
        // Stripes are one extent large.
        return Array.from({ length: extentCount }, (_, index) => {
          const area = areas[index % areas.length]!;
          return extent({ name: area.name, extent: area.extent + Math.floor(index / areas.length) });
        });
      });
      return [lv.name, Buffer.concat(parts).toString('base64')];
    }),
  );
}

async function groupOf(machine: Machine): Promise<VolumeGroup> {
  const group = await machine.group();
  assert(group !== null);
  return group;
}

async function goOn(machine: Machine): Promise<void> {
  for (const { lv } of movesOf((await groupOf(machine)).vg)) {
    await carryOutMove(machine.context, { vgName: 'vg', lvId: lv.id }, () => {});
  }
}

async function abort(machine: Machine): Promise<void> {
  for (const { lv } of movesOf((await groupOf(machine)).vg)) {
    await abortMove(machine.context, { vgName: 'vg', lvId: lv.id });
  }
}

function usesPv(group: VolumeGroup, label: string): boolean {
  return group.vg.logicalVolumes.some((lv) =>
    lv.segments.some((segment) => segment.type === 'striped' && segment.areas.some(({ name }) => name === label)),
  );
}

function assertSettled({ vg }: VolumeGroup, description: string): void {
  for (const lv of vg.logicalVolumes) {
    assert(!lv.name.startsWith('pvmove') && !lv.status.includes('LOCKED'), `${description}: ${lv.name}`);
  }
}

void describe(`power cuts during pvmove, seed ${SEED}`, () => {
  void test('of a whole PV', async () => {
    const machine = await prepared();
    const whole = await contents(machine);
    await machine.change((group) => start(group, null));
    await goOn(machine);
    assert(!usesPv(await groupOf(machine), 'pv0'));
    let states = 0;
    for (const { images, description } of crashStates(machine.journal, { statesPerMoment: STATES, seed: SEED })) {
      const crashed = new Machine(new Map([...images].map(([device, image]) => [device.name, image])));
      assert.deepEqual(await contents(crashed), whole, description);
      if (states++ % 2 === 0) await goOn(crashed);
      else await abort(crashed);
      assert.deepEqual(await contents(crashed), whole, `${description}, then settled`);
      assertSettled(await groupOf(crashed), description);
    }
    assert(states > 50, `${states} states`);
  });

  void test('all or nothing', async () => {
    const machine = await prepared();
    const whole = await contents(machine);
    await machine.change((group) => startMove({ ...request(group, null), atomic: true }));
    await goOn(machine);
    const moved = await groupOf(machine);
    assert(!usesPv(moved, 'pv0'));
    assertSettled(moved, 'moved');
    const seen = new Set<boolean>();
    for (const { images, description } of crashStates(machine.journal, { statesPerMoment: STATES, seed: SEED })) {
      const crashed = new Machine(new Map([...images].map(([device, image]) => [device.name, image])));
      const ended = movesOf((await groupOf(crashed)).vg).length === 0;
      await abort(crashed);
      assert.deepEqual(await contents(crashed), whole, description);
      const group = await groupOf(crashed);
      assertSettled(group, description);
      const segments = group.vg.logicalVolumes.flatMap((lv) => lv.segments);
      const labels = segments
        .flatMap((segment) => (segment.type === 'striped' ? segment.areas : []))
        .map((a) => a.name);
      const onSource = labels.filter((label) => label === 'pv0').length;
      assert(onSource === 0 || onSource === 3, `${description}: ${onSource} areas on the source`);
      seen.add(ended && onSource === 0);
    }
    assert.equal(seen.size, 2);
  });

  void test('of a range of one LV', async () => {
    const machine = await prepared();
    const whole = await contents(machine);
    await machine.change((group) => start(group, 'two', [{ start: 5, count: 17 }]));
    await goOn(machine);
    const group = await groupOf(machine);
    const two = group.vg.logicalVolumes.find((lv) => lv.name === 'two');
    const onSource = two?.segments.filter((segment) => segment.type === 'striped' && segment.areas[0]?.name === 'pv0');
    assert.deepEqual(
      onSource?.map(({ extentCount }) => extentCount),
      [2, 3],
    );
    for (const { images, description } of crashStates(machine.journal, { statesPerMoment: STATES, seed: SEED })) {
      const crashed = new Machine(new Map([...images].map(([device, image]) => [device.name, image])));
      await abort(crashed);
      assert.deepEqual(await contents(crashed), whole, description);
    }
  });
});

/** A device whose writes of data fail. */
function failing(device: OpenedDevice): OpenedDevice {
  const { name, limits, kind, identity } = device;
  return {
    name,
    limits,
    kind,
    identity,
    close: () => device.close(),
    submit(request: IoRequest) {
      if (request.op !== Op.write || request.offset < 64 * 512) {
        device.submit(request);
        return;
      }
      request.error = Errno.EIO;
      setImmediate(() => request.owner.ioDone(request));
    },
  };
}

void describe('failures during pvmove', () => {
  void test('a write that fails ends the command, and the move can be gone on with', async () => {
    const machine = await prepared();
    const whole = await contents(machine);
    await machine.change((group) => start(group, null));
    const broken = new Machine(machine.images(), { wrap: failing });
    await assert.rejects(goOn(broken), /write of \d+ bytes .* failed.*\nThe data is where it was/s);
    assert.deepEqual(await contents(broken), whole);
    const repaired = new Machine(broken.images());
    await goOn(repaired);
    assert.deepEqual(await contents(repaired), whole);
    assertSettled(await groupOf(repaired), 'repaired');
  });

  void test('somebody else aborts the move between two steps', async () => {
    const machine = await prepared();
    await machine.change((group) => start(group, null));
    const [move] = movesOf((await groupOf(machine)).vg);
    assert(move !== undefined);
    await abort(machine);
    const outcome = await carryOutMove(machine.context, { vgName: 'vg', lvId: move.lv.id }, () => {});
    assert.equal(outcome, 'gone');
  });

  void test('nothing to move, and no room', async () => {
    const machine = await prepared();
    await assert.rejects(
      machine.change((group) => start(group, null, [{ start: 90, count: 5 }])),
      /^CommandError: No data to move for vg\.$/,
    );
    await assert.rejects(
      machine.change((group) =>
        startMove({
          ...request(group, null),
          candidates: [{ label: 'pv1', tags: [], ranges: [{ start: 90, count: 5 }] }],
        }),
      ),
      /^CommandError: Insufficient free space: 14 extents needed, but only 5 available\nUnable to allocate mirror extents for vg\/pvmove0/,
    );
    assert.deepEqual(movesOf((await groupOf(machine)).vg), []);
  });
});
