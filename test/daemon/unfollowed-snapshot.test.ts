/**
 * Snapshots that their origin can't follow: a new one whose origin can't be suspended is taken back, and one that can't be loaded does
 * not keep the origin's writes waiting for ever.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun, type Outcome, runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { SlowFile } from '../helpers/slow-file.ts';

const MIB = 2 ** 20;
const ENV = { PATH: `/usr/bin:${process.env['PATH'] ?? ''}` };

type Run = (devices: readonly string[], ...args: readonly string[]) => Promise<Outcome>;

/** vg of two files, `first` with the metadata; vg/o of 8 MiB is on `second`. */
async function withGroup(
  use: (files: {
    readonly folder: string;
    readonly first: string;
    readonly second: string;
    readonly run: Run;
  }) => Promise<void>,
): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const [first, second] = [join(folder, 'first'), join(folder, 'second')];
    for (const file of [first, second]) {
      await writeFile(file, '');
      await truncate(file, 64 * MIB);
    }
    const run: Run = (devices, command = '', ...args) => {
      const env = { ORION_LVM_DEVICES: devices.join(','), ORION_LVM_CONTROL: '', LVM_SYSTEM_DIR: folder };
      return runProgram(join(CHECKOUT, 'bin', command), args, { cwd: folder, env });
    };
    for (const line of [
      `pvcreate ${first}`,
      `pvcreate --metadatacopies 0 ${second}`,
      `vgcreate vg ${first} ${second}`,
      `lvcreate -L8M -no vg ${second}`,
    ]) {
      const { status, stderr } = await run([first, second], ...line.split(' '));
      assert.equal(status, 0, stderr);
    }
    await use({ folder, first, second, run });
  });
}

test('a snapshot whose origin can not be suspended is taken back', { timeout: 180_000 }, async () => {
  await withGroup(async ({ folder, first, second }) => {
    // Much longer than a suspend waits, and than the command takes to ask for it.
    await using slow = await SlowFile.mount(second, folder, ['wdelay=45']);
    const devices = [first, slow.path];
    const daemon = await startDaemon(devices, ['--workers', '1']);
    try {
      const env = {
        ORION_LVM_DEVICES: devices.join(','),
        ORION_LVM_CONTROL: join(dirname(daemon.socket), 'control.sock'),
        LVM_SYSTEM_DIR: folder,
      };
      const command = (name: string, ...args: readonly string[]): Promise<Outcome> =>
        runProgram(join(CHECKOUT, 'bin', name), args, { cwd: folder, env });
      const script = `
cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(4096)), 0)
print("writing", flush=True)
while not h.aio_command_completed(cookie): h.poll(-1)
print("written", flush=True)
`;
      const writer = spawn('/usr/bin/nbdsh', ['-u', daemon.uri('vg/o'), '-c', script], {
        env: { ...process.env, ...ENV },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let said = '';
      writer.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
      const ended = once(writer, 'exit');
      await waitFor('the write to wait', () => said.includes('writing'));
      const { status, stdout, stderr } = await command('lvcreate', '-s', '-L4M', '-ns', 'vg/o', first);
      assert.equal(status, 5, stdout + stderr);
      assert.ok(!said.includes('written'), 'the write ended before the suspend had waited');
      assert.match(stderr, /can't be suspended/);
      assert.match(stderr, /Failed to activate new LV vg\/s\./);
      assert.doesNotMatch(stdout, /created/);
      const { stdout: left } = await command('lvs', '-a', '--noheadings', '-oname', 'vg');
      assert.equal(left.trim(), 'o');
      assert.deepEqual(await ended, [0, null]);
      assert.match(said, /written/);
      // Its origin goes on as before, and now can have one.
      const again = await command('lvcreate', '-s', '-L4M', '-ns', 'vg/o', first);
      assert.equal(again.status, 0, again.stderr);
    } finally {
      await daemon.stop();
    }
  });
});

test(
  'a snapshot that can not be loaded leaves its origin read-only, and nobody waiting',
  { timeout: 60_000 },
  async () => {
    await withGroup(async ({ folder, first, second, run }) => {
      const { status, stderr } = await run([first, second], 'lvcreate', '-s', '-L4M', '-ns', 'vg/o', first);
      assert.equal(status, 0, stderr);
      // The store begins behind 1 MiB of metadata, and no longer ends on the device.
      await truncate(first, 3 * MIB);
      const daemon = await startDaemon([first, second], ['--workers', '1']);
      try {
        const script = `
assert h.is_read_only()
assert h.pread(4096, 0) == bytes(4096)
`;
        await mustRun('nbdsh', ['-u', daemon.uri('vg/o'), '-c', script], { env: ENV, cwd: folder });
      } finally {
        await daemon.stop();
      }
    });
  },
);
