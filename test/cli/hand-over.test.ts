/**
 * The same commands with and without a daemon that holds the devices: the same words on both streams and the same exit code, as
 * long as nothing is active; and what differs once something is.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { type Outcome, runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';

const IMAGES = ['pv0.img', 'pv1.img'];
const PV_BYTES = 32 * 2 ** 20;

/** A folder with two images; commands run in it, with the daemon once it was started. */
class Place {
  readonly folder: string;
  daemon: RunningDaemon | null = null;

  constructor(folder: string) {
    this.folder = folder;
  }

  static async open(t: TestContext): Promise<Place> {
    const place = new Place(await mkdtemp(join(tmpdir(), 'orion-hand-over-')));
    t.after(async () => {
      await place.daemon?.stop();
      await rm(place.folder, { recursive: true, force: true });
    });
    for (const image of [...IMAGES, 'pv2.img']) {
      await writeFile(join(place.folder, image), '');
      await truncate(join(place.folder, image), PV_BYTES);
    }
    await writeFile(
      join(place.folder, 'idle.toml'),
      '[activation]\nauto_activation_volume_list = []\n[log]\nlevel = "info"\n',
    );
    assert.equal((await place.run(['vgcreate', 'vg0', ...IMAGES])).status, 0);
    assert.equal((await place.run(['lvcreate', '-an', '-Zn', '-L8m', '-na', 'vg0'])).status, 0);
    return place;
  }

  async start(...args: readonly string[]): Promise<void> {
    const devices = IMAGES.map((image) => join(this.folder, image));
    this.daemon = await startDaemon(devices, ['--workers', '0', ...args]);
  }

  get env(): NodeJS.ProcessEnv {
    const control = this.daemon === null ? '' : join(dirname(this.daemon.socket), 'control.sock');
    return {
      ORION_LVM_DEVICES: IMAGES.join(','),
      ORION_LVM_CONTROL: control,
      LVM_SYSTEM_DIR: this.folder,
    };
  }

  run(argv: readonly string[], input?: string, env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
    const options = { cwd: this.folder, env: { ...this.env, ...env }, ...(input === undefined ? {} : { input }) };
    return runProgram(join(CHECKOUT, 'bin/orion-lvm'), argv, options);
  }
}

/** What differs from run to run. */
function plain({ status, stdout, stderr }: Outcome, folder: string): Outcome {
  const strip = (text: string): string =>
    text
      .replaceAll(folder, 'FOLDER')
      .replaceAll(/\b\w{6}(?:-\w{4}){5}-\w{6}\b/g, 'UUID')
      .replaceAll(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, 'TIME')
      .replaceAll(/_\d{5}-\d+\.vg/g, '_N.vg');
  return { status, stdout: strip(stdout), stderr: strip(stderr) };
}

/** In order; with what is typed at prompts. */
const COMMANDS: readonly (readonly [string, string?])[] = [
  ['lvs'],
  ['lvs -a -o+devices,lv_active,lv_permissions --reportformat json'],
  ['vgs -o+vg_seqno --noheadings'],
  ['pvs -o+pv_used --units s'],
  ['lvs --segments -o+seg_pe_ranges --reportformat json_std -S lv_name=a'],
  ['lvdisplay vg0/a'],
  ['vgdisplay -c vg0'],
  ['pvdisplay -m pv0.img'],
  ['lvscan'],
  ['vgck vg0'],
  ['lvs nosuch'],
  ['lvs --nosuch'],
  ['nosuch'],
  ['lvcreate -an -Zn -l2 -nb vg0'],
  ['lvcreate -an -Zn -l2 -nb vg0'],
  ['lvcreate -an -Zn -l999 -nc vg0'],
  ['lvcreate -t -an -Zn -l1 -nc vg0'],
  ['lvextend -L+4m vg0/b pv1.img'],
  ['lvreduce -l1 vg0/b'],
  ['lvresize -l3 vg0/b'],
  ['lvrename vg0 b c'],
  ['lvchange --addtag t vg0/c'],
  ['lvchange -pr vg0/c'],
  ['lvchange -prw vg0/c'],
  ['lvchange -an vg0/c'],
  ['vgchange --addtag u vg0'],
  ['pvchange -xn pv1.img'],
  ['pvchange -xy pv1.img'],
  ['vgextend vg0 pv2.img'],
  ['pvresize pv2.img --setphysicalvolumesize 16m', 'n\n'],
  ['vgreduce vg0 pv2.img'],
  ['pvremove pv2.img'],
  ['vgsplit vg0 vg1 pv1.img'],
  ['lvremove vg0/c'],
  ['vgsplit vg0 vg1 pv1.img'],
  ['vgmerge vg0 vg1'],
  ['vgrename vg0 vg2'],
  ['vgexport vg2'],
  ['lvs vg2'],
  ['vgimport vg2'],
  ['vgcfgbackup -f text vg2'],
  ['vgcfgrestore -f text vg2'],
  ['--version'],
  ['lvs --help'],
  ['vgremove vg2', 'maybe\nn\n'],
  ['vgremove vg2', 'y\n'],
  ['pvs'],
];

describe('a daemon that has the devices', () => {
  test('runs commands with the same words and exit codes', { timeout: 240_000 }, async (t) => {
    const [alone, served] = [await Place.open(t), await Place.open(t)];
    await served.start('--config', join(served.folder, 'idle.toml'));
    for (const [line, input] of COMMANDS) {
      const argv = line.split(' ');
      const [expected, found] = await Promise.all([alone.run(argv, input), served.run(argv, input)]);
      assert.deepEqual(plain(found, served.folder), plain(expected, alone.folder), line);
    }
    assert.ok(served.daemon?.log().includes('pv2.img'), 'the daemon took a device that a command added');
  });

  test('a new volume is served at once, and is asked about before it goes', async (t) => {
    const place = await Place.open(t);
    await place.start();
    assert.equal((await place.run(['lvcreate', '-l3', '-nnew', 'vg0'])).status, 0);
    const { stdout } = await place.run(['lvs', '--noheadings', '-olv_name,lv_attr,lv_active,lv_device_open']);
    assert.deepEqual(
      stdout
        .trim()
        .split('\n')
        .map((line) => line.trim().split(/\s+/)),
      [
        ['a', '-wi-a-----', 'active'],
        ['new', '-wi-a-----', 'active'],
      ],
    );
    const asked = await place.run(['lvremove', 'vg0/new'], 'n\n');
    assert.equal(
      asked.stderr,
      'Do you really want to remove active logical volume vg0/new? [y/n]:   Logical volume vg0/new not removed.\n',
    );
    assert.equal(asked.status, 5);
    const reduced = await place.run(['lvreduce', '-l1', 'vg0/new'], 'y\n');
    assert.equal(reduced.status, 0, reduced.stderr);
    assert.match(
      reduced.stderr,
      /WARNING: Reducing active logical volume to 4\.00 MiB\.\n {2}THIS MAY DESTROY YOUR DATA/,
    );
    for (const [line, words] of [
      ['vgexport vg0', 'Volume group "vg0" has active logical volumes'],
      ['vgchange -u vg0', 'Volume group has active logical volumes'],
      ['pvchange -u pv0.img', 'Volume group containing pv0.img has active logical volumes'],
      ['vgsplit vg0 vg1 -n vg0/a', 'Logical volume vg0/a must be inactive.'],
    ] as const) {
      const refused = await place.run(line.split(' '));
      assert.equal(refused.status, 5, line);
      assert.ok(refused.stderr.includes(words), `${line}: ${refused.stderr}`);
    }
    assert.match(
      (await place.run(['vgchange', '-an', 'vg0'])).stdout,
      /^ {2}0 logical volume\(s\) in volume group "vg0" now/,
    );
    assert.match(
      (await place.run(['vgchange', '-ay', 'vg0'])).stdout,
      /^ {2}2 logical volume\(s\) in volume group "vg0" now/,
    );
    assert.equal((await place.run(['lvremove', '-y', 'vg0/new', 'vg0/a'])).status, 0);
  });

  test('decisions about activation hold over scans', async (t) => {
    const place = await Place.open(t);
    await place.start();
    const active = async (): Promise<string> =>
      (await place.run(['lvs', '--noheadings', '-olv_name', '-S', 'lv_active=active'])).stdout.trim();
    assert.equal(await active(), 'a');
    assert.equal((await place.run(['lvchange', '--monitor', 'y', 'vg0/a'])).status, 0);
    await place.run(['lvchange', '-an', 'vg0/a']);
    assert.equal(await active(), '');
    const monitored = await place.run(['lvchange', '--poll', 'y', 'vg0/a']);
    assert.deepEqual([monitored.status, monitored.stderr], [5, '  Logical volume vg0/a is not active.\n']);
    const rescanned = await place.run(['rescan']);
    assert.equal(rescanned.status, 0, rescanned.stderr);
    assert.equal(await active(), '');
    await place.run(['lvchange', '-ky', 'vg0/a']);
    const skipped = await place.run(['lvchange', '-ay', 'vg0/a']);
    assert.equal(skipped.status, 0, skipped.stderr);
    assert.equal(await active(), '', 'flagged to be skipped');
    await place.run(['lvchange', '-ay', '-K', 'vg0/a']);
    assert.equal(await active(), 'a');
    await place.run(['rescan']);
    assert.equal(await active(), 'a', 'the flag does not deactivate');
  });

  test('two commands at once on one volume group', async (t) => {
    const place = await Place.open(t);
    await place.start();
    const outcomes = await Promise.all(
      ['x', 'y', 'z'].map((name) => place.run(['lvcreate', '-l1', '-n', name, 'vg0'])),
    );
    for (const { status, stderr } of outcomes) assert.equal(status, 0, stderr);
    const { stdout } = await place.run(['lvs', '--noheadings', '-olv_name,lv_active']);
    assert.deepEqual(
      stdout.trim().split(/\s+/),
      ['a', 'x', 'y', 'z'].flatMap((name) => [name, 'active']),
    );
  });
});

describe('where there is no daemon for a command', () => {
  test('a socket that nobody answers at, another daemon’s devices, no socket', async (t) => {
    const place = await Place.open(t);
    const stale = join(place.folder, 'stale.sock');
    const server = createServer().listen(stale);
    await waitFor('the socket', () => server.listening);
    await new Promise((resolve) => server.close(resolve));
    await writeFile(join(place.folder, 'file'), '');
    const other = await Place.open(t);
    await other.start();
    const foreign = other.env['ORION_LVM_CONTROL'] ?? '';
    for (const control of [stale, 'file', 'nowhere', '', foreign]) {
      const { status, stdout, stderr } = await place.run(['lvs', '--noheadings', '-olv_name'], undefined, {
        ORION_LVM_CONTROL: control,
      });
      assert.deepEqual([status, stdout.trim(), stderr], [0, 'a', ''], control);
    }
    const { status, stderr } = await place.run(['rescan']);
    assert.equal(status, 5);
    assert.match(stderr, /No orion-lvmd runs here/);
  });

  for (const [signal, words] of [
    ['SIGKILL', /orion-lvmd .*went away/],
    ['SIGTERM', /\[n\]\n {2}Volume group "vg0" not removed\n$/],
  ] as const) {
    test(`a daemon that goes away by ${signal} while a command asks`, async (t) => {
      const place = await Place.open(t);
      await place.start();
      const before = await readFile(join(place.folder, 'pv0.img'));
      const { code, said } = await interrupted(place, () => place.daemon?.child.kill(signal));
      assert.equal(code, 5, said);
      assert.match(said, words);
      assert.equal(said.match(/\[y\/n\]/g)?.length, 1, 'it is not run a second time');
      assert.ok(before.equals(await readFile(join(place.folder, 'pv0.img'))), 'nothing was removed');
      await place.daemon?.stop();
      place.daemon = null;
      assert.equal((await place.run(['lvs', '--noheadings', '-olv_name'])).stdout.trim(), 'a');
    });
  }
});

/** vgremove, which asks; then `during` happens, and the answer is yes. */
async function interrupted(
  place: Place,
  during: () => void,
): Promise<{ readonly code: unknown; readonly said: string }> {
  const child = spawn(join(CHECKOUT, 'bin/orion-lvm'), ['vgremove', 'vg0'], {
    cwd: place.folder,
    env: { ...process.env, ...place.env },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let said = '';
  child.stderr.on('data', (text: Buffer) => (said += text.toString()));
  const closed = new Promise((resolve) => child.once('close', resolve));
  await waitFor('the question', () => said.includes('[y/n]'));
  const ended = new Promise((resolve) => place.daemon?.child.once('exit', resolve));
  during();
  await ended;
  child.stdin.end('y\n');
  return { code: await closed, said };
}
