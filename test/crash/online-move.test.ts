/**
 * Power cuts during a pvmove of volumes that are being written to: whatever the disks hold afterwards, every LV has each write that was
 * acknowledged and flushed, and nothing that was not written; and the move can be gone on with, or aborted.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Errno } from '../../src/block/errors.ts';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { crashStates } from '../../src/block/power-cut.ts';
import { Op } from '../../src/block/request.ts';
import { flush, readBytes, writeBytes } from '../../src/block/sync-io.ts';
import { targets } from '../../src/dm/targets.ts';
import { Volume } from '../../src/dm/volume.ts';
import { PLAIN_HOST } from '../../src/lvm/access.ts';
import { activationPlan } from '../../src/lvm/activate.ts';
import { DEFAULT_ALLOCATION } from '../../src/lvm/allocate/request.ts';
import type { ChangeContext } from '../../src/lvm/change-context.ts';
import { changeVolumeGroup } from '../../src/lvm/command.ts';
import { volumeId } from '../../src/lvm/live.ts';
import type { VolumeGroup } from '../../src/lvm/model.ts';
import { movesOf } from '../../src/lvm/pvmove/moves.ts';
import { abortMove, carryOutMove, type MoveProgress } from '../../src/lvm/pvmove/run.ts';
import { startMove } from '../../src/lvm/pvmove/start.ts';
import type { StripedSegment } from '../../src/ondisk/metadata.ts';
import { LiveLab } from '../helpers/live-lab.ts';
import { linearLv, Machine, newPv, vgcreatePlan } from './machine.ts';

const STATES = Number(process.env['ORION_CRASH_STATES'] ?? '6');
const SEED = Number(process.env['ORION_CRASH_SEED'] ?? String(Date.now() % 1_000_000));
const SECTOR = 512;
const LVS = ['two', 'wide', 'still'];

/** `two` in two segments and `wide` in stripes, both partly on pv0; `still` is not. */
async function prepared(): Promise<Machine> {
  const machine = Machine.empty(3);
  const pvs = ['/disk0', '/disk1', '/disk2'].map((path) => newPv(path));
  const plan = vgcreatePlan(machine, pvs);
  assert(plan.after !== null);
  const two = linearLv('two', 'pv0', 3, 5);
  const second = { ...(two.segments[0] as StripedSegment), startExtent: 5, areas: [{ name: 'pv0', extent: 20 }] };
  const wide = linearLv('wide', 'pv0', 0, 8);
  const areas = [
    { name: 'pv0', extent: 30 },
    { name: 'pv1', extent: 4 },
  ];
  const logicalVolumes = [
    { ...two, segments: [...two.segments, second] },
    { ...wide, segments: [{ ...(wide.segments[0] as StripedSegment), stripeSizeSectors: 8, areas }] },
    linearLv('still', 'pv2', 10, 6),
  ];
  await machine.run(() => ({ ...plan, after: { ...plan.after!, logicalVolumes } }));
  return new Machine(machine.images());
}

async function groupOf(machine: Machine): Promise<VolumeGroup> {
  const group = await machine.group();
  assert(group !== null);
  return group;
}

function labOf(machine: Machine, wrap?: (path: string) => FaultyDevice): LiveLab {
  return new LiveLab({
    group: () => machine.group(),
    device: (path) => wrap?.(path) ?? machine.disks.get(path)!,
  });
}

async function begin(context: ChangeContext, atomic: boolean): Promise<string> {
  const group = await changeVolumeGroup(context, { vgName: 'vg' }, (before) =>
    startMove({
      group: before,
      source: { label: 'pv0', ranges: [{ start: 0, count: 1000 }] },
      lvName: null,
      candidates: [
        // Free extents in pieces: several steps.
        {
          label: 'pv2',
          tags: [],
          ranges: [
            { start: 0, count: 4 },
            { start: 20, count: 3 },
          ],
        },
        { label: 'pv1', tags: [], ranges: null },
      ],
      policy: 'normal',
      atomic,
      settings: DEFAULT_ALLOCATION,
      regionSectors: 16,
      creationTime: 0,
      creationHost: 'test',
      say: () => undefined,
    }),
  );
  const move = group === null ? undefined : movesOf(group.vg)[0];
  assert(move !== undefined);
  return move.lv.id;
}

/** What became of one version of a sector, in entries of the journal. */
interface Version {
  readonly submitted: number;
  acknowledged: number;
  durable: number;
}

/** Writes versions of sectors, and knows which of them a disk must have after a cut. */
class Writer {
  readonly #machine: Machine;
  readonly #lab: LiveLab;
  readonly #versions = new Map<string, Version[]>();
  stopped = false;
  writes = 0;

  constructor(machine: Machine, lab: LiveLab) {
    this.#machine = machine;
    this.#lab = lab;
  }

  get #now(): number {
    return this.#machine.journal.entries.length;
  }

  async run(): Promise<void> {
    let random = SEED;
    const next = (limit: number): number => {
      random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0;
      return (random >>> 8) % limit;
    };
    while (!this.stopped) {
      for (const name of LVS) {
        const volume = this.#lab.volume(`vg/${name}`);
        const sectors = volume.limits.sizeBytes / SECTOR;
        const chosen = new Set(Array.from({ length: 4 }, () => next(sectors)));
        await Promise.all([...chosen].map((sector) => this.#write(name, volume, sector)));
        if (next(2) === 0) await this.#flush(name, volume);
      }
      await delay(1);
    }
  }

  async #write(name: string, volume: Volume, sector: number): Promise<void> {
    const key = `${name} ${sector}`;
    const versions = this.#versions.get(key) ?? [];
    this.#versions.set(key, versions);
    const version: Version = { submitted: this.#now, acknowledged: Infinity, durable: Infinity };
    versions.push(version);
    await writeBytes(volume, sector * SECTOR, contentOf(name, sector, versions.length));
    version.acknowledged = this.#now;
    this.writes++;
  }

  async #flush(name: string, volume: Volume): Promise<void> {
    const before = [...this.#versions]
      .filter(([key]) => key.startsWith(`${name} `))
      .flatMap(([, versions]) => versions.filter(({ acknowledged }) => acknowledged < Infinity));
    await flush(volume);
    for (const version of before) version.durable = Math.min(version.durable, this.#now);
  }

  /** Compares what an LV holds after a cut at a moment; `Infinity`: without a cut, everything acknowledged must be there. */
  check(name: string, bytes: Buffer, moment: number, where: string): void {
    for (let sector = 0; sector * SECTOR < bytes.length; sector++) {
      const versions = this.#versions.get(`${name} ${sector}`) ?? [];
      const durable = versions.findLastIndex((version) =>
        moment === Infinity ? version.acknowledged < Infinity : version.durable <= moment,
      );
      const submitted = versions.findLastIndex((version) => version.submitted <= moment);
      const found = bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR);
      const number = found.readUInt32LE(0);
      assert(
        number >= durable + 1 && number <= submitted + 1,
        `${where}: sector ${sector} of ${name} is version ${number}, of ${durable + 1} to ${submitted + 1}`,
      );
      assert(number === 0 || found.equals(contentOf(name, sector, number)), `${where}: sector ${sector} of ${name}`);
    }
  }
}

function contentOf(name: string, sector: number, version: number): Buffer {
  const bytes = Buffer.alloc(SECTOR, `${name} ${sector} ${version} `);
  bytes.writeUInt32LE(version, 0);
  return bytes;
}

/** Reads an LV as somebody does who only knows the metadata. */
async function contents(machine: Machine, name: string): Promise<Buffer> {
  const entry = activationPlan(await groupOf(machine), { host: PLAIN_HOST }).find(({ lv }) => lv.name === name);
  assert(entry?.active === true, JSON.stringify(entry));
  const volume = new Volume(name, { targets });
  volume.load(entry.table, (path) => machine.disks.get(path)!);
  volume.resume();
  return readBytes(volume, 0, volume.limits.sizeBytes);
}

async function settle(machine: Machine, goOn: boolean): Promise<void> {
  for (const { lv } of movesOf((await groupOf(machine)).vg)) {
    const name = { vgName: 'vg', lvId: lv.id };
    if (goOn) await carryOutMove(machine.context, name, () => undefined);
    else await abortMove(machine.context, name);
  }
  const { vg } = await groupOf(machine);
  assert(vg.logicalVolumes.every((lv) => !lv.name.startsWith('pvmove') && !lv.status.includes('LOCKED')));
}

interface Run {
  readonly machine: Machine;
  readonly lab: LiveLab;
  readonly writer: Writer;
  readonly context: ChangeContext;
}

/** Runs `body` while a writer writes; then cuts the power at every moment of what happened. */
async function underWrites(body: (run: Run) => Promise<void>): Promise<void> {
  const machine = await prepared();
  const lab = labOf(machine);
  await lab.follow();
  const writer = new Writer(machine, lab);
  const writing = writer.run();
  try {
    await body({ machine, lab, writer, context: { ...machine.context, live: lab } });
  } finally {
    writer.stopped = true;
    await writing;
  }
  await lab.close();
  for (const name of LVS) writer.check(name, await contents(machine, name), Infinity, 'at the end');
  let states = 0;
  for (const { images, description, moment } of crashStates(machine.journal, { statesPerMoment: STATES, seed: SEED })) {
    const crashed = new Machine(new Map([...images].map(([device, image]) => [device.name, image])));
    const before = await Promise.all(LVS.map((name) => contents(crashed, name)));
    LVS.forEach((name, i) => writer.check(name, before[i]!, moment, description));
    // Settling each of them would take minutes.
    if (states++ % 16 !== 0) continue;
    await settle(crashed, states % 32 === 1);
    const after = await Promise.all(LVS.map((name) => contents(crashed, name)));
    assert.deepEqual(after, before, `${description}, then settled`);
  }
  assert(states > 50 && writer.writes > 20, `${states} states, ${writer.writes} writes`);
}

function onPv0({ vg }: VolumeGroup): number {
  const areas = vg.logicalVolumes.flatMap((lv) =>
    lv.segments.flatMap((segment) => (segment.type === 'striped' ? segment.areas : [])),
  );
  return areas.filter(({ name }) => name === 'pv0').length;
}

void describe(`power cuts during pvmove under writes, seed ${SEED}`, () => {
  for (const atomic of [false, true]) {
    void test(atomic ? 'all or nothing' : 'step by step', async () => {
      await underWrites(async ({ machine, lab, context }) => {
        const lvId = await begin(context, atomic);
        const seen: number[] = [];
        const progress: MoveProgress = (moved, total) => seen.push(moved / total);
        assert.equal(await carryOutMove(context, { vgName: 'vg', lvId }, progress), 'finished');
        assert.deepEqual(
          seen,
          seen.toSorted((a, b) => a - b),
        );
        assert.equal(onPv0(await groupOf(machine)), 0);
        assert(
          lab
            .volume('vg/two')
            .tableText()
            .split('\n')
            .every((line) => !line.includes('/disk0')),
        );
      });
    });
  }

  void test('aborted in the middle, then there and back', async () => {
    await underWrites(async ({ machine, context }) => {
      const lvId = await begin(context, false);
      const name = { vgName: 'vg', lvId };
      let steps = 0;
      await carryOutMove(context, name, () => {
        if (++steps === 3) throw new Error('enough');
      }).catch((error: unknown) => assert.match(String(error), /enough/));
      assert(await abortMove(context, name));
      const left = onPv0(await groupOf(machine));
      assert(left > 0 && left < 3, `${left} areas are left`);
      assert.equal(
        await carryOutMove(context, { vgName: 'vg', lvId: await begin(context, false) }, () => undefined),
        'finished',
      );
      assert.equal(onPv0(await groupOf(machine)), 0);
    });
  });
});

void describe('pvmove of what is served', () => {
  void test('an LV that is not active is copied by the command, and kept from becoming active', async () => {
    const machine = await prepared();
    const lab = labOf(machine);
    const { vg } = await groupOf(machine);
    const two = volumeId(vg, vg.logicalVolumes[0]!);
    lab.inactive.add(two);
    await lab.follow();
    const context = { ...machine.context, live: lab };
    const wide = lab.volume('vg/wide');
    await writeBytes(wide, 0, Buffer.alloc(wide.limits.sizeBytes, 7));
    const lvId = await begin(context, false);
    assert.equal(await carryOutMove(context, { vgName: 'vg', lvId }, () => undefined), 'finished');
    assert(lab.calls.includes('activate'));
    assert.equal(onPv0(await groupOf(machine)), 0);
    assert((await contents(machine, 'wide')).every((byte) => byte === 7));
    await lab.close();
  });

  void test('a destination that fails ends the command; nothing is lost, and pvmove goes on when it is back', async () => {
    const machine = await prepared();
    const faulty = new Map([...machine.disks].map(([path, disk]) => [path, new FaultyDevice(disk)]));
    const lab = labOf(machine, (path) => faulty.get(path)!);
    await lab.follow();
    const context = { ...machine.context, live: lab };
    const two = lab.volume('vg/two');
    await writeBytes(two, 0, Buffer.alloc(two.limits.sizeBytes, 3));
    const lvId = await begin(context, false);
    for (const path of ['/disk1', '/disk2']) {
      faulty.get(path)!.decide = ({ op }) => (op === Op.write ? { kind: 'fail', errno: Errno.EIO } : { kind: 'pass' });
    }
    // Whatever was in sync already, writes now fail on the destination.
    await writeBytes(two, 0, Buffer.alloc(two.limits.sizeBytes, 4));
    await assert.rejects(
      carryOutMove(context, { vgName: 'vg', lvId }, () => undefined),
      /\/disk\d: (a write|copying) failed\nThe data is where it was\. Run pvmove to go on, or pvmove --abort\./,
    );
    assert((await contents(machine, 'two')).every((byte) => byte === 4));
    for (const device of faulty.values()) device.decide = () => ({ kind: 'pass' });
    assert.equal(await carryOutMove(context, { vgName: 'vg', lvId }, () => undefined), 'finished');
    assert((await contents(machine, 'two')).every((byte) => byte === 4));
    await lab.close();
  });

  void test('a mirror that is loaded anew just before the commit is waited for again', async () => {
    const machine = await prepared();
    const faulty = new Map([...machine.disks].map(([path, disk]) => [path, new FaultyDevice(disk)]));
    const decide = (held: boolean): void => {
      for (const device of faulty.values()) {
        device.decide = ({ op }) => (held && op === Op.write ? { kind: 'hold' } : { kind: 'pass' });
        if (!held) device.releaseAll();
      }
    };
    const lab = labOf(machine, (path) => faulty.get(path)!);
    await lab.follow();
    const lvId = await begin({ ...machine.context, live: lab }, false);
    let prepares = 0;
    const live = lab.with({
      prepare: async (change) => {
        await lab.prepare(change);
        if (prepares++ > 0) return;
        decide(true);
        await lab.follow(new Set(lab.volumes.keys()));
      },
      abandoned: async () => {
        decide(false);
        await lab.abandoned();
      },
    });
    const context = { ...machine.context, live };
    assert.equal(await carryOutMove(context, { vgName: 'vg', lvId }, () => undefined), 'finished');
    assert.deepEqual(lab.calls.slice(0, 4), ['prepare', 'committed', 'prepare', 'abandoned']);
    assert.equal(onPv0(await groupOf(machine)), 0);
    await lab.close();
  });

  void test('volumes that do not copy are told', async () => {
    const machine = await prepared();
    const lab = labOf(machine);
    await lab.follow();
    const context = { ...machine.context, live: lab };
    const lvId = await begin(context, false);
    const live = new Proxy(lab, {
      get: (target, key) =>
        key === 'moveStatus' ? () => Promise.resolve(null) : (Reflect.get(target, key) as unknown),
    });
    await assert.rejects(
      carryOutMove({ ...context, live }, { vgName: 'vg', lvId }, () => undefined, 150),
      /The volumes on vg\/pvmove0 are active and do not copy it/,
    );
    await lab.close();
  });
});
