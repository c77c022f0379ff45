/** auto_recovery: stale copies of metadata are repaired before a command does anything else, but for what must not be touched. */
import assert from 'node:assert/strict';
import { open, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { run } from '../../src/cli/run.ts';
import { scanDevices } from '../../src/lvm/scan.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { NOBODY } from '../helpers/terminal.ts';

const HEAD_BYTES = 1 << 20;

interface World {
  readonly images: readonly string[];
  command(...argv: readonly string[]): Promise<{ readonly code: number; readonly text: string }>;
  /** How many areas hold anything but the newest text. */
  stale(): Promise<number>;
}

/** A VG of two PVs of which the second one has an old copy. */
async function withStaleCopy(recovers: boolean, use: (world: World) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const images = ['pv0', 'pv1'].map((name) => join(folder, name));
    const config = join(folder, 'lvm.toml');
    const env = { HOME: folder, XDG_RUNTIME_DIR: folder, XDG_STATE_HOME: folder, LVM_SYSTEM_DIR: folder };
    const settings = (auto: boolean): string => `devices = ${JSON.stringify(images)}\nauto_recovery = ${auto}\n`;
    const world: World = {
      images,
      async command(...argv) {
        let text = '';
        const add = (line: string): void => void (text += `${line}\n`);
        const output = { print: add, error: add, plainError: add, printPlain: add };
        const around = {
          env: { ...env, ORION_LVM_CONFIG: config },
          cwd: folder,
          uid: 1000,
          now: 1000,
          terminal: NOBODY,
        };
        return { code: await run(argv, output, around), text };
      },
      async stale() {
        const { volumeGroups } = await scanDevices(images);
        return volumeGroups.reduce((sum, group) => sum + group.staleAreas.length, 0);
      },
    };
    for (const image of images) {
      const file = await open(image, 'w');
      await file.truncate(16 << 20);
      await file.close();
    }
    await writeFile(config, settings(false));
    assert.equal((await world.command('vgcreate', 'vg', ...images)).code, 0);
    const old = (await readFile(images[1] ?? '')).subarray(0, HEAD_BYTES);
    assert.equal((await world.command('vgchange', '--addtag', 't', 'vg')).code, 0);
    const file = await open(images[1] ?? '', 'r+');
    await file.write(old, 0, old.length, 0);
    await file.close();
    assert.equal(await world.stale(), 1);
    await writeFile(config, settings(recovers));
    await use(world);
  });
}

describe('auto_recovery', () => {
  test('repairs before a command that only looks', () =>
    withStaleCopy(true, async (world) => {
      const { code, text } = await world.command('vgs', '--noheadings', '-o', 'vg_name,vg_tags');
      assert.equal(code, 0, text);
      assert.match(text, /WARNING: updating old metadata to 3 on .*pv1 for VG vg\.\n(?:.*\n)*vg +t *\n$/);
      assert.equal(await world.stale(), 0);
    }));

  test('does nothing when it is off', () =>
    withStaleCopy(false, async (world) => {
      const { text } = await world.command('vgs');
      assert.match(text, /WARNING/);
      assert.equal(await world.stale(), 1);
    }));

  test('does nothing for commands that say that nothing is to be written', () =>
    withStaleCopy(true, async (world) => {
      await world.command('vgchange', '-t', '--addtag', 'u', 'vg');
      await world.command('vgs', '--nolocking');
      await world.command('vgs', '--readonly');
      assert.equal(await world.stale(), 1);
    }));

  test('leaves a VG alone whose PVs are missing', () =>
    withStaleCopy(true, async (world) => {
      const [first = ''] = world.images;
      await rename(first, `${first}.away`);
      await world.command('vgs');
      await rename(`${first}.away`, first);
      await world.command('vgs', '--nolocking');
      assert.equal(await world.stale(), 1);
    }));

  test('leaves exported VGs alone, says so, and goes on', () =>
    withStaleCopy(true, async (world) => {
      await world.command('vgexport', 'vg');
      const [, second = ''] = world.images;
      const exported = (await readFile(second)).subarray(0, HEAD_BYTES);
      await world.command('vgimport', 'vg');
      await world.command('vgexport', 'vg');
      const file = await open(second, 'r+');
      await file.write(exported, 0, exported.length, 0);
      await file.close();
      const { code, text } = await world.command('vgs', '--noheadings', '-o', 'vg_name');
      assert.equal(code, 0, text);
      assert.equal(await world.stale(), 1);
    }));
});
