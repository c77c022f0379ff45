/**
 * Volumes that the kernel has attached while no daemon runs: whatever takes one away, cuts it, or makes another one of it refuses,
 * unless somebody insists; what leaves it as it is does not. The kernel's side is two files that stand for a connected device.
 */
import assert from 'node:assert/strict';
import { mkdir, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { StreamOutput } from '../../src/cli/messages.ts';
import { run } from '../../src/cli/run.ts';
import { HOST_SYSTEM, noteDevice } from '../../src/daemon/client/attached.ts';
import type { Outcome } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { NOBODY } from '../helpers/terminal.ts';

const IN_USE = / {2}Logical volume vg\/a in use: it is attached as \/dev\/nbd3, which waits for its daemon\.\n/;

async function command(folder: string, ...args: readonly string[]): Promise<Outcome> {
  let [stdout, stderr] = ['', ''];
  const output = new StreamOutput({ write: (text) => (stdout += text) }, { write: (text) => (stderr += text) });
  const devices = ['pv0', 'pv1', 'pv2'].map((name) => join(folder, name)).join(',');
  const env = { LVM_SYSTEM_DIR: folder, ORION_LVM_CONTROL: '', ORION_LVM_DEVICES: devices };
  const status = await run(args, output, { env, cwd: folder, uid: 1000, now: 0, terminal: NOBODY });
  output.flush();
  return { status, stdout, stderr };
}

test('what is attached while no daemon runs is in use', async (t) => {
  await withTemporaryFolder(async (folder) => {
    const must = async (line: string): Promise<string> => {
      const { status, stdout, stderr } = await command(folder, ...line.split(' '));
      assert.equal(status, 0, `${line}: ${stderr}`);
      return stdout.trim();
    };
    const pvs = ['pv0', 'pv1', 'pv2'].map((name) => join(folder, name));
    for (const path of pvs) {
      await writeFile(path, '');
      await truncate(path, 64 * 2 ** 20);
    }
    await must(`vgcreate vg ${pvs[0]} ${pvs[1]}`);
    await must(`vgcreate other ${pvs[2]}`);
    for (const name of ['a', 'b', 'o']) await must(`lvcreate -L12M -n ${name} vg ${pvs[0]}`);
    await must('vgcfgbackup -f before vg');
    t.mock.property(HOST_SYSTEM, 'directory', join(folder, 'notes'));
    t.mock.property(HOST_SYSTEM, 'sysBlock', join(folder, 'sys'));
    await mkdir(join(folder, 'sys/nbd3'), { recursive: true });
    const connected = join(folder, 'sys/nbd3/pid');
    await writeFile(connected, '17\n');
    const server = 'unix:/run/orion-lvm/nbd.sock';
    const attach = async (name: string): Promise<void> => {
      const volume = await must(`lvs --noheadings --separator / -o vg_uuid,lv_uuid vg/${name}`);
      await noteDevice({ kernelName: 'nbd3', exportName: `vg/${name}`, server, connections: 1, volume });
    };
    const seqno = (): Promise<string> => must('vgs --noheadings -o vg_seqno vg');
    const refused = async (line: string, reason = IN_USE): Promise<void> => {
      const { status, stderr } = await command(folder, ...line.split(' '));
      assert.equal(status, 5, `${line}: ${stderr}`);
      assert.match(stderr, reason, line);
    };

    await attach('a');
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
    const { status, stderr } = await command(folder, 'vgchange', '-an', 'vg');
    assert.equal(status, 5);
    assert.match(stderr, IN_USE);
    assert.match(stderr, / {2}Can't deactivate volume group "vg" with 1 open logical volume\(s\)\n$/);
    const restore = await command(folder, 'vgcfgrestore', '--force', '-f', 'before', 'vg');
    assert.match(restore.stdout, /Volume group vg has active volume: a\./);
    assert.notEqual(restore.status, 0);
    assert.equal(await seqno(), before, 'nothing was written');

    // A snapshot that would go with its origin, and one that would be a volume of its own.
    await must('lvcreate -s -L8M -n snap vg/a');
    const joined = await seqno();
    await attach('snap');
    const snapInUse = /Logical volume vg\/snap in use: it is attached as \/dev\/nbd3/;
    await refused('lvremove -y vg/a', snapInUse);
    await refused('lvconvert -y --splitsnapshot vg/snap', snapInUse);
    assert.equal(await seqno(), joined, 'nothing was written');

    // Its neighbours are not concerned, nor is what leaves it as it is.
    await attach('a');
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
    await attach('o');
    await refused('vgremove -y vg', /Logical volume vg\/o in use/);
    await rm(connected);
    await must('vgremove -y vg');
  });
});

test('however many LVs a command removes, it looks for attached devices as often', async (t) => {
  await withTemporaryFolder(async (folder) => {
    const must = async (line: string): Promise<string> => {
      const { status, stdout, stderr } = await command(folder, ...line.split(' '));
      assert.equal(status, 0, `${line}: ${stderr}`);
      return stdout.trim();
    };
    for (const name of ['pv0', 'pv1', 'pv2']) {
      await writeFile(join(folder, name), '');
      await truncate(join(folder, name), 64 * 2 ** 20);
    }
    await must(`vgcreate vg ${join(folder, 'pv0')}`);
    await must(`vgcreate other ${join(folder, 'pv1')}`);
    await must('lvcreate -l1 -n elsewhere other');
    await mkdir(join(folder, 'sys/nbd3'), { recursive: true });
    await writeFile(join(folder, 'sys/nbd3/pid'), '17\n');
    t.mock.property(HOST_SYSTEM, 'directory', join(folder, 'notes'));
    const volume = await must('lvs --noheadings --separator / -o vg_uuid,lv_uuid other/elsewhere');
    const server = 'unix:/run/orion-lvm/nbd.sock';
    await noteDevice({ kernelName: 'nbd3', exportName: 'other/elsewhere', server, connections: 1, volume });
    // Read for each noted device whenever somebody looks.
    const { mock: sysBlock } = t.mock.property(HOST_SYSTEM, 'sysBlock', join(folder, 'sys'));
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
  });
});
