/** pvcreate, pvremove, pvchange and pvresize beside the real LVM2, on twins of empty devices. */
import assert from 'node:assert/strict';
import { open, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { withDeviceTwins } from './pv-twin.ts';

describe('PV commands, as LVM2 has them', { concurrency: 2 }, () => {
  test('bad usage', () =>
    withDeviceTwins([32], (twins) =>
      twins.same([
        'pvcreate --labelsector 4 P0',
        'pvcreate --pvmetadatacopies 3 P0',
        'pvcreate --pvmetadatacopies 0 --metadataignore y P0',
        'pvcreate --metadatasize -4m P0',
        'pvcreate --dataalignment -4k P0',
        'pvcreate --dataalignmentoffset -4k P0',
        'pvcreate --bootloaderareasize -1m P0',
        'pvcreate --setphysicalvolumesize -1m P0',
        'pvcreate --dataalignment 1e P0',
        'pvcreate --metadatasize x P0',
        'pvcreate --restorefile /nowhere P0',
        'pvcreate -Z x P0',
        'pvcreate --metadatacopies 3 P0',
        'pvcreate -y -y P0',
        'pvcreate --norestorefile --uuid short P0',
        'pvcreate --norestorefile --uuid aaaaaa-bbbb-cccc-dddd-eeee-ffff-11_111 P0',
        'pvcreate /nowhere/a',
        'vgcreate vg /nowhere/a /nowhere/b',
        'vgcreate vg /nowhere/a P0',
      ]),
    ));

  test('making, remaking and removing', () =>
    withDeviceTwins([32, 40], async (twins) => {
      await twins.same(['pvcreate P0 P1']);
      await twins.sameWorld();
      await twins.same(['pvcreate --pvmetadatacopies 2 P0', 'pvcreate --labelsector 3 --metadataignore y P1']);
      await twins.sameWorld();
      await twins.same(['pvcreate --bootloaderareasize 1m P0', 'pvcreate --metadatasize 3m --dataalignment 4m P1']);
      await twins.sameWorld();
      await twins.same(['pvcreate -y --setphysicalvolumesize 20m P0', 'pvremove P1', 'pvremove P1', 'pvremove -f P1']);
      await twins.sameWorld();
    }));

  test('PVs of a VG are protected', () =>
    withDeviceTwins([32, 32], async (twins) => {
      await twins.same(['vgcreate vg P0 P1', 'pvcreate P0', 'pvcreate -f P0', 'pvcreate -f -y P0', 'pvremove P0']);
      await twins.same(['pvremove -f P1', 'pvremove -f -y P1', 'vgcreate vg2 P0', 'vgextend vg P0']);
      await twins.sameWorld();
      await twins.same(['pvremove -ff -y P0 P1']);
      await twins.sameWorld();
    }));

  test('changing', () =>
    withDeviceTwins([32, 32, 32], async (twins) => {
      await twins.same(['vgcreate --vgmetadatacopies 2 vg P0 P1', 'pvcreate P2']);
      await twins.same([
        'pvchange -x n P0',
        'pvchange -x n P0',
        'pvchange -x y P0',
        'pvchange --addtag a --addtag b P1',
      ]);
      await twins.same(['pvchange --deltag a P1', 'pvchange --deltag nothing P1', 'pvchange -x n P2']);
      await twins.same(['pvchange --addtag a P2', 'pvchange --metadataignore y P2', 'pvchange --metadataignore y P2']);
      await twins.same(['pvchange -u P2', 'pvchange -u P1', 'pvchange -x n -a', 'pvchange -x y @b']);
      await twins.same(['pvchange -f --metadataignore y P0', 'pvchange -f --metadataignore n P0']);
      await twins.same([
        'vgcreate one P2',
        'pvchange -f --metadataignore y P2',
        'pvs -P -o pv_mda_used_count',
        'vgs -P',
      ]);
      await twins.same(['vgexport one', 'pvchange -x n P2', 'pvresize P2', 'vgreduce one P2', 'vgreduce -a one']);
      await twins.same(['pvchange -x n @nothing', 'vgimport one', 'vgremove one', 'lvs -P']);
      await twins.sameWorld();
      await twins.same(['pvchange P0', 'pvchange -x n', 'pvchange -a -x n P0']);
    }));

  test('growing and shrinking', () =>
    withDeviceTwins([32, 32], async (twins) => {
      await twins.same(['vgcreate vg P0', 'pvcreate --pvmetadatacopies 2 P1', 'lvcreate -an -Zn -l 2 -n lv vg']);
      await twins.resize(0, 64);
      await twins.resize(1, 48);
      await twins.same(['pvresize P0 P1']);
      await twins.sameWorld();
      await twins.same(['pvresize -y --setphysicalvolumesize 24m P0 P1']);
      await twins.sameWorld();
      await twins.same(['pvresize -y --setphysicalvolumesize 8m P0', 'pvresize --setphysicalvolumesize -1m P1']);
      await twins.sameCode([
        'pvresize -qq --setphysicalvolumesize 30m P0',
        'pvresize -y --setphysicalvolumesize 1m P1',
      ]);
      await twins.sameWorld();
    }));

  test('a PV without room for one extent is shown as large as it is', () =>
    withDeviceTwins([12, 48, 24], async (twins) => {
      await twins.same(['pvcreate -q P0 P1 P2', 'vgcreate -s 32m vg P0 P1 P2', 'pvscan']);
      const reports = [
        'pvs --noheadings -o+pv_used,pv_pe_count --units s',
        'pvs --noheadings --segments -o+pvseg_all',
        'vgs --noheadings -o+pv_size,pv_free,pv_name',
        'pvs --noheadings -S pv_size>3m',
        'pvs --noheadings -o pv_name,pv_size,pv_free,pv_exported,vg_name,pvseg_start --units k',
      ];
      await twins.same(reports);
      const size = /\n {2}PV Size {15}(?:12|24)\.00 MiB\n {2}Allocatable {11}NO\n/g;
      assert.equal((await twins.ours('pvdisplay P0 P2')).stdout.match(size)?.length, 2);
      await twins.same(['vgexport vg', ...reports, 'vgimport vg', 'pvchange -x n P0', ...reports]);
    }));

  test('signatures are asked about', () =>
    withDeviceTwins([32], async (twins) => {
      for (const path of twins.files) await writeSwap(path);
      // Questions are answered with no: nothing is read from the test runner.
      const refused = await twins.ours('pvcreate -qq P0');
      assert.equal(refused.code, 5);
      assert.match(refused.stderr, /Aborted wiping of swap\.\n {2}1 existing signature left on the device\./);
      const done = await twins.ours('pvcreate -y P0');
      assert.equal(done.code, 0);
      assert.match(done.stdout, /^ {2}Wiping swap signature on .*\n {2}Physical volume .* successfully created\.\n$/);
    }));

  test('--test writes nothing', () =>
    withDeviceTwins([32], async (twins) => {
      const { code, stdout } = await twins.ours('pvcreate -t P0');
      assert.equal(code, 0);
      assert.match(stdout, /Would initialise the physical volume/);
      assert.equal((await stat(twins.files[0] ?? '')).blocks, 0);
    }));

  for (const method of ['zero', 'random', 'discard'] as const) {
    test(`a removed PV can be overwritten: ${method}`, () =>
      withDeviceTwins([4], async (twins) => {
        const [path = ''] = twins.files;
        await writeFile(path, Buffer.alloc(4 << 20, 0x61));
        await twins.ours('pvcreate P0');
        assert.equal((await twins.ours(`pvremove -t --wipe ${method} P0`)).code, 0);
        assert((await readFile(path)).subarray(2 << 20).every((byte) => byte === 0x61));
        assert.equal((await twins.ours(`pvremove --wipe ${method} P0`)).code, 0);
        const bytes = await readFile(path);
        assert.equal(bytes.length, 4 << 20);
        if (method === 'random') assert(new Set(bytes).size === 256 && !bytes.includes(Buffer.alloc(64, 0x61)));
        else assert(bytes.every((byte) => byte === 0));
        if (method === 'discard') assert.equal((await stat(path)).blocks, 0);
      }));
  }

  test('a PV is made again from a backup', () =>
    withDeviceTwins([32, 32], async (twins) => {
      const backup = join(twins.folder, 'backup');
      await twins.ours('vgcreate --dataalignment 2m vg P0 P1');
      await twins.ours(`vgcfgbackup -f ${backup} vg`);
      const [, uuid = ''] =
        /(\S+)\n$/.exec((await twins.ours('pvs --noheadings -o uuid P0')).stdout.trimEnd() + '\n') ?? [];
      await twins.ours('pvremove -ff -y P0');
      assert.equal((await twins.ours(`pvcreate --uuid ${uuid} --restorefile ${backup} P0`)).code, 0);
      assert.equal((await twins.ours(`vgcfgrestore -f ${backup} vg`)).code, 0);
      assert.equal((await twins.ours('vgck vg')).stderr, '');
    }));
});

async function writeSwap(path: string): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(Buffer.from('SWAPSPACE2'), 0, 10, 4086);
  await file.close();
}
