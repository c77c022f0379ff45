/** The flow of changing commands: what is refused and how, what is printed when, what --test leaves alone. */
import assert from 'node:assert/strict';
import { open, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { OpenedDevice } from '../../src/block/device.ts';
import { flock, Lock } from '../../src/native/addon.ts';
import type { ChangeContext, VolumeGroupRequest } from '../../src/lvm/change-context.ts';
import { changeVolumeGroup, eachVolumeGroup, withChanges } from '../../src/lvm/command.ts';
import { CommandError } from '../../src/lvm/edit/errors.ts';
import { emptyPlan, type Plan } from '../../src/lvm/edit/plan.ts';
import type { VolumeGroup } from '../../src/lvm/model.ts';
import { openExclusively } from '../../src/lvm/open.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { addLv, addTag, linearLv, Machine, newPv, vgcreatePlan } from '../crash/machine.ts';

const three = ['/disk0', '/disk1', '/disk2'].map((path) => newPv(path));

async function withVg(): Promise<Machine> {
  const machine = Machine.empty(3);
  await machine.vgcreate(...three);
  machine.said.length = 0;
  return machine;
}

/** What a change of tags is refused with. */
async function refusal(
  machine: Machine,
  more: Partial<ChangeContext & VolumeGroupRequest> = {},
): Promise<readonly string[]> {
  const writes = machine.journal.writes;
  try {
    await changeVolumeGroup({ ...machine.context, ...more }, { vgName: 'vg', ...more }, (group) => addTag(group, 'x'));
  } catch (error) {
    assert(error instanceof CommandError, String(error));
    assert.equal(error.exitCode, 5);
    assert.equal(machine.journal.writes, writes, 'something was written');
    return error.lines;
  }
  return assert.fail('not refused');
}

async function removeVg(machine: Machine): Promise<void> {
  await changeVolumeGroup(machine.context, { vgName: 'vg' }, (group) => emptyPlan(group, null));
}

async function withStatus(change: (group: VolumeGroup) => Partial<VolumeGroup['vg']>): Promise<Machine> {
  const machine = await withVg();
  await machine.change((group) => emptyPlan(group, { ...group.vg, ...change(group) }));
  machine.said.length = 0;
  return machine;
}

/** A scan's areas have their slot's flags besides, which nobody reads. */
function facts(groups: readonly VolumeGroup[]): unknown {
  const plain = groups.map(({ vg, pvs, partial }) => ({ vg, pvs, partial }));
  return JSON.parse(
    JSON.stringify(plain, (key, value: unknown) => (key === 'flags' && typeof value === 'number' ? undefined : value)),
  );
}

function without(machine: Machine, path: string): Machine {
  const images = machine.images();
  images.delete(path);
  return new Machine(images);
}

void describe('refused in the words of LVM2', () => {
  void test('no such VG', async () => {
    const lines = ['Volume group "none" not found', 'Cannot process volume group none'];
    assert.deepEqual(await refusal(await withVg(), { vgName: 'none' }), lines);
  });

  void test('a name that is none, and is no path of a lock file either', async () => {
    const name = '../../etc/x';
    const lines = [`Volume group name "${name}" has invalid characters.`, `Cannot process volume group ${name}`];
    await withTemporaryFolder(async (directory) => {
      const locking = { directory: join(directory, 'a', 'b'), wait: false, prioritiseWriters: true };
      assert.deepEqual(await refusal(await withVg(), { vgName: name, locking }), lines);
      assert.deepEqual(await readdir(directory), ['a']);
    });
  });

  void test('missing PVs', async () => {
    const machine = without(await withVg(), '/disk1');
    assert.deepEqual(await refusal(machine), [
      'Cannot change VG vg while PVs are missing.',
      'See vgreduce --removemissing and vgextend --restoremissing.',
      'Cannot process volume group vg',
    ]);
    assert(machine.said.includes(`WARNING: Couldn't find device with uuid ${three[1]?.uuid}.`));
  });

  void test('exported, unless the command takes it', async () => {
    const machine = await withStatus(() => ({ status: ['EXPORTED', 'RESIZEABLE', 'READ', 'WRITE'] }));
    assert.deepEqual(await refusal(machine), ['Volume group vg is exported']);
    await changeVolumeGroup(machine.context, { vgName: 'vg', allowExported: true }, (group) => addTag(group, 'x'));
  });

  void test('of another host', async () => {
    const machine = await withStatus(() => ({ systemId: 'other' }));
    assert.deepEqual(await refusal(machine), [
      'Cannot access VG vg with system ID other with unknown local system ID.',
    ]);
  });

  void test('read-only', async () => {
    const machine = await withStatus(() => ({ status: ['RESIZEABLE', 'READ'] }));
    assert.deepEqual(await refusal(machine), ['Volume group vg is read-only.', 'Cannot process volume group vg']);
  });

  void test('unknown segments', async () => {
    const lv = linearLv('odd', 'pv0', 0, 4);
    const common = { startExtent: 0, extentCount: 4, tags: [], typeFlags: [], extra: [] };
    const odd = { ...lv, segments: [{ type: 'unknown', typeName: 'novel', ...common } as const] };
    const machine = await withVg();
    await machine.change((group) => addLv(group, odd));
    assert.deepEqual(await refusal(machine), [
      'Cannot change VG vg with unknown segments in it!',
      'Cannot process volume group vg',
    ]);
    await changeVolumeGroup(machine.context, { vgName: 'vg', handlesUnknownSegments: true }, (group) =>
      addTag(group, 'x'),
    );
    assert.equal((await machine.group())?.vg.logicalVolumes[0]?.segments[0]?.type, 'unknown');
  });

  void test('duplicate PVs', async () => {
    const machine = await withVg();
    const images = machine.images();
    images.set('/copy', Buffer.from(images.get('/disk0')!));
    const copied = new Machine(images);
    const refused = ['Cannot update volume group vg with duplicate PV devices.'];
    assert.deepEqual(await refusal(copied), refused);
    // An empty one may go, but LVs don't go with it.
    await machine.change((group) => addLv(group, linearLv('lv', 'pv0', 0, 4)));
    const images2 = machine.images();
    images2.set('/copy', Buffer.from(images2.get('/disk0')!));
    const withLv = new Machine(images2);
    await assert.rejects(removeVg(withLv), (error) => {
      assert(error instanceof CommandError);
      assert.deepEqual(error.lines, refused);
      return true;
    });
    assert.equal(withLv.journal.writes, 0);
    await removeVg(copied);
  });

  void test('two VGs of one name', async () => {
    const machine = await withVg();
    const other = Machine.empty(1);
    await other.run(() => {
      const plan = vgcreatePlan(other, [{ ...newPv('/disk0', 1, 7) }]);
      return { ...plan, after: { ...plan.after!, id: 'OtherV-GVgV-gVgV-gVgV-gVgV-gVgV-gVgVgV' } };
    });
    const images = machine.images();
    images.set('/other', other.images().get('/disk0')!);
    assert.deepEqual(await refusal(new Machine(images)), [
      'Multiple VGs found with the same name: skipping vg',
      'Use --select vg_uuid=<uuid> in place of the VG name.',
    ]);
    const both = new Machine(images);
    const group = await changeVolumeGroup(both.context, { vgName: '', vgId: (await machine.group())!.vg.id }, (found) =>
      addTag(found, 'told apart'.replace(' ', '_')),
    );
    assert.deepEqual(group?.vg.tags, ['told_apart']);
  });

  void test('a text that no area can hold', async () => {
    const machine = await withVg();
    const tags = Array.from({ length: 900 }, (_, index) => `a_tag_of_some_length_${index}`);
    await assert.rejects(
      machine.change((group) => emptyPlan(group, { ...group.vg, tags })),
      (error: unknown) => {
        assert(error instanceof CommandError);
        assert.match(
          error.lines.join('\n'),
          /^VG vg 2 metadata on \/disk0 \(\d+ bytes\) exceeds maximum metadata size \(13568 bytes\)\nFailed to write VG vg\.$/,
        );
        return true;
      },
    );
    assert.equal((await machine.group())?.vg.seqno, 1);
  });

  void test('a VG without an area in use', async () => {
    const machine = Machine.empty(1);
    await assert.rejects(machine.vgcreate(newPv('/disk0', 0)), /Aborting vg_write: No metadata areas to write to!/);
  });

  void test('what an edit got wrong', async () => {
    const machine = await withVg();
    const cases: readonly (readonly [(group: VolumeGroup) => Plan, RegExp])[] = [
      [(group) => addLv(group, linearLv('big', 'pv0', 100, 14)), /segment1: area on pv0/],
      [(group) => addLv(group, linearLv('a/b', 'pv0', 0, 1)), /name of a logical volume/],
      [(group) => addLv(group, { ...linearLv('gap', 'pv0', 0, 2), segments: [] }), /has no segments/],
      [(group) => emptyPlan(group, { ...group.vg, physicalVolumes: [] }), /without a physical volume/],
      [(group) => emptyPlan(group, { ...group.vg, maxPv: 2 }), /holds max 2/],
      [
        (group) =>
          emptyPlan(group, {
            ...group.vg,
            physicalVolumes: group.vg.physicalVolumes.map((pv) => ({ ...pv, peCount: 5000 })),
          }),
        /5000 extents from byte 32768 don't fit/,
      ],
      [
        (group) =>
          emptyPlan(group, {
            ...group.vg,
            physicalVolumes: [
              ...group.vg.physicalVolumes,
              { ...group.vg.physicalVolumes[0]!, id: newPv('/disk9').uuid },
            ],
          }),
        /is added to vg without a device/,
      ],
    ];
    for (const [edit, expected] of cases) await assert.rejects(machine.change(edit), expected);
    await machine.change((group) => addLv(group, linearLv('one', 'pv0', 0, 4)));
    const overlapping = linearLv('two', 'pv0', 2, 4);
    await assert.rejects(
      machine.change((group) => addLv(group, overlapping)),
      /belongs to both one and two/,
    );
    assert.equal((await machine.group())?.vg.seqno, 2);
  });
});

void describe('a session', () => {
  void test('tells its second text from the first, and archives once', async () => {
    await withTemporaryFolder(async (folder) => {
      const machine = await withVg();
      const archive = { directory: join(folder, 'archive'), retainMin: 1, retainDays: 1 };
      const context = { ...machine.context, backup: { archive, backup: { directory: join(folder, 'backup') } } };
      await withChanges(context, {}, async (changes) => {
        await changes.apply(addTag(await changes.volumeGroup({ vgName: 'vg' }), 'one'));
        await changes.apply(addTag(await changes.volumeGroup({ vgName: 'vg' }), 'two'));
      });
      const group = await machine.group();
      assert.equal(group?.metadata.header.description, 'Write[2] from test.');
      assert.deepEqual(group.vg.tags, ['one', 'two']);
      assert.equal((await readdir(archive.directory)).length, 1);
      assert.deepEqual(await readdir(join(folder, 'backup')), ['vg']);
    });
  });

  void test('knows after a commit what a scan would say', async () => {
    const machine = await withVg();
    const { context } = machine;
    await withChanges(context, {}, async (changes) => {
      const compare = async (): Promise<void> => {
        const scanned = await machine.scan();
        const { volumeGroups, orphans } = changes.scan;
        assert.deepEqual(facts(volumeGroups), facts(scanned.volumeGroups));
        assert.deepEqual(orphans, scanned.orphans);
      };
      const vg = async (): Promise<VolumeGroup> => changes.volumeGroup({ vgName: 'vg' });
      await compare();
      await changes.apply(addLv(await vg(), linearLv('lv', 'pv0', 0, 4)));
      await compare();
      let group = await vg();
      await changes.apply(emptyPlan(group, { ...group.vg, physicalVolumes: group.vg.physicalVolumes.slice(0, 2) }));
      await compare();
      await changes.apply({ ...emptyPlan(null, null), wipes: [{ device: machine.device('/disk2') }] });
      await compare();
      group = await vg();
      await changes.apply(emptyPlan(group, { ...group.vg, metadataCopies: 1 }));
      await compare();
      await changes.apply(emptyPlan(await vg(), null));
      await compare();
      await changes.apply(vgcreatePlan(machine, three));
      await compare();
    });
  });

  void test('with --test prints what would be done, goes on, and writes nothing', async () => {
    const machine = await withVg();
    const writes = machine.journal.entries.length;
    await withChanges({ ...machine.context, test: true }, {}, async (changes) => {
      const group = await changes.apply(
        addLv(await changes.volumeGroup({ vgName: 'vg' }), linearLv('lv', 'pv0', 0, 4)),
      );
      assert.equal(group?.vg.seqno, 2);
      await changes.apply(addTag(await changes.volumeGroup({ vgName: 'vg' }), 'x'));
    });
    assert.equal(machine.journal.entries.length, writes);
    assert.deepEqual(machine.said, [
      'Would commit volume group vg, seqno 2, to 3 physical volume(s).',
      '  new logical volume lv, 4 extent(s)',
      'Would commit volume group vg, seqno 3, to 3 physical volume(s).',
    ]);
  });

  void test('prints messages when they are true', async () => {
    const machine = await withVg();
    const messages: Plan['messages'] = [
      { stream: 'stderr', when: 'before', text: 'WARNING: soon' },
      { stream: 'stdout', when: 'after', text: 'done' },
    ];
    const effects: Plan['effects'] = [{ kind: 'wipe-lv', lvName: 'lv', zeroBytes: 4096, signatures: false }];
    await machine.change((group) => ({ ...addLv(group, linearLv('lv', 'pv1', 2, 4)), messages, effects }));
    assert.deepEqual(machine.said, ['WARNING: soon', 'WARNING: This metadata update is NOT backed up.', 'done']);
    machine.said.length = 0;
    const failing: ChangeContext = {
      ...machine.context,
      effects: {
        'wipe-lv': () => Promise.reject(new CommandError('Failed to wipe.')),
        erase: () => Promise.resolve(),
      },
    };
    const again = changeVolumeGroup(failing, { vgName: 'vg' }, (group) => ({
      ...addTag(group, 'x'),
      messages,
      effects,
    }));
    await assert.rejects(again, /Failed to wipe/);
    assert(!machine.said.includes('done'));
  });

  void test('finds a change that somebody made under other locks', async () => {
    const machine = await withVg();
    await withChanges(machine.context, {}, async (changes) => {
      const group = await changes.volumeGroup({ vgName: 'vg' });
      await machine.change((theirs) => addTag(theirs, 'theirs'));
      await assert.rejects(changes.apply(addTag(group, 'ours')), /\/disk0: the metadata was changed by somebody else/);
    });
    assert.deepEqual((await machine.group())?.vg.tags, ['theirs']);
  });

  void test('marks missing PVs when a command may go on without them', async () => {
    const machine = without(await withVg(), '/disk1');
    await machine.change((group) => addTag(group, 'x'));
    const pv = (await machine.group())?.vg.physicalVolumes[1];
    assert.deepEqual([pv?.device, pv?.flags], ['[unknown]', ['MISSING']]);
    const images = machine.images();
    images.set('/disk1', (await withVg()).images().get('/disk1')!);
    const whole = new Machine(images);
    await whole.change((group) => addTag(group, 'y'));
    const back = (await whole.group())?.vg.physicalVolumes[1];
    assert.deepEqual([back?.device, back?.flags], ['/disk1', []]);
    assert(whole.said.some((line) => /updating old metadata to 3 on \/disk1 for VG vg/.test(line)));
  });

  void test('goes on with other VGs after one that failed', async () => {
    const machine = await withVg();
    const done: string[] = [];
    const work = eachVolumeGroup(machine.context, ['none', 'vg'], {}, async (group, changes) => {
      await changes.apply(addTag(group, 'x'));
      done.push(group.vg.name);
    });
    await assert.rejects(work, (error: unknown) => error instanceof CommandError && error.lines.length === 0);
    assert.deepEqual(done, ['vg']);
    assert(machine.said.includes('Volume group "none" not found'));
    await eachVolumeGroup(machine.context, null, {}, (group) => {
      done.push(group.vg.name);
      return Promise.resolve();
    });
    assert.deepEqual(done, ['vg', 'vg']);
  });
});

void test('a device that somebody else holds is named, with what to do', async () => {
  await withTemporaryFolder(async (folder) => {
    const path = join(folder, 'disk');
    await writeFile(path, Buffer.alloc(4096));
    const holder = await open(path, 'r+');
    assert.equal(flock(holder.fd, Lock.exclusive | Lock.nonBlocking), 0);
    await assert.rejects(openExclusively(path), (error: unknown) => {
      assert(error instanceof CommandError);
      assert.match(error.lines.join('\n'), new RegExp(`${path}.*\n.*in use by another process.*\n.*orion-lvmd`));
      return true;
    });
    await holder.close();
    const device: OpenedDevice = await openExclusively(path);
    await device.close();
  });
});
