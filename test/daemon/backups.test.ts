/** Backups that the daemon writes by itself: when they are out of date or lost, and not otherwise. */
import assert from 'node:assert/strict';
import { chmod, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type DestinationStream, pino } from 'pino';
import { MetadataBackups } from '../../src/daemon/backups.ts';
import type { VolumeGroup } from '../../src/lvm/model.ts';
import { parseMetadataText } from '../../src/ondisk/vg-text.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { group, linear, lv, pv, vg } from '../lvm/edit/groups.ts';

interface World {
  readonly directory: string;
  readonly backups: MetadataBackups;
  /** What was logged, as messages. */
  readonly said: string[];
  groups: readonly VolumeGroup[];
  rounds: number;
}

async function withBackups(use: (world: World) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const said: string[] = [];
    const lines: DestinationStream = { write: (line) => void said.push((JSON.parse(line) as { msg: string }).msg) };
    const world = { directory: join(folder, 'backup'), said, groups: [] as readonly VolumeGroup[], rounds: 0 };
    const backups = new MetadataBackups({
      directory: world.directory,
      // Longer than a timer can be.
      intervalSeconds: 31_536_000,
      generator: 'Orion LVM version 0',
      volumeGroups: () => {
        full.rounds++;
        return Promise.resolve(full.groups);
      },
      log: pino({}, lines),
    });
    const full: World = Object.assign(world, { backups });
    try {
      await use(full);
    } finally {
      await backups.close();
    }
  });
}

function groupAt(seqno: number, name = 'vg'): VolumeGroup {
  return group(vg([pv(16)], [lv('a', linear('pv0', 0, 4))], { seqno, name }));
}

describe('metadata_backup_interval', () => {
  test('writes what vgcfgrestore can read, for every VG', () =>
    withBackups(async (world) => {
      world.groups = [groupAt(3), groupAt(5, 'other')];
      await world.backups.run();
      for (const { vg: text } of world.groups) {
        const backup = await readFile(join(world.directory, text.name));
        const { vg: read, header } = parseMetadataText(backup, { device: text.name, offset: 0 });
        assert.deepEqual([read.id, read.seqno], [text.id, text.seqno]);
        assert.equal(header.description, "Created by the daemon's metadata_backup_interval");
      }
      assert.deepEqual(world.said, ['metadata backed up', 'metadata backed up']);
      assert.equal(world.rounds, 1);
    }));

  test('leaves a backup that is up to date alone, and replaces any other', () =>
    withBackups(async (world) => {
      const path = join(world.directory, 'vg');
      world.groups = [groupAt(3)];
      await world.backups.run();
      const before = await stat(path);
      await world.backups.run();
      assert.equal((await stat(path)).ino, before.ino);
      world.groups = [groupAt(4)];
      await world.backups.run();
      assert.match(await readFile(path, 'utf8'), /^\s*seqno = 4$/m);
      await rm(path);
      await world.backups.run();
      assert.match(await readFile(path, 'utf8'), /^\s*seqno = 4$/m);
      await writeFile(path, 'nonsense');
      await world.backups.run();
      assert.match(await readFile(path, 'utf8'), /^\s*seqno = 4$/m);
    }));

  test('says what fails, and tries again the next time', () =>
    withBackups(async (world) => {
      world.groups = [groupAt(3)];
      // A file where the directory should be.
      await writeFile(world.directory, '');
      await world.backups.run();
      assert.deepEqual(world.said, ['metadata could not be backed up']);
      await rm(world.directory);
      await mkdir(world.directory);
      await chmod(world.directory, 0o700);
      await world.backups.run();
      assert.equal(world.said.at(-1), 'metadata backed up');
    }));

  test('closing waits for the round that runs', () =>
    withBackups(async (world) => {
      world.groups = [groupAt(3)];
      const round = world.backups.run();
      await world.backups.close();
      assert.match(await readFile(join(world.directory, 'vg'), 'utf8'), /seqno = 3/);
      await round;
    }));
});
