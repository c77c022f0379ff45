/**
 * COW snapshots, written in turn by our daemon and by the kernel: each finds every byte that the other left, and goes on with a
 * merge that the other began, and ends it.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { test } from 'node:test';
import { type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT, type Golden, unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';
import { runInVm } from '../helpers/vm.ts';

type Hashes = ReadonlyMap<string, string>;

async function hashOf(daemon: RunningDaemon, golden: Golden, name: string): Promise<string> {
  const path = join(golden.folder, `${name}.copy`);
  await mustRun('nbdcopy', [daemon.uri(`${golden.vgName}/${name}`), path]);
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}

/** Random writes of any size, each read back and verified. */
async function write(uri: string, name: string, seed: number): Promise<void> {
  const job = `--name=${name} --ioengine=nbd --uri=${uri} --rw=randwrite --iodepth=16 --randseed=${seed}`;
  const sizes = '--bsrange=512-32k --size=32m --io_size=768k --end_fsync=1';
  const verify = `--verify=crc32c --verify_fatal=1 --verify_state_save=0`;
  await mustRun('fio', `${job} ${sizes} ${verify}`.split(' '));
}

/** Our turn: what the other side left is compared, everything is written by fio, and hashed; `merging`: a merge ends. */
async function ourTurn(golden: Golden, left: Hashes, seed: number, merging: string | null = null): Promise<Hashes> {
  const daemon = await startDaemon(golden.images);
  const hashes = new Map<string, string>();
  try {
    for (const [name, hash] of left) assert.equal(await hashOf(daemon, golden, name), hash, name);
    // All at the same time: copies for the snapshots, and the snapshots' own.
    await Promise.all([...left.keys()].map((name) => write(daemon.uri(`${golden.vgName}/${name}`), name, seed)));
    const control = join(dirname(daemon.socket), 'control.sock');
    if (merging !== null) await waitFor('the end of the merge', async () => !(await exists(golden, merging, control)));
    for (const name of left.keys()) hashes.set(name, await hashOf(daemon, golden, name));
  } finally {
    assert.equal(await daemon.stop(), 0, daemon.log());
  }
  return hashes;
}

/** The kernel's turn: it compares, and says what it leaves. */
async function kernelTurn(golden: Golden, left: Hashes, ...action: readonly string[]): Promise<Hashes> {
  const manifest = [...left].map(([name, hash]) => `${name} ${hash}`).join('\n');
  const { status, output } = await runInVm(join(import.meta.dirname, 'snapshots.sh'), {
    args: [golden.vgName, manifest, ...action],
    disks: golden.images,
    timeoutSeconds: 500,
  });
  assert.equal(status, 0, output);
  assert.match(output, /^done\r?$/m, output);
  return new Map(
    [...output.matchAll(/^now (\S+) ([0-9a-f]{64})\r?$/gm)].map(([, name = '', hash = '']) => [name, hash]),
  );
}

/** Whether a snapshot, merging or not, is in the metadata. */
async function exists(golden: Golden, name: string, control: string): Promise<boolean> {
  const env = { ORION_LVM_DEVICES: golden.images.join(','), ORION_LVM_CONTROL: control, LVM_SYSTEM_DIR: golden.folder };
  const lines = await mustRun(join(CHECKOUT, 'bin/lvs'), ['-a', '--noheadings', '-olv_name', golden.vgName], { env });
  return lines.includes(name);
}

/** We begin to merge a snapshot, and are killed. Gives the hashes as they are then, for whoever merges on. */
async function ourUnfinishedMerge(golden: Golden, left: Hashes, name: string): Promise<Hashes> {
  const daemon = await startDaemon(golden.images);
  const control = join(dirname(daemon.socket), 'control.sock');
  const env = { ORION_LVM_CONTROL: control, LVM_SYSTEM_DIR: golden.folder };
  await mustRun(join(CHECKOUT, 'bin/lvconvert'), ['--merge', '-b', `${golden.vgName}/${name}`], { env });
  daemon.child.kill('SIGKILL');
  await daemon.stop();
  assert.ok(await exists(golden, `[${name}]`, ''), 'the merge is not at its end');
  const merged = new Map(left);
  merged.set('origin', left.get(name) ?? '');
  merged.delete(name);
  return merged;
}

test("our daemon and the kernel write an origin and its snapshots in turn, and end each other's merges", async () => {
  await withTemporaryFolder(async (folder) => {
    const golden = await unpackGolden('snap', folder);
    let hashes: Hashes = new Map(golden.volumes.map(({ name, sha256 }) => [name, sha256]));
    hashes = await ourTurn(golden, hashes, 1);
    hashes = await kernelTurn(golden, hashes, 'merge', 's2');
    assert.deepEqual([...hashes.keys()].toSorted(), ['origin', 's1'], 'what is merging is no volume any more');
    assert.ok(await exists(golden, '[s2]', ''), 'the merge is not at its end');
    // We go on with the kernel's merge while everything is written, and remove what is merged.
    hashes = await ourTurn(golden, hashes, 2, 's2');
    hashes = await ourUnfinishedMerge(golden, hashes, 's1');
    hashes = await kernelTurn(golden, hashes, 'finish', 's1');
    assert.deepEqual([...hashes.keys()], ['origin']);
    assert.ok(!(await exists(golden, 's1', '')));
    await ourTurn(golden, hashes, 3);
  });
});
