/** Devices that come, go and come back under a running daemon, and what becomes of the volumes on them. */
import assert from 'node:assert/strict';
import { copyFile, mkdir, rename, rm, truncate } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { ControlClient } from '../../src/daemon/client/control-client.ts';
import type { DaemonStatus } from '../../src/daemon/status.ts';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { type Image, imagesOf, linear, vgText, writeImages } from '../lvm/images.ts';
import { CMD, request, WireClient } from '../nbd/wire.ts';
import { TestGroup } from './images.ts';

const LVS = [
  { name: 'one', segments: [linear(0, 4, 'pv0', 0)] },
  { name: 'two', segments: [linear(0, 4, 'pv1', 0)] },
];

class Stand {
  readonly daemon: RunningDaemon;
  /** Where devices are looked for. */
  readonly devices: string;
  /** Where nobody looks. */
  readonly shelf: string;
  readonly #control: ControlClient;

  constructor(daemon: RunningDaemon, devices: string, shelf: string) {
    this.daemon = daemon;
    this.devices = devices;
    this.shelf = shelf;
    this.#control = new ControlClient(join(dirname(daemon.socket), 'control.sock'));
  }

  /** "active", "active: PROBLEM" or the reason why not; null: there is no such volume. */
  async outcome(name: string): Promise<string | null> {
    const { exports } = (await this.#control.request('GET', '/v1/status')) as DaemonStatus;
    const found = exports.find((each) => each.name === name);
    if (found === undefined) return null;
    if (found.state !== 'active') return found.reason ?? found.state;
    return found.problem === undefined ? 'active' : `active: ${found.problem}`;
  }

  async becomes(name: string, expected: RegExp): Promise<void> {
    let last: string | null = null;
    await waitFor(`${name} to be ${expected.source}`, async () => {
      last = await this.outcome(name);
      return last !== null && expected.test(last);
    }).catch((error: unknown) => {
      throw new Error(`${String(error)}; it is: ${last}\n${this.daemon.log()}`, { cause: error });
    });
  }

  put(name: string): Promise<void> {
    return rename(join(this.shelf, name), join(this.devices, name));
  }
  take(name: string): Promise<void> {
    return rename(join(this.devices, name), join(this.shelf, name));
  }

  async content(name: string): Promise<Buffer> {
    const path = join(this.shelf, 'content');
    await mustRun('nbdcopy', [this.daemon.uri(name), path]);
    const { stdout } = await runProgram('sha256sum', [path]);
    return Buffer.from(stdout.split(' ')[0] ?? '', 'hex');
  }
}

/** Runs `use` with a daemon that serves base/lv, and the devices of vg1 on the shelf. */
async function withStand(use: (stand: Stand, images: readonly Image[]) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const [devices, shelf] = [join(folder, 'devices'), join(folder, 'shelf')];
    await mkdir(devices);
    await mkdir(shelf);
    await new TestGroup(join(devices, 'base'), 'base').write([{ name: 'lv', extent: 0, extents: 1 }]);
    const images = imagesOf(vgText(LVS), shelf);
    await writeImages(images);
    const daemon = await startDaemon([devices]);
    try {
      await use(new Stand(daemon, devices, shelf), images);
    } finally {
      assert.equal(await daemon.stop(), 0, daemon.log());
    }
  });
}

test('a volume group waits for its last device; one that vanishes takes only its volumes, which return with it', async () => {
  await withStand(async (stand) => {
    await stand.put('pv0');
    await stand.becomes('vg1/one', /^volume group vg1 waits for physical volume PvPvPv-\S+ \(last written to .*\)$/);
    await stand.becomes('vg1/two', /waits for|is missing/);
    assert.equal(await stand.outcome('base/lv'), 'active');
    await stand.put('pv1');
    await stand.becomes('vg1/one', /^active$/);
    await stand.becomes('vg1/two', /^active$/);

    const write = ['-c', 'h.pwrite(b"x" * 65536, 65536)', '-c', 'h.flush()'];
    const env = { PATH: `/usr/bin:${process.env['PATH'] ?? ''}` };
    await mustRun('/usr/bin/nbdsh', ['-u', stand.daemon.uri('vg1/two'), ...write], { env });
    const content = await stand.content('vg1/two');

    await stand.take('pv1');
    await stand.becomes('vg1/two', /^physical volume PvPvPv-\S+ \(last written to .*\) is missing$/);
    assert.equal(await stand.outcome('vg1/one'), 'active');
    const { stderr } = await runProgram('nbdinfo', [stand.daemon.uri('vg1/two')]);
    assert.match(stderr, /No such file or directory for export: vg1\/two/);

    await rename(join(stand.shelf, 'pv1'), join(stand.devices, 'other-name'));
    await stand.becomes('vg1/two', /^active$/);
    assert.deepEqual(await stand.content('vg1/two'), content, 'under its new path');

    await rename(join(stand.devices, 'other-name'), join(stand.devices, 'third-name'));
    await stand.becomes('vg1/two', /^active$/);
    assert.deepEqual(await stand.content('vg1/two'), content, 'and renamed while it is served');

    await copyFile(join(stand.devices, 'third-name'), join(stand.shelf, 'copy'));
    await rename(join(stand.shelf, 'copy'), join(stand.devices, 'third-name'));
    // It goes and comes back.
    await waitFor('the other file', () => stand.daemon.log().includes('is another device now'));
    await stand.becomes('vg1/two', /^active$/);
    assert.deepEqual(await stand.content('vg1/two'), content, 'and from another file in its place');
  });
});

test('a group that was lost as a whole waits again until it is complete', async () => {
  await withStand(async (stand) => {
    await stand.put('pv0');
    await stand.put('pv1');
    await stand.becomes('vg1/two', /^active$/);
    await stand.take('pv0');
    await stand.take('pv1');
    await waitFor('the group to be gone', async () => (await stand.outcome('vg1/one')) === null);
    await stand.put('pv1');
    await stand.becomes('vg1/two', /^volume group vg1 waits for/);
    await stand.put('pv0');
    await stand.becomes('vg1/two', /^active$/);
    await stand.becomes('vg1/one', /^active$/);
  });
});

test('a copy of a physical volume: what is served goes on, what is new is refused, and both names are told', async () => {
  await withStand(async (stand) => {
    await stand.put('pv0');
    await stand.put('pv1');
    await stand.becomes('vg1/one', /^active$/);
    await copyFile(join(stand.devices, 'pv0'), join(stand.shelf, 'copy'));
    await stand.put('copy');
    await stand.becomes('vg1/one', /^active: PV PvPvPv-\S+ is on \S+\/pv0, which is in use, and also on \S+\/copy$/);
    await stand.take('copy');
    await stand.becomes('vg1/one', /^active$/);

    await stand.take('pv0');
    await stand.take('pv1');
    await waitFor('the group to be gone', async () => (await stand.outcome('vg1/one')) === null);
    await stand.put('copy');
    await stand.put('pv0');
    await stand.put('pv1');
    await stand.becomes('vg1/one', /^Cannot activate .* PV PvPvPv-\S+ is on \S+\/(pv0|copy) and \S+\/(pv0|copy)\.$/);
    assert.notEqual((await stand.outcome('vg1/one'))?.startsWith('active'), true);
    await rm(join(stand.devices, 'copy'));
    await stand.becomes('vg1/one', /^active$/);
  });
});

test('another file in the place of a physical volume: nobody is taken along to it without noticing', async () => {
  await withStand(async (stand) => {
    await stand.put('pv0');
    await stand.put('pv1');
    await stand.becomes('vg1/two', /^active$/);
    const [one, two] = [await WireClient.open(stand.daemon.socket), await WireClient.open(stand.daemon.socket)];
    await one.attach('vg1/one');
    await two.attach('vg1/two');
    const path = join(stand.devices, 'pv1');
    await copyFile(path, join(stand.shelf, 'older'));
    const written = Buffer.alloc(4096, 'x');
    two.send(request({ type: CMD.write, offset: 0, payload: written }), request({ type: CMD.flush }));
    for (let i = 0; i < 2; i++) assert.equal((await two.reply()).error, 0);

    await rename(path, join(stand.shelf, 'newer'));
    await rename(join(stand.shelf, 'older'), path);
    assert.equal((await two.rest()).length, 0);
    two.close();
    await stand.becomes('vg1/two', /^active$/);
    one.send(request({ type: CMD.read, offset: 0, length: 4096 }));
    assert.equal((await one.reply(4096)).error, 0, 'who has nothing on it stays');
    one.close();
  });
});

test('a device without a size any more is gone', async () => {
  await withStand(async (stand) => {
    await stand.put('pv0');
    await stand.put('pv1');
    await stand.becomes('vg1/two', /^active$/);
    await truncate(join(stand.devices, 'pv1'), 0);
    await stand.becomes('vg1/two', /^physical volume \S+ \(last written to .*\) is missing$/);
    assert.equal(await stand.outcome('vg1/one'), 'active');
  });
});
