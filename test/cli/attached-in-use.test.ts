/**
 * Volumes that the kernel has attached while no daemon runs: whatever takes one away, cuts it, or makes another one of it refuses,
 * unless somebody insists; what leaves it as it is does not. The kernel's side is two files that stand for a connected device.
 */
import assert from 'node:assert/strict';
import { mkdir, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { StreamOutput } from '../../src/cli/messages.ts';
import { run } from '../../src/cli/run.ts';
import { HOST_SYSTEM, noteDevice } from '../../src/daemon/client/attached.ts';
import type { Outcome } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { NOBODY } from '../helpers/terminal.ts';

const IN_USE = / {2}Logical volume vg\/a in use: it is attached as \/dev\/nbd3, which waits for its daemon\.\n/;

interface Lab {
  /** Three PVs' images, empty. */
  readonly pvs: readonly string[];
  /** Runs a command line without a daemon. */
  readonly command: (line: string) => Promise<Outcome>;
  /** The same; it must end well. What it printed, trimmed. */
  readonly must: (line: string) => Promise<string>;
  /** The same; it must fail for this reason. */
  readonly refused: (line: string, reason?: RegExp) => Promise<void>;
  /** Notes nbd3, which the kernel says is connected, as the attached device of an LV. */
  readonly attach: (lv: string) => Promise<void>;
  /** From now on the kernel says that nbd3 isn't connected. */
  readonly disconnect: () => Promise<void>;
  /** Counts who reads where the kernel tells of its devices: whoever looks for attached ones does, for each that is noted. */
  readonly sysBlock: { accessCount(): number; resetAccesses(): void };
}

/** Calls `use` with a folder of its own, for images and for what stands for the kernel. */
async function withLab(t: TestContext, use: (lab: Lab) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const pvs = ['pv0', 'pv1', 'pv2'].map((name) => join(folder, name));
    for (const path of pvs) {
      await writeFile(path, '');
      await truncate(path, 64 * 2 ** 20);
    }
    t.mock.property(HOST_SYSTEM, 'directory', join(folder, 'notes'));
    const { mock: sysBlock } = t.mock.property(HOST_SYSTEM, 'sysBlock', join(folder, 'sys'));
    const connected = join(folder, 'sys/nbd3/pid');
    await mkdir(join(folder, 'sys/nbd3'), { recursive: true });
    await writeFile(connected, '17\n');

    const command: Lab['command'] = async (line) => {
      let [stdout, stderr] = ['', ''];
      const output = new StreamOutput({ write: (text) => (stdout += text) }, { write: (text) => (stderr += text) });
      const env = { LVM_SYSTEM_DIR: folder, ORION_LVM_CONTROL: '', ORION_LVM_DEVICES: pvs.join(',') };
      const around = { env, cwd: folder, uid: 1000, now: 0, terminal: NOBODY };
      const status = await run(line.split(' '), output, around);
      output.flush();
      return { status, stdout, stderr };
    };
    const must: Lab['must'] = async (line) => {
      const { status, stdout, stderr } = await command(line);
      assert.equal(status, 0, `${line}: ${stderr}`);
      return stdout.trim();
    };
    const refused: Lab['refused'] = async (line, reason = IN_USE) => {
      const { status, stderr } = await command(line);
      assert.equal(status, 5, `${line}: ${stderr}`);
      assert.match(stderr, reason, line);
    };
    const attach: Lab['attach'] = async (lv) => {
      const volume = await must(`lvs --noheadings --separator / -o vg_uuid,lv_uuid ${lv}`);
      const server = 'unix:/run/orion-lvm/nbd.sock';
      await noteDevice({ kernelName: 'nbd3', exportName: lv, server, connections: 1, volume });
    };
    await use({ pvs, command, must, refused, attach, disconnect: () => rm(connected), sysBlock });
  });
}

test('what is attached while no daemon runs is in use', (t) =>
  withLab(t, async ({ pvs, command, must, refused, attach, disconnect }) => {
    await must(`vgcreate vg ${pvs[0]} ${pvs[1]}`);
    await must(`vgcreate other ${pvs[2]}`);
    for (const name of ['a', 'b', 'o']) await must(`lvcreate -L12M -n ${name} vg ${pvs[0]}`);
    await must('vgcfgbackup -f before vg');
    const seqno = (): Promise<string> => must('vgs --noheadings -o vg_seqno vg');

    await attach('vg/a');
    const before = await seqno();
    for (const line of [
      'lvremove -y vg/a',
      'lvremove -y vg',
      'lvremove --wipe zero -y vg/a',
      'lvreduce -y -L8M vg/a',
      'lvresize -y -L8M vg/a',
      'lvextend -r -L16M vg/a',
      'lvchange -an vg/a',
      'lvchange -an vg',
      'lvconvert -y -s vg/o vg/a',
      'vgchange -u vg',
      'vgchange -y --systemid elsewhere vg',
      'vgexport vg',
      'vgmerge other vg',
      `vgsplit vg third ${pvs[0]}`,
      'vgremove -y vg',
    ]) {
      await refused(line);
    }
    const { status, stderr } = await command('vgchange -an vg');
    assert.equal(status, 5);
    assert.match(stderr, IN_USE);
    assert.match(stderr, / {2}Can't deactivate volume group "vg" with 1 open logical volume\(s\)\n$/);
    const restore = await command('vgcfgrestore --force -f before vg');
    assert.match(restore.stdout, /Volume group vg has active volume: a\./);
    assert.notEqual(restore.status, 0);
    assert.equal(await seqno(), before, 'nothing was written');

    // A snapshot that would go with its origin, and one that would be a volume of its own.
    await must('lvcreate -s -L8M -n snap vg/a');
    const joined = await seqno();
    await attach('vg/snap');
    const snapInUse = /Logical volume vg\/snap in use: it is attached as \/dev\/nbd3/;
    await refused('lvremove -y vg/a', snapInUse);
    await refused('lvconvert -y --splitsnapshot vg/snap', snapInUse);
    assert.equal(await seqno(), joined, 'nothing was written');

    // Its neighbours are not concerned, nor is what leaves it as it is.
    await attach('vg/a');
    for (const line of [
      'lvchange -an vg/b',
      'lvremove -y vg/b',
      'lvextend -L16M vg/a',
      'lvrename vg a c',
      'lvchange --addtag x vg/c',
      'lvrename vg c a',
      'lvremove -y vg/snap',
      'lvreduce -f -L12M vg/a',
      'lvremove -f vg/a',
    ]) {
      await must(line);
    }

    // Who has detached it, may do what he likes.
    await attach('vg/o');
    await refused('vgremove -y vg', /Logical volume vg\/o in use/);
    await disconnect();
    await must('vgremove -y vg');
  }));

test('however many LVs a command removes, it looks for attached devices as often', (t) =>
  withLab(t, async ({ pvs, must, attach, sysBlock }) => {
    await must(`vgcreate vg ${pvs[0]}`);
    await must(`vgcreate other ${pvs[1]}`);
    await must('lvcreate -l1 -n elsewhere other');
    await attach('other/elsewhere');
    const looks: number[] = [];
    for (const count of [2, 12]) {
      for (let index = 0; index < count; index++) await must(`lvcreate -l1 -n lv${index} vg`);
      sysBlock.resetAccesses();
      await must('lvremove -y vg');
      looks.push(sysBlock.accessCount());
    }
    const [few, many] = looks;
    assert.ok((few ?? 0) > 0);
    assert.equal(many, few);
  }));
