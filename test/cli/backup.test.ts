/**
 * Incremental backups through the real daemon: by libnbd's and QEMU's tools, from what the contexts say changed, and by
 * `orion-lvm backup` and `restore`, with the daemon and without.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { handOver, stopLast } from '../helpers/hand-over.ts';
import { NbdWriter } from '../helpers/nbd-writer.ts';
import { mustRun, type Outcome, runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

const MIB = 2 ** 20;
const CHUNK = 4096;

class Stand {
  readonly folder: string;
  daemon: RunningDaemon | null = null;

  constructor(folder: string) {
    this.folder = folder;
  }

  get image(): string {
    return join(this.folder, 'pv0');
  }

  async start(): Promise<RunningDaemon> {
    this.daemon = await startDaemon([this.image]);
    return this.daemon;
  }

  async stop(): Promise<void> {
    await this.daemon?.stop();
    this.daemon = null;
  }

  get env(): NodeJS.ProcessEnv {
    const control = this.daemon === null ? '' : join(dirname(this.daemon.socket), 'control.sock');
    return { ORION_LVM_DEVICES: this.image, ORION_LVM_CONTROL: control, LVM_SYSTEM_DIR: this.folder };
  }

  run(...args: readonly string[]): Promise<Outcome> {
    return runProgram(join(CHECKOUT, 'bin/orion-lvm'), args, { cwd: this.folder, env: this.env });
  }

  must(...args: readonly string[]): Promise<string> {
    return mustRun(join(CHECKOUT, 'bin/orion-lvm'), args, { cwd: this.folder, env: this.env });
  }

  uri(lv: string): string {
    assert(this.daemon !== null);
    return this.daemon.uri(`vg/${lv}`);
  }

  /** Writes random bytes at these offsets. */
  async write(lv: string, ranges: readonly (readonly [number, number])[]): Promise<void> {
    const lines = ranges.map(([offset, length]) => `h.pwrite(os.urandom(${length}), ${offset})`);
    const env = { PATH: `/usr/bin:${process.env['PATH'] ?? ''}` };
    const script = `import os\n${lines.join('\n')}\nh.flush()`;
    await mustRun('nbdsh', ['-u', this.uri(lv), '-c', script], { env });
  }

  async content(lv: string): Promise<Buffer> {
    const path = join(this.folder, `content-${lv}`);
    await mustRun('nbdcopy', [this.uri(lv), path]);
    return readFile(path);
  }
}

/** A daemon with vg/o and vg/r, of 24 MiB each; vg/o has data at its head and in its middle. */
async function withStand(use: (stand: Stand) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const stand = new Stand(folder);
    await writeFile(stand.image, '');
    await truncate(stand.image, 256 * MIB);
    await stand.must('vgcreate', 'vg', stand.image);
    await stand.must('lvcreate', '-L24M', '-no', 'vg');
    await stand.must('lvcreate', '-L24M', '-nr', 'vg');
    await stand.start();
    try {
      await stand.write('o', [
        [0, 2 * MIB],
        [13 * MIB + 100, 5000],
      ]);
      await use(stand);
    } finally {
      await stand.stop();
    }
  });
}

function randomRanges(): (readonly [number, number])[] {
  return Array.from({ length: 6 }, () => {
    const length = randomInt(1, 60_000);
    return [randomInt(0, 24 * MIB - length), length] as const;
  });
}

/** Bytes that a map of a context names. */
async function mapped(uri: string, context: string): Promise<Uint8Array> {
  type Extent = { offset: number; length: number; type: number };
  const extents = JSON.parse(await mustRun('nbdinfo', ['--json', `--map=${context}`, uri])) as Extent[];
  const flags = new Uint8Array(24 * MIB);
  for (const { offset, length, type } of extents) flags.fill(type, offset, offset + length);
  return flags;
}

/** Fails unless the chunks that differ are named, and no others than those in `allowed`. */
function names(flags: Uint8Array, before: Buffer, now: Buffer, allowed: readonly (readonly [number, number])[]): void {
  for (let at = 0; at < now.length; at += CHUNK) {
    const end = at + CHUNK;
    if (!before.subarray(at, end).equals(now.subarray(at, end))) assert.equal(flags[at], 1, `chunk at ${at}`);
    if (flags[at] === 1)
      assert(
        allowed.some(([offset, length]) => offset < end && at < offset + length),
        `at ${at}`,
      );
  }
}

describe('what changed since a snapshot', () => {
  test('who selected what changed since a snapshot is not told about another one that has its name', async () => {
    await withStand(async (stand) => {
      await stand.must('lvcreate', '-s', '-L8M', '-c4k', '-nmonday', 'vg/o');
      const script = `
import errno, subprocess, sys
def changes(handle):
    found = []
    handle.block_status(1 << 20, 0, lambda context, offset, extents, error: found.extend(extents))
    return found
def refused(handle):
    try:
        changes(handle)
    except nbd.Error as error:
        return error.errnum == errno.EINVAL
    return False
print(changes(h), flush=True)
sys.stdin.readline()
print(refused(h), flush=True)
sys.stdin.readline()
print(refused(h), flush=True)
`;
      const uri = stand.uri('o');
      const begin = `h.add_meta_context("x-orion:changed:monday"); h.set_opt_mode(False); h.connect_uri("${uri}")`;
      const client = spawn('/usr/bin/nbdsh', ['-c', begin, '-c', script], {
        env: { ...process.env, PATH: `/usr/bin:${process.env['PATH'] ?? ''}` },
        stdio: ['pipe', 'pipe', 'inherit'],
      });
      let said = '';
      client.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
      const ended = once(client, 'exit');
      await waitFor('the first answer', () => said.includes('\n'));
      assert.equal(said, `[${MIB}, 0]\n`);
      await stand.write('o', [[0, 5000]]);
      await stand.must('lvremove', '-y', 'vg/monday');
      await stand.must('lvcreate', '-s', '-L8M', '-c4k', '-nmonday', 'vg/o');
      client.stdin.write('\n');
      await waitFor('the second answer', () => said.split('\n').length === 3);
      assert(stand.daemon !== null);
      await handOver(stand.daemon);
      client.stdin.end('\n');
      assert.deepEqual(await ended, [0, null]);
      assert.equal(said, `[${MIB}, 0]\nTrue\nTrue\n`);
      await stopLast(stand.daemon);
    });
  });

  test('nbdinfo and qemu-img see it on the origin and between snapshots, under both names', async () => {
    await withStand(async (stand) => {
      await stand.must('lvcreate', '-s', '-L20M', '-c4k', '-ns1', 'vg/o');
      const first = randomRanges();
      await stand.write('o', first);
      await stand.must('lvcreate', '-s', '-L20M', '-c4k', '-ns2', 'vg/o');
      const second = randomRanges();
      await stand.write('o', second);
      const [s1, s2, o] = [await stand.content('s1'), await stand.content('s2'), await stand.content('o')];
      names(await mapped(stand.uri('o'), 'x-orion:changed:s1'), s1, o, [...first, ...second]);
      names(await mapped(stand.uri('o'), 'qemu:dirty-bitmap:s2'), s2, o, second);
      names(await mapped(stand.uri('s2'), 'qemu:dirty-bitmap:s1'), s1, s2, [...first, ...second]);
      const info = await mustRun('nbdinfo', [stand.uri('s2')]);
      assert.match(info, /x-orion:changed:s1/);
      assert.match(info, /qemu:dirty-bitmap:s1/);
      assert.doesNotMatch(info, /:s2/);
      // QEMU shows the bitmap in the place of the allocation: what is dirty is no data.
      const options = `driver=nbd,path=${stand.daemon?.socket},export=vg/o,x-dirty-bitmap=qemu:dirty-bitmap:s2`;
      const shown = await mustRun('qemu-img', ['map', '--output=json', '--image-opts', options]);
      const dirty = new Uint8Array(24 * MIB);
      for (const extent of JSON.parse(shown) as { start: number; length: number; data: boolean }[]) {
        if (!extent.data) dirty.fill(1, extent.start, extent.start + extent.length);
      }
      assert.deepEqual(dirty, await mapped(stand.uri('o'), 'qemu:dirty-bitmap:s2'));
      // Of a snapshot that has gone, or is full, nobody is told anything.
      await stand.must('lvcreate', '-s', '-l3', '-c4k', '-nfull', 'vg/o');
      assert.equal((await mapped(stand.uri('o'), 'x-orion:changed:full'))[0], 0);
      await stand.write('o', [[0, 20 * MIB]]);
      const refused = await runProgram('nbdinfo', ['--map=x-orion:changed:full', stand.uri('o')]);
      assert.notEqual(refused.status, 0);
      await stand.must('lvremove', '-y', 'vg/full');
      assert.doesNotMatch(await mustRun('nbdinfo', [stand.uri('o')]), /:full/);
    });
  });
});

describe('backup and restore', () => {
  test('a full backup and three increments of random writes give back every state, with a daemon and without', async () => {
    await withStand(async (stand) => {
      const states: Buffer[] = [];
      for (const step of [0, 1, 2, 3]) {
        if (step > 0) await stand.write('o', [[4096 * step, 9000], ...randomRanges()]);
        await stand.must('lvcreate', '-s', '-L28M', '-c8k', `-ns${step}`, 'vg/o');
        const since = step === 0 ? [] : ['--since', `s${step - 1}`];
        // One of them by a command that opens the devices itself.
        if (step === 2) await stand.stop();
        const said = await stand.must('backup', `vg/s${step}`, ...since, `b${step}`);
        assert.match(said, /backed up to b\d: \d+\.\d\d MiB of data/);
        if (step === 2) await stand.start();
        states.push(await stand.content(`s${step}`));
      }
      assert((await readFile(join(stand.folder, 'b1'))).length < MIB);
      // From a stream, the same bytes but for the date.
      const copy = await readFile(join(stand.folder, 'b0'));
      assert.equal((await stand.must('backup', 'vg/s0', '-')).includes('ORIONBAK'), true);
      assert.match(await stand.must('restore', '--verify', 'b0', 'b1', 'b2', 'b3'), /b3 is a sound backup/);
      await stand.must('restore', '-y', 'b0', 'b1', 'b2', 'b3', 'vg/r');
      assert((await stand.content('r')).equals(states[3]!));
      await stand.must('restore', '-y', 'b0', 'b1', 'vg/r');
      assert((await stand.content('r')).equals(states[1]!));
      await stand.must('restore', '-y', 'b2', 'vg/r');
      assert((await stand.content('r')).equals(states[2]!));
      // What does not belong there changes nothing.
      for (const files of [['b1'], ['b0', 'b2'], ['b1', 'b0']]) {
        const { status, stderr } = await stand.run('restore', '-y', ...files, 'vg/r');
        assert.equal(status, 5);
        assert.match(stderr, /does not apply|was taken since|can only be the first/);
      }
      await writeFile(join(stand.folder, 'short'), copy.subarray(0, -1));
      const short = await stand.run('restore', '-y', 'short', 'vg/r');
      assert.deepEqual([short.status, /the file ends/.test(short.stderr)], [5, true]);
      copy[copy.length - 300]! ^= 1;
      await writeFile(join(stand.folder, 'bad'), copy);
      assert.equal((await stand.run('restore', '-y', 'bad', 'vg/r')).status, 5);
      assert((await stand.content('r')).equals(states[2]!));
      // Onto an origin, without a daemon: its snapshots keep what they had.
      await stand.stop();
      await stand.must('restore', '-y', 'b3', 'vg/r');
      await stand.must('restore', '-y', 'b0', 'b1', 'vg/o');
      await stand.start();
      assert((await stand.content('r')).equals(states[3]!));
      assert((await stand.content('o')).equals(states[1]!));
      for (const [step, state] of states.entries()) assert((await stand.content(`s${step}`)).equals(state));
    });
  });

  test('what is in use, asked about, too small, or not there is refused', async () => {
    await withStand(async (stand) => {
      await stand.must('backup', 'vg/o', 'b');
      await stand.must('lvcreate', '-L4M', '-nsmall', 'vg');
      await stand.must('lvcreate', '-s', '-L8M', '-ns', 'vg/o');
      const refused = async (args: readonly string[], message: RegExp, status = 5): Promise<void> => {
        const outcome = await stand.run(...args);
        assert.deepEqual([outcome.status, message.test(outcome.stderr)], [status, true], outcome.stderr);
      };
      await refused(['restore', 'b', 'vg/r'], /overwrite logical volume vg\/r\? \[y\/n\]/);
      await refused(['restore', '-y', 'b', 'vg/small'], /has 4194304 bytes/);
      await refused(['restore', '-y', 'b', 'vg/none'], /none/);
      await refused(['restore', '-y', 'vg/r'], /Please provide files/, 3);
      await refused(['backup', 'vg/o', 'b'], /exists already/);
      await refused(['backup', 'vg/o', '--since', 'r', 'c'], /no snapshot with which/);
      await refused(['backup', 'vg/s', '--since', 's', 'c'], /differ from itself/, 3);
      await refused(['backup', 'vg/o', '--since', 'none', 'c'], /no snapshot with which/);
      await refused(['backup', 'vg/o', 'nowhere/c'], /can't be written/);
      const writer = new NbdWriter(() => stand.daemon?.socket ?? '', 'vg/r', MIB);
      writer.start();
      await waitFor('writes', () => writer.writes > 0);
      await refused(['restore', '-y', 'b', 'vg/r'], /1 client has it open/);
      await writer.stop();
      assert.deepEqual(
        (await readdir(stand.folder)).filter((name) => /^\.?c|part/.test(name)),
        [],
      );
    });
  });

  test('killed in the middle, it leaves no file behind', async () => {
    await withTemporaryFolder(async (folder) => {
      const stand = new Stand(folder);
      await writeFile(stand.image, '');
      await truncate(stand.image, 256 * MIB);
      await stand.must('vgcreate', 'vg', stand.image);
      await stand.must('lvcreate', '-L200M', '-no', 'vg');
      // Beyond the metadata, all of it is data.
      const file = await readFile(stand.image);
      for (let at = 2 * MIB; at < 210 * MIB; at += MIB) randomBytes(64).copy(file, at);
      await writeFile(stand.image, file);
      for (const [signal, code] of [
        ['SIGTERM', 5],
        ['SIGKILL', null],
      ] as const) {
        const env = { ...process.env, ...stand.env };
        const child = spawn(join(CHECKOUT, 'bin/orion-lvm'), ['backup', 'vg/o', 'image'], { cwd: folder, env });
        const ended = once(child, 'exit');
        await waitFor('the backup to begin', async () =>
          (await readdir(folder)).some((name) => name.endsWith('.part')),
        );
        child.kill(signal);
        assert.deepEqual((await ended)[0], code);
        const left = (await readdir(folder)).filter((name) => name.includes('image'));
        assert.equal(left.includes('image'), false);
        if (signal === 'SIGTERM') assert.deepEqual(left, []);
      }
      assert.equal((await stand.run('backup', 'vg/o', 'image')).status, 0);
      assert.match(await stand.must('restore', '--verify', 'image'), /sound/);
    });
  });
});
