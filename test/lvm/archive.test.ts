/** Backup and archive files: their names, what is kept, and what happens when they can't be written. */
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { archivesOf, BackupFiles, writeBackup } from '../../src/lvm/archive.ts';
import { CommandError } from '../../src/lvm/edit/errors.ts';
import { parseMetadataText } from '../../src/ondisk/vg-text.ts';
import { mustRun } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { linear, vgText } from './images.ts';

const METADATA = parseMetadataText(vgText([{ name: 'lv', segments: [linear(0, 4, 'pv0', 0)] }]), {
  device: 'test',
  offset: 0,
});
const WRITER = { commandLine: "lvcreate -n 'x' vg1" };
const PRINT = { generator: 'Orion LVM version 0', time: 1_795_349_543, uname: 'Linux test' };
const LONG_AGO = new Date('2020-01-01');

function files(folder: string, retain: { min: number; days: number }, said: string[] = []): BackupFiles {
  return new BackupFiles(
    {
      archive: { directory: join(folder, 'archive'), retainMin: retain.min, retainDays: retain.days },
      backup: { directory: join(folder, 'backup') },
    },
    (line) => said.push(line),
  );
}

void describe('archive', () => {
  void test('counts up, and says before which command', async () => {
    await withTemporaryFolder(async (folder) => {
      await mkdir(join(folder, 'archive'));
      for (const name of ['vg1_00007-12.vg', 'vg1_x_00099-1.vg', 'vg1_bad.vg', 'other_00100-1.vg']) {
        await writeFile(join(folder, 'archive', name), '');
      }
      await files(folder, { min: 10, days: 30 }).archive(METADATA, WRITER, PRINT);
      const [newest] = await archivesOf(join(folder, 'archive'), 'vg1');
      assert.match(newest?.name ?? '', /^vg1_00008-\d+\.vg$/);
      const text = await readFile(join(folder, 'archive', newest!.name), 'utf8');
      assert.match(text, /description = "Created \*before\* executing 'lvcreate -n 'x' vg1'"/);
      assert.deepEqual(parseMetadataText(text, { device: 'file', offset: 0 }).vg, METADATA.vg);
    });
  });

  void test('happens once per command', async () => {
    await withTemporaryFolder(async (folder) => {
      const kept = files(folder, { min: 10, days: 30 });
      await kept.archive(METADATA, WRITER, PRINT);
      await kept.archive(METADATA, WRITER, PRINT);
      assert.equal((await readdir(join(folder, 'archive'))).length, 1);
    });
  });

  void test('drops the oldest that are too old, down to the least number', async () => {
    await withTemporaryFolder(async (folder) => {
      for (let round = 0; round < 6; round++) {
        await files(folder, { min: 10, days: 30 }).archive(METADATA, WRITER, PRINT);
      }
      const all = await archivesOf(join(folder, 'archive'), 'vg1');
      for (const { name, index } of all) {
        if (index !== 1) await utimes(join(folder, 'archive', name), LONG_AGO, LONG_AGO);
      }
      await files(folder, { min: 4, days: 30 }).archive(METADATA, WRITER, PRINT);
      const left = await archivesOf(join(folder, 'archive'), 'vg1');
      assert.deepEqual(
        left.map(({ index }) => index),
        [6, 5, 4, 1],
      );
    });
  });

  void test('that fails stops the command, with a way out', async () => {
    await withTemporaryFolder(async (folder) => {
      await writeFile(join(folder, 'archive'), 'a file in the way');
      await assert.rejects(files(folder, { min: 1, days: 1 }).archive(METADATA, WRITER, PRINT), (error: unknown) => {
        assert(error instanceof CommandError);
        assert.match(
          error.lines.join('\n'),
          /Cannot archive volume group metadata for vg1 in .*archive: (File exists|Not a directory)/,
        );
        assert.match(error.lines.join('\n'), /Nothing was changed\. .*-An/);
        return true;
      });
    });
  });

  void test('is listed by LVM2', async () => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'some', 'where', 'vg1.vg');
      await writeBackup(path, METADATA, { description: "Created *after* executing 'us'", print: PRINT });
      await writeFile(join(folder, 'lvm.conf'), `global { locking_dir = "${folder}/lock" }\n`);
      const listed = await mustRun('vgcfgrestore', ['--list', '-f', path], { env: { LVM_SYSTEM_DIR: folder } });
      assert.match(listed, /VG name:\s+vg1/);
      assert.match(listed, /Description:\s+Created \*after\* executing 'us'/);
    });
  });
});

void describe('backup', () => {
  void test('is replaced whole and leaves nothing else behind', async () => {
    await withTemporaryFolder(async (folder) => {
      const kept = files(folder, { min: 10, days: 30 });
      await kept.backup(METADATA, WRITER, PRINT);
      await kept.backup({ ...METADATA, vg: { ...METADATA.vg, seqno: 9 } }, WRITER, PRINT);
      assert.deepEqual(await readdir(join(folder, 'backup')), ['vg1']);
      const text = await readFile(join(folder, 'backup', 'vg1'), 'utf8');
      assert.equal(parseMetadataText(text, { device: 'file', offset: 0 }).vg.seqno, 9);
      await kept.remove('vg1');
      await kept.remove('never-there');
      assert.deepEqual(await readdir(join(folder, 'backup')), []);
    });
  });

  void test('that fails is said, and nothing more', async () => {
    await withTemporaryFolder(async (folder) => {
      const said: string[] = [];
      await writeFile(join(folder, 'backup'), 'a file in the way');
      await files(folder, { min: 1, days: 1 }, said).backup(METADATA, WRITER, PRINT);
      assert.equal(said.at(-1), 'Backup of volume group vg1 metadata failed.');
    });
  });

  void test('that is switched off is said once', async () => {
    const said: string[] = [];
    const none = new BackupFiles({ archive: null, backup: null }, (line) => said.push(line));
    await none.archive(METADATA, WRITER, PRINT);
    await none.backup(METADATA, WRITER, PRINT);
    await none.backup(METADATA, WRITER, PRINT);
    assert.deepEqual(said, ['WARNING: This metadata update is NOT backed up.']);
  });
});
