/** Commands about whole volume groups beside the real LVM2, on twins of empty devices. */
import assert from 'node:assert/strict';
import { open, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type DeviceTwins, withDeviceTwins } from './pv-twin.ts';

/** What keeps this host from a VG "vg" on P0, and how it comes about. */
const BARRIERS: readonly (readonly [kind: string, makeSo: (twins: DeviceTwins) => Promise<void>])[] = [
  ['foreign', (twins) => twins.same(['vgchange -y --systemid other vg'])],
  ['shared', (twins) => twins.editText(0, (text) => text.replace('format =', 'lock_type = "sanlock"\nformat ='))],
  ['clustered', (twins) => twins.editText(0, (text) => text.replace('status = [', 'status = ["CLUSTERED", '))],
  ['exported', (twins) => twins.same(['vgexport vg'])],
];

describe('VG commands, as LVM2 has them', { concurrency: 2 }, () => {
  test('bad usage', () =>
    withDeviceTwins([32], (twins) =>
      twins.same([
        'vgcreate -s 3k vg P0',
        'vgcreate -s 0 vg P0',
        'vgcreate -s -4m vg P0',
        'vgcreate -l -1 vg P0',
        'vgcreate -p -1 vg P0',
        'vgcreate --alloc inherit vg P0',
        'vgcreate --alloc nonsense vg P0',
        'vgcreate v:g P0',
        'vgcreate .. P0',
        'vgcreate --addtag a,b vg P0',
        'vgcreate --vgmetadatacopies x vg P0',
        'vgremove nothere',
        'vgextend nothere P0',
        'vgreduce nothere P0',
        'vgrename nothere other',
        'vgrename same same',
        'vgchange -l 3 nothere',
        'vgck nothere',
        'vgexport nothere',
      ]),
    ));

  test('making, extending, reducing and removing', () =>
    withDeviceTwins([32, 32, 32, 40], async (twins) => {
      await twins.same(['vgcreate -s 1m -l 5 -p 3 --addtag t --alloc cling vg P0 P1', 'vgcreate vg P2']);
      await twins.sameWorld();
      await twins.same(['vgextend --pvmetadatacopies 2 vg P2', 'vgextend vg P3', 'vgreduce vg P1', 'vgextend vg P3']);
      await twins.sameWorld();
      await twins.same(['lvcreate -an -Zn -l 3 -n lv vg P0', 'vgreduce vg P0', 'vgreduce vg P1', 'vgreduce -a vg']);
      await twins.sameWorld();
      await twins.same(['vgreduce vg P0', 'vgremove -y vg']);
      await twins.sameWorld();
    }));

  test('extents of another size', () =>
    withDeviceTwins([32, 33, 24], async (twins) => {
      await twins.same([
        'vgcreate -s 256k vg P0 P1 P2',
        'vgchange -s 2m vg',
        'vgchange -s 512k vg',
        'vgchange -s 64k vg',
      ]);
      await twins.same([
        'lvcreate -an -Zn -l 64 -n a vg',
        'vgchange -s 1m vg',
        'vgchange -s 4m vg',
        'vgchange -s 8m vg',
      ]);
      await twins.same([
        'lvcreate -an -Zn -l 8 -i2 -I64 -n b vg P1 P2',
        'vgchange -s 128k vg',
        'lvextend -l+1 vg/a P0',
      ]);
      await twins.same(['vgchange -s 256k vg', 'lvextend -l+3 vg/a P0', 'vgchange -s 512k vg', 'vgchange -s 1m vg']);
      await twins.same([
        'lvextend -l+1 vg/a P2',
        'vgchange -s 512k vg',
        'lvreduce -f -l-1 vg/a',
        'vgchange -s 512k vg',
      ]);
      await twins.same(['lvs --noheadings --separator , --units s -o name,seg_start_pe,seg_size vg', 'vgremove -y vg']);
      await twins.same([
        'vgcreate -s 1m vg P0 P1',
        'lvcreate -an -Zn -l 4 -i2 -I64 -n b vg P0:4- P1:4-',
        'vgchange -s 4m vg',
      ]);
    }));

  test('the order of PVs in a VG', () =>
    withDeviceTwins([32, 32, 32, 32], async (twins) => {
      // Those that were PVs come first; what vgsplit moves, as it was named.
      await twins.same(['pvcreate P3', 'vgcreate vg P1 P3 P0', 'vgextend vg P2']);
      await twins.same([
        'lvcreate -an -Zn -l 100%FREE -n a vg',
        'lvs --noheadings --separator , -o seg_pe_ranges vg',
        'lvremove vg/a',
      ]);
      await twins.same([
        'vgsplit vg vg2 P2 P0',
        'lvcreate -an -Zn -l 100%FREE -n a vg2',
        'lvs --noheadings --separator , -o seg_pe_ranges vg2',
      ]);
      await twins.same(['vgsplit vg vg3 P3 P3', 'vgextend vg P0', 'vgremove -y vg2 vg', 'vgcreate vg P3 P3']);
      // LVM2 finds that out when it has wiped it.
      await twins.same(['pvremove P3']);
      const image = await open(twins.files[3] ?? '', 'r+');
      await image.write(Buffer.from('SWAPSPACE2'), 0, 10, 4086);
      assert.equal((await twins.ours('vgcreate -y vg P3 P3')).code, 5);
      const { buffer } = await image.read(Buffer.alloc(10), 0, 10, 4086);
      assert.equal(buffer.toString(), 'SWAPSPACE2');
      await image.write(Buffer.alloc(10), 0, 10, 4086);
      await image.close();
      await twins.sameWorld();
    }));

  test('metadata copies', () =>
    withDeviceTwins([32, 32, 32], async (twins) => {
      await twins.same(['vgcreate --pvmetadatacopies 0 vg P0', 'vgcreate --vgmetadatacopies all vg2 P1 P2']);
      await twins.sameCode(['vgreduce vg2 P1', 'vgremove vg2', 'vgremove vg']);
      await twins.sameWorld();
    }));

  test('changing', () =>
    withDeviceTwins([64, 32], async (twins) => {
      await twins.same([
        'vgcreate vg P0 P1',
        'vgchange -l 7 vg',
        'vgchange -p 9 vg',
        'vgchange -p 1 vg',
        'vgchange -x n vg',
      ]);
      await twins.same([
        'vgchange -x n vg',
        'vgchange -l 3 vg',
        'vgextend vg P1',
        'vgchange -x y vg',
        'vgchange -x y vg',
      ]);
      await twins.same(['vgchange --addtag a --addtag b vg', 'vgchange --deltag a vg', 'vgchange --alloc normal vg']);
      await twins.same(['vgchange --alloc anywhere vg', 'vgchange -s 1m vg', 'vgchange -s 1m vg', 'vgchange -s 3k vg']);
      await twins.same([
        'lvcreate -an -Zn -l 3 -n lv vg',
        'vgchange -s 2m vg',
        'vgchange -s 512k vg',
        'vgchange -l 1 @b',
      ]);
      await twins.same(['vgchange --setautoactivation n vg', 'vgchange --setautoactivation n vg', 'vgchange -u vg']);
      await twins.same(['vgchange --vgmetadatacopies 1 vg', 'vgchange --vgmetadatacopies 1 vg', 'vgchange vg']);
      await twins.sameWorld();
    }));

  test('system IDs', () =>
    withDeviceTwins([32], async (twins) => {
      await twins.same(['vgcreate vg P0', 'vgchange -y --systemid other vg']);
      await twins.sameCode(['vgchange -l 3 vg', 'vgremove vg']);
      await twins.sameFlags(0);
      await twins.sameCode(['lvcreate -an -Zn -l 3 -n a vg --config local/extra_system_ids=["other"]']);
      const known = '--config global{system_id_source="lvmlocal"}local{system_id="own"extra_system_ids=["other"]}';
      await twins.same([`lvcreate -an -Zn -l 3 -n a vg ${known}`, `lvcreate -an -Zn -l 3 -pr -n b vg ${known}`]);
      await twins.same([`vgs -o vg_attr,vg_permissions vg ${known}`, `lvs -o lv_name,lv_permissions vg ${known}`]);
      await twins.sameFlags(0);
      await twins.same([`lvchange -pr vg/a ${known}`, `lvchange -prw vg/b ${known}`, `lvchange -kn vg/b ${known}`]);
      await twins.sameFlags(0);
      await twins.sameCode([`vgchange --systemid= -y vg ${known}`, 'vgchange -l 3 vg']);
      await twins.sameFlags(0);
    }));

  for (const [kind, makeSo] of BARRIERS) {
    test(`${kind} VGs are left alone`, () =>
      withDeviceTwins([32, 32, 32], async (twins) => {
        await twins.same(['vgcreate vg P0', 'vgcreate own P1', 'pvchange --addtag t P0 P1']);
        await makeSo(twins);
        await twins.same(['pvchange -a -x n', 'pvchange -x y P0', 'pvchange -x y P1 P2', 'pvchange -x n P0 P1']);
        await twins.same(['pvchange -x y @t', 'pvchange -x n @t @u P0', 'pvchange --addtag q -S pv_name!=x']);
        await twins.same(['pvchange -u P0', 'pvchange -a -u', 'pvresize P0', 'pvresize P0 P1']);
        await twins.same(['vgreduce vg P0', 'vgreduce vg P0 P1', 'vgreduce -a vg', 'vgreduce -a own']);
        await twins.same(['vgchange -x n', 'vgchange --addtag y @nosuch', 'vgchange --addtag y own @t', 'vgck']);
        await twins.same(['vgexport own', 'vgimport -a', 'vgremove @t', 'vgs --noheadings', 'lvs', 'vgscan']);
        await twins.same([
          'lvchange --addtag x @t',
          'lvremove @t',
          'pvscan',
          'pvs --noheadings',
          'pvs --noheadings P0',
        ]);
        await twins.same([
          'pvmove P0',
          'pvmove P2',
          'pvmove P0 P1',
          'pvmove --abort P0',
          'pvmove',
          'pvmove /dev/nosuch',
        ]);
      }));
  }

  test('renaming, exporting and importing', () =>
    withDeviceTwins([32, 32], async (twins) => {
      await twins.same(['vgcreate vg P0', 'vgcreate vg2 P1', 'vgrename vg vg2', 'vgrename vg a.b', 'vgrename a.b x/y']);
      await twins.same(['vgexport a.b', 'vgexport a.b', 'vgchange -l 3 a.b', 'vgimport a.b', 'vgimport a.b']);
      await twins.sameCode(['vgexport -a', 'vgimport -a', 'vgexport', 'vgimport', 'vgexport -a vg2']);
      await twins.sameWorld();
    }));

  test('settings that stand for options, and those of reports', () =>
    withDeviceTwins([32, 32], async (twins) => {
      await twins.same(['vgcreate --addtag a --addtag b vg P0 P1', 'lvcreate -an -Zn -l 2 -n lv vg']);
      assert.match((await twins.ours('vgchange --config global/test=1 --addtag t vg')).stderr, /^ {2}TEST MODE: /);
      const report = [
        'report/list_item_separator=";"',
        'report{compact_output=1}',
        'report/compact_output_cols="vg_tags"',
      ];
      await twins.same(report.map((config) => `vgs --config ${config} -o name,tags,lv_count,profile`));
      await twins.same(report.map((config) => `pvs --rows --config ${config} -o name,tags,pv_exported`));
      await twins.same(['lvs --config report/time_format="%q" vg', 'vgck --config report/time_format="%n" vg']);
      await twins.same(['lvs -o name,lv_time --config report/time_format="<%C>" vg']);
      for (const quiet of ['-q', '-qq', '--config log/silent=1', '--config log{silent=1}']) {
        await twins.same([
          `vgchange ${quiet} --addtag c vg`,
          `vgs ${quiet} --noheadings -o vg_tags`,
          `vgscan ${quiet}`,
        ]);
        await twins.same([`pvscan ${quiet}`, `lvscan ${quiet}`, `vgremove ${quiet} vg`, `vgck ${quiet} none`]);
        await twins.same([
          `vgchange ${quiet} --deltag c vg`,
          `vgdisplay -c ${quiet} none`,
          `lvcreate ${quiet} -an -Zn -l999 vg`,
        ]);
      }
      await twins.same(['lvcreate --config activation/readahead="none" -an -Zn -l 2 -n r vg']);
      assert.match((await twins.ours('lvs --noheadings -o lv_read_ahead vg')).stdout, /auto\s+0\s*$/);
      await twins.sameCode(['lvcreate --config activation/readahead="x" -an -Zn -l 2 vg']);
      await twins.sameWorld();
      const display = await twins.ours('lvdisplay --config global/lvdisplay_shows_full_device_path=1 vg/lv');
      assert.match(display.stdout, /LV Name +\/dev\/vg\/lv\n +VG Name/);
    }));

  test('criteria in place of names', () =>
    withDeviceTwins([32, 32, 32], async (twins) => {
      await twins.same(['vgcreate --addtag t va P0', 'vgcreate vb P1', 'lvcreate -an -Zn -l 3 -n lv vb']);
      await twins.same(['vgchange -S vg_name=va --addtag u', 'vgchange -S lv_name=lv --addtag v']);
      await twins.same(['vgchange -S vg_name=va --addtag w vb', 'vgchange -S seg_type=linear -l 9 @t vb']);
      await twins.same(['vgchange --select pv_count=1 -p 5', 'vgchange -S pv_uuid!="" --setautoactivation n']);
      await twins.same(['pvchange -S vg_name=va --addtag a', 'pvchange -S vg_name="" --addtag b']);
      await twins.same(['pvchange -S lv_name=lv -x n', 'pvchange -S pv_tags=a --deltag a P0 P1']);
      await twins.same(['pvchange -S vg_tags=t -x n P1', 'vgexport -S vg_name=none', 'vgexport -S vg_name=va']);
      await twins.same(['vgimport -S vg_name=vb', 'vgimport -S vg_exported=1', 'vgremove -S vg_name=none']);
      await twins.sameCode([
        'vgchange -S x=1 -l 3',
        'pvchange -S y=1 -x n',
        'vgremove -S z=1',
        'lvremove -S z=1',
        'vgremove',
        'vgexport',
        'vgimport',
        'pvchange -x n',
      ]);
      await twins.same(['vgchange -S vg_attr=~[ -l 2', 'vgremove -S lv_count=0', 'lvremove -S lv_name=lv -f']);
      await twins.sameWorld();
    }));

  test('criteria where a name is not enough', () =>
    withDeviceTwins([32, 32], async (twins) => {
      const files = [...twins.files];
      await twins.ours('vgcreate vg P0');
      await rename(files[0] ?? '', `${files[0]}.away`);
      await twins.ours('vgcreate vg P1');
      await rename(`${files[0]}.away`, files[0] ?? '');
      const refused = await twins.ours('vgchange -l 7 vg');
      assert.equal(refused.code, 5);
      assert.match(
        refused.stderr,
        /^ {2}Multiple VGs found with the same name: skipping vg\n {2}Use --select vg_uuid=/m,
      );
      const { stdout } = await twins.ours('vgs --noheadings -o uuid');
      const [first = '', second = ''] = stdout.trim().split(/\s+/);
      assert.equal((await twins.ours(`vgchange -S vg_uuid=${first} -l 7`)).code, 0);
      assert.match((await twins.ours(`vgs --noheadings -o max_lv -S vg_uuid=${first}`)).stdout, /^ +7\s*$/);
      assert.match((await twins.ours(`vgs --noheadings -o max_lv -S vg_uuid=${second}`)).stdout, /^ +0\s*$/);
      assert.equal((await twins.ours(`vgremove -S vg_uuid=${first}`)).code, 0);
      assert.equal((await twins.ours('vgremove vg')).code, 0);
    }));

  test('a missing PV', () =>
    withDeviceTwins([32, 32, 32], async (twins) => {
      await twins.ours('vgcreate vg P0 P1 P2');
      await twins.ours('lvcreate -an -Zn -l 3 -n gone vg P1');
      await twins.ours('lvcreate -an -Zn -l 3 -n stays vg P0');
      const [, path = ''] = twins.files;
      await rename(path, `${path}.away`);
      assert.equal((await twins.ours('vgchange -l 9 vg')).code, 5);
      const partial = await twins.ours('vgchange -ay --sysinit vg');
      assert.equal(partial.code, 5);
      assert.match(partial.stderr, /Refusing activation of partial LV vg\/gone\. {2}Use '--activationmode partial' to/);
      assert.equal((await twins.ours('vgchange -ay --activationmode partial vg')).code, 0);
      await twins.sameCode([
        'vgchange --sysinit --addtag x vg',
        'vgchange -ay --sysinit --poll y vg',
        'vgchange -ay --refresh vg',
        'lvchange -ay --refresh vg/a',
      ]);
      assert.equal((await twins.ours('vgchange -y --systemid other vg')).code, 5);
      assert.equal((await twins.ours('vgck vg')).code, 5);
      const left = await twins.ours('vgreduce --removemissing vg');
      assert.equal(left.code, 5);
      assert.match(left.stderr, /WARNING: Partial LV gone needs to be repaired or removed\./);
      const forced = await twins.ours('vgreduce --removemissing --force vg');
      assert.equal(forced.code, 0);
      assert.match(forced.stdout, /Wrote out consistent volume group vg\.\n$/);
      assert.match((await twins.ours('lvs --noheadings -o name vg')).stdout, /^ +stays\s+$/);
      assert.equal(
        (await twins.ours('vgreduce --removemissing vg')).stdout,
        '  Volume group "vg" is already consistent.\n',
      );
      await rename(`${path}.away`, path);
      assert.match((await twins.ours('vgs')).stderr, /outdated PV/);
      assert.equal((await twins.ours('vgck --updatemetadata vg')).code, 0);
      assert.doesNotMatch((await twins.ours('vgs')).stderr, /outdated PV/);
    }));

  test('a missing PV comes back', () =>
    withDeviceTwins([32, 32], async (twins) => {
      await twins.ours('vgcreate vg P0 P1');
      await twins.ours('lvcreate -an -Zn -l 3 -n lv vg P1');
      const [, path = ''] = twins.files;
      await rename(path, `${path}.away`);
      assert.equal((await twins.ours('vgchange --addtag x vg')).code, 0);
      await rename(`${path}.away`, path);
      assert.match((await twins.ours('vgs')).stderr, /was missing PV/);
      assert.equal((await twins.ours('vgextend --restoremissing vg P1')).code, 0);
      assert.equal((await twins.ours('vgs')).stderr, '');
    }));

  test('pvmove where there is nothing to move', () =>
    withDeviceTwins([32, 32, 32], async (twins) => {
      await twins.same(['vgcreate vg P0 P1', 'pvcreate P2', 'pvmove P2', 'pvmove @t', 'pvmove --abort @t']);
      await twins.same(['pvremove P2', 'pvmove P2', 'pvmove P2 P0', 'pvmove --abort P2', 'pvmove P0']);
    }));

  test('backups are restored', () =>
    withDeviceTwins([32, 32], async (twins) => {
      const backup = join(twins.folder, 'backup');
      await twins.ours('vgcreate vg P0');
      await twins.ours('lvcreate -an -Zn -l 3 -n lv vg');
      await twins.ours(`vgcfgbackup -f ${backup} vg`);
      await twins.ours('vgextend vg P1');
      await twins.ours('lvremove -y vg/lv');
      const none = await twins.ours('vgcfgrestore -f /nowhere/a vg');
      assert.equal(none.code, 5);
      assert.match(
        none.stderr,
        /stat failed: No such.*\n.*metadata from file\.\n  Failed to read VG vg from \/nowhere\/a\n  Rest/,
      );
      const { code, stdout } = await twins.ours(`vgcfgrestore -f ${backup} vg`);
      assert.deepEqual([code, stdout], [0, '  Restored volume group vg.\n']);
      assert.match((await twins.ours('vgs --noheadings -o name,pv_count,lv_count')).stdout, /^ +vg +1 +1\s+$/);
      assert.equal((await twins.ours('vgs')).stderr, '');
      assert.match((await twins.ours('pvs P1')).stdout, /lvm2 ---/);
      await writeFile(backup, 'nonsense {');
      const refused = await twins.ours(`vgcfgrestore -f ${backup} vg`);
      assert.equal(refused.code, 5);
      assert.match(refused.stderr, /Restore failed\.\n$/);
      assert.match((await twins.ours('vgcfgrestore -l vg')).stdout, /Description:\tCreated \*before\* executing/);
    }));
});
