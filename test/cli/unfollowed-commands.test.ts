/** lvcreate where the daemon can't make its volumes follow: what was committed is taken back, or else made invalid. */
import assert from 'node:assert/strict';
import { open, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { StreamOutput } from '../../src/cli/messages.ts';
import { run } from '../../src/cli/run.ts';
import { CommandError } from '../../src/lvm/edit/errors.ts';
import type { LiveChange, LiveVolumes } from '../../src/lvm/live.ts';
import { decodeSnapshotHeader } from '../../src/ondisk/snapshot-store.ts';
import { NotingLive } from '../helpers/control.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { NOBODY } from '../helpers/terminal.ts';

const MIB = 2 ** 20;

/** A daemon whose volumes with these names never follow. */
class DeafLive extends NotingLive {
  readonly deaf = new Set<string>();

  override readonly committed: LiveVolumes['committed'] = (change: LiveChange) => {
    this.calls.push({ method: 'committed', argument: change });
    return Promise.resolve(
      [...this.deaf].map((name) => ({ volume: { id: `? ${name}`, name }, reason: 'its device hangs' })),
    );
  };
}

interface Stand {
  readonly live: DeafLive;
  readonly image: string;
  /** Runs a command as the daemon would. */
  readonly run: (line: string) => Promise<{ readonly code: number; readonly out: string; readonly err: string }>;
  readonly names: () => Promise<string>;
}

/** vg with vg/o and vg/p of 8 MiB each. */
async function withStand(use: (stand: Stand) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const image = join(folder, 'pv');
    await writeFile(image, '');
    await truncate(image, 64 * MIB);
    const live = new DeafLive();
    const stand: Stand = {
      live,
      image,
      async run(line) {
        let [out, err] = ['', ''];
        const output = new StreamOutput({ write: (text) => (out += text) }, { write: (text) => (err += text) });
        const env = { LVM_SYSTEM_DIR: folder, ORION_LVM_DEVICES: image, HOME: folder, XDG_RUNTIME_DIR: folder };
        const around = { env, cwd: folder, uid: 1000, now: 0, terminal: NOBODY, live };
        const code = await run(line.split(' '), output, around);
        output.flush();
        return { code, out, err };
      },
      names: async () => (await stand.run('lvs -a --noheadings -oname vg')).out.trim().split(/\s+/).join(' '),
    };
    for (const line of [`vgcreate vg ${image}`, 'lvcreate -L8M -no vg', 'lvcreate -L8M -np vg']) {
      const { code, err } = await stand.run(line);
      assert.equal(code, 0, err);
    }
    await use(stand);
  });
}

test('a snapshot that its origin does not follow is taken back, alone and with others of the same commit', async () => {
  await withStand(async ({ live, run: command, names }) => {
    live.deaf.add('vg/o');
    for (const line of [
      'lvcreate -s -L4M -ns vg/o',
      'lvcreate -s -L4M -n%s-now vg/p vg/o',
      'lvcreate -s -an -L4M vg/o',
    ]) {
      const { code, out, err } = await command(line);
      assert.deepEqual([code, /created/.test(out)], [5, false], line);
      assert.match(err, /vg\/o is not served as its metadata says: its device hangs/);
      assert.match(err, /Failed to activate new LV vg\//);
      assert.equal(await names(), 'o p');
    }
    // Of another origin it is none of its business.
    assert.equal((await command('lvcreate -s -L4M -nother vg/p')).code, 0);
    live.deaf.add('vg/new');
    assert.equal((await command('lvcreate -L4M -nnew vg')).code, 5);
    assert.equal(await names(), 'o other p');
  });
});

test('where the metadata can not be written any more, the snapshot is made invalid', async () => {
  await withStand(async ({ live, image, run: command, names }) => {
    live.deaf.add('vg/o');
    live.before = (method) => {
      const committed = live.calls.filter((call) => call.method === 'committed').length;
      if (method === 'prepare' && committed === 1) throw new CommandError('The disk has gone.');
    };
    live.calls.length = 0;
    const { code, out, err } = await command('lvcreate -s -L4M -c8k -ns vg/o');
    assert.deepEqual([code, out], [5, '']);
    assert.match(err, /The disk has gone\.\n.*remove abandoned LV\(s\) vg\/s before retrying\./);
    assert.equal(await names(), 'o p s');
    // Behind 1 MiB of metadata and two volumes.
    const header = decodeSnapshotHeader((await readFile(image)).subarray(17 * MIB, 18 * MIB), {
      device: image,
      offset: 0,
    });
    assert.deepEqual([header?.valid, header?.chunkSectors], [false, 16]);
    live.before = () => undefined;
    live.calls.length = 0;

    // Nor can the store be written: it is told.
    live.before = async (method) => {
      const committed = live.calls.filter((call) => call.method === 'committed').length;
      if (method !== 'prepare' || committed !== 1) return;
      await using file = await open(image, 'r+');
      await file.truncate(16 * MIB);
      throw new CommandError('The disk has gone.');
    };
    assert.match((await command('lvcreate -s -L4M -nt vg/o')).err, /WARNING: vg\/t is not what its origin was/);
  });
});
