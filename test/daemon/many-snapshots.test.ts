/**
 * An origin with 255 snapshots in the real daemon: 253 from metadata that were written as a whole (a command for each would take minutes),
 * the others made by commands while it serves.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { newUuid } from '../../src/ondisk/uuid.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

const MIB = 2 ** 20;
const FROM_TEXT = 253;

function renewed(section: string): string {
  return section.replace(/id = "[^"]*"/, `id = "${newUuid()}"`);
}

/** The text of a VG with one snapshot `s0` (record `snapshot0`), with more like it. */
function withMore(text: string, count: number): string {
  const section = (name: string): string =>
    new RegExp(`^\\t\\t${name} \\{\\n[^]*?^\\t\\t\\}\\n`, 'm').exec(text)?.[0] ?? '';
  const [store, record] = [section('s0'), section('snapshot0')];
  const copies = Array.from({ length: count - 1 }, (_, i) => {
    const own = renewed(store)
      .replace('s0 {', `s${i + 1} {`)
      .replace(/"pv0", (\d+)/, (_match, extent: string) => `"pv0", ${Number(extent) + i + 1}`);
    const link = renewed(record)
      .replace('snapshot0 {', `snapshot${i + 1} {`)
      .replace('"s0"', `"s${i + 1}"`);
    return own + link;
  });
  return text.replace(record, record + copies.join(''));
}

test('255 snapshots of one origin are served, and keep what the origin was', async () => {
  await withTemporaryFolder(async (folder) => {
    const image = join(folder, 'pv0');
    await writeFile(image, '');
    await truncate(image, 600 * MIB);
    const env: NodeJS.ProcessEnv = { ORION_LVM_DEVICES: image, ORION_LVM_CONTROL: '', LVM_SYSTEM_DIR: folder };
    const must = (name: string, ...args: readonly string[]): Promise<string> =>
      mustRun(join(CHECKOUT, 'bin', name), args, { cwd: folder, env });
    await must('vgcreate', '-s', '1m', 'vg', image);
    await must('lvcreate', '-L2M', '-no', 'vg');
    await must('lvcreate', '-s', '-L1M', '-c4k', '-ns0', 'vg/o');
    const backup = join(folder, 'backup.txt');
    await must('vgcfgbackup', '-f', backup, 'vg');
    await writeFile(backup, withMore(await readFile(backup, 'utf8'), FROM_TEXT));
    await must('vgcfgrestore', '-y', '--force', '-f', backup, 'vg');
    const daemon = await startDaemon([image]);
    try {
      env['ORION_LVM_CONTROL'] = join(dirname(daemon.socket), 'control.sock');
      const contentOf = async (name: string): Promise<Buffer> => {
        await mustRun('nbdcopy', [daemon.uri(`vg/${name}`), join(folder, 'content')]);
        return readFile(join(folder, 'content'));
      };
      const write = async (offset: number, bytes: Buffer): Promise<void> => {
        await writeFile(join(folder, 'bytes'), bytes);
        const script = `h.pwrite(open("bytes", "rb").read(), ${offset}); h.flush()`;
        const path = { PATH: `/usr/bin:${process.env['PATH'] ?? ''}` };
        await mustRun('nbdsh', ['-u', daemon.uri('vg/o'), '-c', script], { cwd: folder, env: path });
      };
      const before = await contentOf('o');
      await write(100_000, randomBytes(200_000));
      const between = await contentOf('o');
      await must('lvcreate', '-s', '-L1M', '-c4k', '-nx', 'vg/o');
      await write(150_000, randomBytes(100_000));
      const after = await contentOf('o');
      await must('lvcreate', '-s', '-L1M', '-c4k', '-ny', 'vg/o');
      await write(0, randomBytes(10_000));
      const names = (await must('lvs', '--noheadings', '-o', 'lv_name', '-S', 'origin=o', 'vg')).trim().split(/\s+/);
      assert.equal(names.length, 255);
      for (const name of ['s0', 's126', 's252']) assert((await contentOf(name)).equals(before), name);
      assert((await contentOf('x')).equals(between));
      assert((await contentOf('y')).equals(after));
    } finally {
      assert.equal(await daemon.stop(), 0, daemon.log());
    }
  });
});
