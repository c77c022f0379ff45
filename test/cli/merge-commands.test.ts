/**
 * lvconvert on COW snapshots: wording as of LVM2 2.03.16 (noted from it, over a played device-mapper), and with a daemon: merges that
 * nobody waits for, that wait for the origin's next activation, and that a daemon which was killed had begun.
 */
import assert from 'node:assert/strict';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { StreamOutput } from '../../src/cli/messages.ts';
import { run } from '../../src/cli/run.ts';
import { HOST_SYSTEM, noteDevice } from '../../src/daemon/client/attached.ts';
import { waitFor } from '../helpers/daemon.ts';
import { NbdWriter } from '../helpers/nbd-writer.ts';
import { withLvm2 } from '../lvm/lvm2.ts';
import { SnapshotStand } from '../helpers/snapshot-stand.ts';
import { NOBODY } from '../helpers/terminal.ts';

const MIB = 2 ** 20;

function unmerged(stand: SnapshotStand, name: string): Promise<boolean> {
  return stand.volumes().then((lines) => lines.every((line) => !line.includes(`[${name}]`)));
}

describe('without a daemon', () => {
  test('what cannot be is refused in LVM2 words', async () => {
    await SnapshotStand.with(async (stand) => {
      await stand.must('lvcreate', '-s', '-L8M', '-ns', 'vg/o');
      await stand.must('lvcreate', '-L8M', '-np', 'vg');
      await stand.must('lvcreate', '--type', 'snapshot', '-V20M', '-L8M', '-nsp', 'vg');
      const notLinear = 'Command on LV vg/p does not accept LV type linear.\n  Command not permitted on LV vg/p.';
      const refused: readonly (readonly [string, number, string])[] = [
        ['--merge vg/o', 5, 'vg/o cannot be merged because --trackchanges was not used.'],
        ['--mergesnapshot vg/p', 5, notLinear],
        [
          '--merge vg/sp',
          5,
          'Cannot merge snapshot vg/sp into the read-only origin vg/sp_vorigin. (Use lvchange -p rw).',
        ],
        ['--merge vg/nope', 5, 'Failed to find logical volume "vg/nope"'],
        ['--merge', 3, "No command with matching syntax recognised.  Run 'lvconvert --help' for more information."],
        ['--splitsnapshot vg/p', 5, notLinear],
        ['--splitsnapshot vg/sp', 5, 'Unable to split off snapshot vg/sp with virtual origin.'],
        ['--merge -c 8k vg/s', 3, 'Command does not accept option: --chunksize 8k.'],
        ['-s vg/s vg/p', 5, 'Snapshots of snapshots are not supported.'],
        ['-s vg/o vg/o', 5, 'Unable to use vg/o as both snapshot and origin.'],
        ['-s vg/o', 3, "No command with matching syntax recognised.  Run 'lvconvert --help' for more information."],
        ['-s vg/o vg/p', 5, 'Conversion aborted.'],
        ['-s -y -c 3k vg/o vg/p', 5, 'Chunk size must be a power of 2 in the range 4K to 512K.'],
      ];
      for (const [line, code, message] of refused) {
        const outcome = await stand.run('lvconvert', ...line.split(' '));
        assert.equal(outcome.status, code, `${line}: ${outcome.stderr}`);
        assert.ok(outcome.stderr.includes(`  ${message}\n`), `${line}: ${outcome.stderr}`);
      }
    });
  });

  test('what the kernel still has attached does not merge, neither at once nor by lvpoll', async (t) => {
    await SnapshotStand.with(async (stand) => {
      const server = 'unix:/run/orion-lvm/nbd.sock';
      const noteOf = (volume: string, exportName: string): Promise<void> =>
        noteDevice({ kernelName: 'nbd3', exportName, server, connections: 1, volume });
      /** In this process, whose host has a device attached. */
      const here = async (...args: readonly string[]): Promise<string> => {
        let stderr = '';
        const output = new StreamOutput({ write: () => undefined }, { write: (text) => (stderr += text) });
        const { env, folder: cwd } = stand;
        const status = await run(args, output, { env, cwd, uid: 0, now: 0, terminal: NOBODY });
        output.flush();
        return `${status}: ${stderr}`;
      };
      await stand.must('lvcreate', '-s', '-L8M', '-ns', 'vg/o');
      const fields = ['--noheadings', '--separator', '/', '-ovg_uuid,lv_uuid'];
      const [origin, cow] = await Promise.all(
        ['vg/o', 'vg/s'].map(async (name) => (await stand.must('lvs', ...fields, name)).trim()),
      );
      assert.ok(origin !== undefined && cow !== undefined);
      t.mock.property(HOST_SYSTEM, 'directory', join(stand.folder, 'notes'));
      t.mock.property(HOST_SYSTEM, 'sysBlock', join(stand.folder, 'sys'));
      await mkdir(join(stand.folder, 'sys/nbd3'), { recursive: true });
      await writeFile(join(stand.folder, 'sys/nbd3/pid'), '17\n');
      const refused =
        /^5: {3}Logical volume vg\/[os] in use: it is attached as \/dev\/nbd3, which waits for its daemon\./;
      await noteOf(cow, 'vg/s');
      assert.match(await here('lvconvert', '--merge', 'vg/s'), refused);
      await noteOf(origin, 'vg/o');
      assert.match(await here('lvconvert', '--merge', 'vg/s'), refused);
      assert.match((await stand.volumes()).join('\n'), /^s swi/m, 'nothing has begun');

      // One that waits for the next activation of its origin.
      await stand.serve('0');
      await stand.must('lvchange', '-an', 'vg/o');
      await stand.must('lvconvert', '--merge', 'vg/s');
      await stand.stop();
      assert.match(await here('lvpoll', '--polloperation', 'merge', 'vg/o'), refused);
      assert.ok(!(await unmerged(stand, 's')));
      await rm(join(stand.folder, 'sys/nbd3/pid'));
      assert.equal(await here('lvpoll', '--polloperation', 'merge', 'vg/o'), '0: ');
      assert.ok(await unmerged(stand, 's'));
    });
  });

  test('a snapshot is split off, joined again with what is in it, and merged', async () => {
    await SnapshotStand.with(async (stand) => {
      await stand.must('lvcreate', '-s', '-L40M', '-c16k', '-ns', 'vg/o');
      await stand.must('lvcreate', '-s', '-L40M', '-nt', 'vg/o');
      await stand.serve('0');
      await stand.write('o', 4, 1);
      await stand.write('s', 1, 2);
      const content = { s: await stand.hash('s'), t: await stand.hash('t') };
      await stand.stop();
      assert.match(
        await stand.must('lvconvert', '--splitsnapshot', 'vg/s'),
        /^ {2}Logical Volume vg\/s split from its origin\.$/m,
      );
      assert.deepEqual(
        await stand.volumes(),
        ['o owi---s--- 40.00m  ', 's -wi------- 40.00m  ', 't swi---s--- 40.00m o '].map((line) => line.trim()),
      );
      const joined = await stand.run('lvconvert', '-y', '-Zn', '-s', 'vg/o', 'vg/s');
      assert.equal(joined.stdout, '  Logical volume vg/s converted to snapshot.\n', joined.stderr);
      assert.match(joined.stderr, /WARNING: vg\/s not zeroed\./);
      assert.match(
        await stand.must('lvconvert', '--merge', 'vg/s'),
        /^ {2}Merging of volume vg\/s started\.\n( {2}vg\/o: Merged: \d+\.\d\d%\n)+ {2}Merge of snapshot into logical volume vg\/o has finished\.\n {2}Logical volume "s" successfully removed\.\n$/,
      );
      assert.deepEqual(await stand.volumes(), ['o owi---s--- 40.00m', 't swi---s--- 40.00m o']);
      await stand.serve('0');
      assert.equal(await stand.hash('o'), content.s);
      assert.equal(await stand.hash('t'), content.t, 'the other snapshot has what the origin had');
    });
  });

  test('several are merged by tag; of one origin only one at a time', async () => {
    await SnapshotStand.with(async (stand) => {
      for (const name of ['s', 't']) await stand.must('lvcreate', '-s', '-L4M', '--addtag', 'x', `-n${name}`, 'vg/o');
      await stand.must('lvcreate', '-L4M', '-np', 'vg');
      await stand.must('lvcreate', '-s', '-L4M', '--addtag', 'x', '-nu', 'vg/p');
      const { status, stdout, stderr } = await stand.run('lvconvert', '--merge', '-i0', '@x');
      assert.equal(status, 5);
      assert.match(stderr, /Cannot merge snapshot vg\/t into the origin vg\/o with merging snapshot vg\/s\./);
      assert.match(stdout, /Merging of volume vg\/s started\.\n {2}Merging of volume vg\/u started\./);
      assert.deepEqual(await stand.volumes(), ['o owi---s--- 40.00m', 'p -wi------- 4.00m', 't swi---s--- 4.00m o']);
    });
  });
});

for (const workers of ['0', '2']) {
  describe(`with --workers ${workers}`, () => {
    test('a merge goes on under writes, and ends by itself', { timeout: 120_000 }, async () => {
      await SnapshotStand.with(async (stand) => {
        await stand.serve(workers);
        await stand.write('o', 8, 1);
        await stand.must('lvcreate', '-s', '-L44M', '-ns', 'vg/o');
        await stand.must('lvcreate', '-s', '-L44M', '-nt', 'vg/o');
        const before = await stand.hash('o');
        await stand.write('o', 8, 2);
        await stand.write('s', 2, 3);
        const content = await stand.hash('s');
        await stand.must('lvconvert', '--merge', '-b', 'vg/s');
        assert.equal(await stand.hash('o'), content, 'from the first moment');
        // What fio writes it reads back.
        const writing = stand.write('o', 8, 4);
        await waitFor('the end of the merge', () => unmerged(stand, 's'));
        await writing;
        await stand.write('o', 1, 5);
        assert.equal(await stand.hash('t'), before, 'the other snapshot is what it was');
      });
    });

    test('what is open is merged when it is activated the next time', { timeout: 120_000 }, async () => {
      await SnapshotStand.with(async (stand) => {
        await stand.serve(workers);
        await stand.must('lvcreate', '-s', '-L44M', '-ns', 'vg/o');
        await stand.write('o', 8, 2);
        const writer = new NbdWriter(() => stand.daemon.socket, 'vg/o', 40 * MIB);
        writer.start();
        await waitFor('writes', () => writer.writes > 10);
        const said = await stand.must('lvconvert', '--merge', 'vg/s');
        assert.equal(
          said,
          '  Delaying merge since origin is open.\n  Merging of snapshot vg/s will occur on next activation of vg/o.\n',
        );
        const { writes } = writer;
        await waitFor('more writes', () => writer.writes > writes + 50);
        assert.match((await stand.volumes()).join('\n'), /^o Owi-aos--- 40\.00m\n\[s\] Swi-a-s--- 44\.00m o \d/m);
        // The snapshot is still to be had, and to be written.
        await stand.write('s', 1, 5);
        const refused = await stand.run('lvchange', '-an', 'vg/o');
        assert.match(refused.stderr, /Logical volume vg\/o in use\./);
        const again = await stand.run('lvconvert', '--merge', 'vg/s');
        assert.match(again.stderr, /Command on LV vg\/s is invalid on LV with properties: lv_is_merging_cow \./);
        await writer.stop();
        const content = await stand.hash('s');
        await stand.must('lvchange', '-an', 'vg/o');
        await stand.must('lvchange', '-ay', 'vg/o');
        await waitFor('the end of the merge', () => unmerged(stand, 's'));
        assert.equal(await stand.hash('o'), content);
        assert.deepEqual(await stand.volumes(), ['o -wi-a----- 40.00m']);
      });
    });

    test('an inactive one is merged when it is activated, or refreshed', { timeout: 120_000 }, async () => {
      await SnapshotStand.with(async (stand) => {
        await stand.serve(workers);
        await stand.must('lvcreate', '-s', '-L8M', '-ns', 'vg/o');
        await stand.must('lvchange', '-an', 'vg/o');
        assert.equal(
          await stand.must('lvconvert', '--merge', 'vg/s'),
          '  Merging of snapshot vg/s will occur on next activation of vg/o.\n',
        );
        await stand.must('lvchange', '-ay', 'vg/o');
        await waitFor('the end of the merge', () => unmerged(stand, 's'));
        await stand.must('lvcreate', '-s', '-L44M', '-nt', 'vg/o');
        const writer = new NbdWriter(() => stand.daemon.socket, 'vg/t', 40 * MIB);
        writer.start();
        await waitFor('writes', () => writer.writes > 10);
        const said = await stand.must('lvconvert', '--merge', 'vg/t');
        assert.match(said, /Delaying merge since snapshot is open\./);
        await stand.must('lvchange', '--refresh', 'vg/o');
        assert.match((await stand.volumes()).join('\n'), /^\[t\] Swi-aos---/m);
        await writer.stop();
        await stand.must('lvchange', '--refresh', 'vg/o');
        await waitFor('the end of the merge', () => unmerged(stand, 't'));
      });
    });
  });
}

test('a daemon that is killed leaves a merge that the next one ends', { timeout: 120_000 }, async () => {
  await SnapshotStand.with(async (stand) => {
    await stand.serve('1');
    await stand.must('lvcreate', '-s', '-L44M', '-ns', 'vg/o');
    await stand.write('o', 24, 1);
    const content = await stand.hash('s');
    await stand.must('lvconvert', '--merge', '-b', 'vg/s');
    await stand.stop('SIGKILL');
    const lines = await stand.volumes();
    assert.deepEqual(lines, ['o Owi---s--- 40.00m', '[s] Swi---s--- 44.00m o']);
    await withLvm2([stand.image], async (lvm) => {
      const checked = await lvm.run('vgck', 'vg');
      assert.equal(checked.status, 0, checked.stderr);
      const columns = ['-a', '--noheadings', '-o', 'lv_name,lv_size,origin,lv_role,lv_layout,chunksize,segtype', 'vg'];
      const report = await lvm.run('lvs', ...columns);
      assert.equal(await stand.must('lvs', ...columns), report.stdout, report.stderr);
    });
    await stand.serve('1');
    await waitFor('the end of the merge', () => unmerged(stand, 's'));
    assert.equal(await stand.hash('o'), content);
  });
});

test(
  'a full snapshot is extended as lvm.conf says; with no room that is told, once',
  { timeout: 120_000 },
  async () => {
    await SnapshotStand.with(
      async (stand) => {
        await writeFile(
          `${stand.folder}/lvm.conf`,
          'activation { snapshot_autoextend_threshold = 60 snapshot_autoextend_percent = 50 }\n',
        );
        await stand.serve('2');
        await stand.must('lvcreate', '-s', '-L8M', '-ns', 'vg/o');
        assert.equal(await stand.must('lvextend', '--use-policies', 'vg/s'), '', 'it is empty');
        const sizeOf = async (): Promise<string> => (await stand.volumes()).find((line) => line.startsWith('s ')) ?? '';
        // Of 8 MiB three quarters.
        await stand.write('s', 6, 1);
        await waitFor('the extension', async () => (await sizeOf()).startsWith('s swi-a-s--- 12.00m'));
        await stand.must('lvcreate', '-l100%FREE', '-nrest', 'vg');
        await stand.write('s', 9, 2);
        await waitFor('the alert', () => stand.daemon.log().includes('could not be extended'));
        assert.match(stand.daemon.log(), /Insufficient free space/);
        await stand.must('lvremove', '-f', 'vg/rest');
        await waitFor('the extension', async () => /^s swi-a-s--- (?!12)/.test(await sizeOf()));
        assert.equal(stand.daemon.log().split('could not be extended').length, 2, stand.daemon.log());
      },
      { pvMib: 100 },
    );
  },
);
