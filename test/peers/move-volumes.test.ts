/**
 * vgsplit, vgmerge, vgimportclone, pvmove and pvck --repair on volume groups that the real LVM2 made, on loop devices: after each, it
 * finds nothing wrong, and the volumes where ours left them. Needs root and lvm2 (test/setup).
 */
import assert from 'node:assert/strict';
import { truncate, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { test } from 'node:test';
import { readBytes, writeBytes } from '../../src/block/sync-io.ts';
import { openBlockDevice } from '../../src/block/open.ts';
import { mustRun, type Outcome, runProgram } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { type Lvm2, withLvm2 } from '../lvm/lvm2.ts';

const BIN = resolve(import.meta.dirname, '../../bin');
const MIB = 1024 * 1024;
const PV_BYTES = 64 * MIB;
const EXTENT_BYTES = 4 * MIB;

/** With "pv0" for the path of the first PV's file, and so on. */
function numbered(text: string): string {
  return text.replaceAll(/[^ ,]*\/pv(\d)\.img/g, (_, number: string) => `pv${number}`);
}

/** A host with `count` PVs, for both LVM2s. */
class Host {
  readonly lvm: Lvm2;
  readonly #folder: string;

  constructor(folder: string, lvm: Lvm2) {
    this.#folder = folder;
    this.lvm = lvm;
  }

  get devices(): readonly string[] {
    return this.lvm.devices;
  }

  /** Runs the real one. */
  async real(command: string, ...args: readonly string[]): Promise<void> {
    const { status, stderr } = await this.lvm.run(command, ...args);
    assert.equal(status, 0, `${command} ${args.join(' ')}: ${stderr}`);
  }

  /** Runs ours, on the same devices, with files of its own. */
  async ours(command: string, ...args: readonly string[]): Promise<Outcome> {
    const env = { LVM_SYSTEM_DIR: this.#folder };
    return runProgram(join(BIN, command), ['--devices', this.devices.join(','), ...args], { env });
  }

  async mustOurs(command: string, ...args: readonly string[]): Promise<string> {
    const { status, stdout, stderr } = await this.ours(command, ...args);
    assert.equal(status, 0, `${command} ${args.join(' ')}: ${stderr}`);
    return stdout;
  }

  /** "vg/lv: device(extent)…" of every segment, as the real one reports them, after it found nothing wrong. */
  async volumes(...groups: readonly string[]): Promise<readonly string[]> {
    for (const group of groups) {
      const { status, stdout, stderr } = await this.lvm.run('vgck', group);
      const remarks = stderr.replace(/^ {2}WARNING: Activation disabled.*\n/, '');
      assert.deepEqual({ status, stdout, remarks }, { status: 0, stdout: '', remarks: '' });
    }
    const rows = await this.lvm.report('lvs', '-a', '--segments', '-o', 'vg_name,lv_name,devices');
    return rows.map((row) => `${row['vg_name']}/${row['lv_name']}: ${numbered(row['devices'] ?? '')}`);
  }

  device(index: number): string {
    return this.devices[index] ?? '';
  }

  async read(index: number, extent: number, count: number): Promise<Buffer> {
    const device = await openBlockDevice(this.device(index), { readOnly: true });
    try {
      return await readBytes(device, MIB + extent * EXTENT_BYTES, count * EXTENT_BYTES);
    } finally {
      await device.close();
    }
  }

  /** Labels and metadata. */
  async head(index: number): Promise<Buffer> {
    const device = await openBlockDevice(this.device(index), { readOnly: true });
    try {
      return await readBytes(device, 0, MIB);
    } finally {
      await device.close();
    }
  }

  async write(index: number, offset: number, bytes: Buffer): Promise<void> {
    const device = await openBlockDevice(this.device(index));
    try {
      await writeBytes(device, offset, bytes);
    } finally {
      await device.close();
    }
  }
}

async function withHost(count: number, use: (host: Host) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const files = Array.from({ length: count }, (_, index) => join(folder, `pv${index}.img`));
    for (const file of files) {
      await writeFile(file, '');
      await truncate(file, PV_BYTES);
    }
    await writeFile(
      join(folder, 'lvm.conf'),
      `global { locking_dir = "${folder}/lock" }\nbackup { backup = 0 archive = 0 }\n`,
    );
    await withLvm2(files, (lvm) => use(new Host(folder, lvm)));
  });
}

async function linear(host: Host, vg: string, name: string, size: string, index: number): Promise<void> {
  await host.real('lvcreate', '-an', '-Zn', '-n', name, '-L', size, vg, host.device(index));
}

void test('vgsplit and vgmerge', async () => {
  await withHost(4, async (host) => {
    const { devices } = host;
    await host.real('vgcreate', 'one', ...devices);
    await linear(host, 'one', 'a', '8m', 0);
    await host.real('lvcreate', '-an', '-Zn', '-n', 'b', '-i2', '-L', '8m', 'one', host.device(1), host.device(2));
    const refused = await host.ours('vgsplit', 'one', 'two', host.device(1));
    assert.equal(refused.status, 5);
    assert.match(refused.stderr, /^ {2}Can't split Logical Volume b between two Volume Groups$/m);
    const said = await host.mustOurs('vgsplit', '--maxlogicalvolumes', '7', '-n', 'b', 'one', 'two');
    assert.equal(said, '  New volume group "two" successfully split from "one"\n');
    assert.deepEqual(await host.volumes('one', 'two'), ['one/a: pv0(0)', 'two/b: pv1(0),pv2(0)']);
    const rows = await host.lvm.report('vgs', '-o', 'vg_name,vg_attr,pv_count,max_lv');
    assert.deepEqual(rows, [
      { vg_name: 'one', vg_attr: 'wz--n-', pv_count: '2', max_lv: '0' },
      { vg_name: 'two', vg_attr: 'wz--n-', pv_count: '2', max_lv: '7' },
    ]);
    await host.mustOurs('vgsplit', 'one', 'two', host.device(3));
    await host.real('lvcreate', '-an', '-Zn', '-n', 'c', '-L', '4m', 'two', host.device(3));
    assert.equal(await host.mustOurs('vgmerge', 'one', 'two'), '  Volume group "two" successfully merged into "one"\n');
    assert.deepEqual(await host.volumes('one'), ['one/a: pv0(0)', 'one/b: pv1(0),pv2(0)', 'one/c: pv3(0)']);
    await host.real('vgrename', 'one', 'uno');
  });
});

void test('vgsplit takes LVs on no PV along, as the real one does', async () => {
  await withHost(3, async (host) => {
    const split: (readonly string[])[] = [];
    for (const real of [true, false]) {
      await host.real('vgcreate', 'one', ...host.devices);
      await linear(host, 'one', 'a', '8m', 0);
      await host.real('lvcreate', '-an', '--type', 'zero', '-n', 'z', '-l2', 'one');
      await host.real('lvcreate', '-an', '--type', 'error', '-n', 'e', '-l2', 'one');
      const what = ['one', 'two', host.device(1)];
      if (real) await host.real('vgsplit', ...what);
      else await host.mustOurs('vgsplit', ...what);
      split.push(await host.volumes('one', 'two'));
      await host.real('vgremove', '-ff', 'one', 'two');
    }
    assert.deepEqual(split[1], split[0]);
    assert.deepEqual(split[0], ['one/a: pv0(0)', 'two/e: ', 'two/z: ']);
  });
});

void test('vgimportclone', async () => {
  await withHost(4, async (host) => {
    await host.real('vgcreate', 'orig', host.device(0), host.device(1));
    await linear(host, 'orig', 'a', '60m', 0);
    await linear(host, 'orig', 'b', '8m', 1);
    for (const index of [0, 1]) await host.write(index + 2, 0, await host.head(index));
    const half = await host.ours('vgimportclone', host.device(2));
    assert.equal(half.status, 5);
    assert.match(half.stderr, /VG orig is partial, it must be complete\./);
    await host.mustOurs('vgimportclone', '-n', 'orig', host.device(2), host.device(3));
    assert.deepEqual(await host.volumes('orig', 'orig1'), [
      'orig/a: pv0(0)',
      'orig/b: pv1(0)',
      'orig1/a: pv2(0)',
      'orig1/b: pv3(0)',
    ]);
    await host.real('lvcreate', '-an', '-Zn', '-n', 'c', '-l1', 'orig1');
  });
});

void test('pvmove', async () => {
  await withHost(3, async (host) => {
    await host.real('vgcreate', 'vg', ...host.devices);
    await linear(host, 'vg', 'a', '12m', 0);
    await host.real('lvcreate', '-an', '-Zn', '-n', 'b', '-i2', '-L', '16m', 'vg', host.device(0), host.device(1));
    const bytes = Buffer.alloc(5 * EXTENT_BYTES);
    for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE(at, at);
    await host.write(0, MIB, bytes);
    const said = await host.mustOurs('pvmove', '-i1', host.device(0), host.device(2));
    assert.match(
      said,
      new RegExp(`^ {2}${host.device(0)}: Moved: 0.00%\n[^]* {2}${host.device(0)}: Moved: 100.00%\n$`),
    );
    assert.deepEqual(await host.volumes('vg'), ['vg/a: pv2(0)', 'vg/b: pv2(3),pv1(0)']);
    assert((await host.read(2, 0, 5)).equals(bytes));
    await host.mustOurs('pvmove', '-i0', '-n', 'a', `${host.device(2)}:1-`, `${host.device(0)}:7-9`);
    assert.deepEqual(await host.volumes('vg'), ['vg/a: pv2(0)', 'vg/a: pv0(7)', 'vg/b: pv2(3),pv1(0)']);
    assert((await host.read(0, 7, 2)).equals(bytes.subarray(EXTENT_BYTES, 3 * EXTENT_BYTES)));
    assert.equal(await host.mustOurs('pvmove', '-b', '--atomic', host.device(1), host.device(0)), '');
    // Goes on beside the process in the background, or finds that it has finished.
    await host.mustOurs('pvmove', '-i0');
    assert.deepEqual(await host.volumes('vg'), ['vg/a: pv2(0)', 'vg/a: pv0(7)', 'vg/b: pv2(3),pv0(0)']);
    const none = await host.ours('pvmove', `${host.device(1)}:5-9`);
    assert.deepEqual([none.status, none.stderr], [5, '  No data to move for vg.\n']);
    const idle = await host.mustOurs('pvmove', '--abort', host.device(1));
    assert.equal(idle, `  ${host.device(1)}: No pvmove in progress - already finished or aborted.\n`);
  });
});

void test('pvck --repair', async () => {
  await withHost(2, async (host) => {
    await withTemporaryFolder(async (folder) => {
      await host.real('vgcreate', '--pvmetadatacopies', '2', 'vg', ...host.devices);
      await linear(host, 'vg', 'a', '8m', 0);
      const backup = join(folder, 'backup');
      await host.real('vgcfgbackup', '-f', backup, 'vg');
      for (const index of [0, 1]) await host.write(index, 0, Buffer.alloc(4096 + 4096));
      const said = await host.mustOurs('pvck', '--repair', '-y', '-f', backup, host.device(0));
      assert.match(said, /^ {2}CHECK: label_header\.id expected LABELONE$/m);
      assert.match(said, /^ {2}Found mda2 header at offset 66060288 size 1048576$/m);
      await host.mustOurs('pvck', '--repair', '-y', '-f', backup, host.device(1));
      assert.deepEqual(await host.volumes('vg'), ['vg/a: pv0(0)']);
      await mustRun('/sbin/pvck', [host.device(0)], { env: { LVM_SYSTEM_DIR: folder } });
      await host.real('lvcreate', '-an', '-Zn', '-n', 'b', '-l1', 'vg');
    });
  });
});
